"""Diagnostics of the score stage: the texts that they compare, and the figures of every system.

All texts are compared as words: the form that the tokenizer reads, split by sacreBLEU's tokenizer of the language
unless it is tokenised already. diagnostics.json is written next to scores.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kdmt import languages
from kdmt.config import Context, Decode, Diagnostics, Pipeline
from kdmt.corpus import prepared
from kdmt.corpus.alignment import spread
from kdmt.corpus.context import join_context, split_context, without_context
from kdmt.corpus.direction_codecs import read_directions
from kdmt.corpus.lines import iterate_lines, read_lines
from kdmt.decode.engines.translator import Translator
from kdmt.languages import Direction
from kdmt.score.coverage import Aligner
from kdmt.score.lexical import RareWords
from kdmt.score.metrics import bleu_metric, main_metric
from kdmt.score.replication import source_prefix
from kdmt.score.system_diagnostics import (
    REFERENCE,
    DiagnosticsRow,
    Example,
    Knowledge,
    Measured,
    Outputs,
    SystemDiagnostics,
    TestText,
    TrainingOutputs,
    TrainingText,
    Words,
    counts,
    diversity,
    find_examples,
    find_training_examples,
    kind_scores,
    measure_outputs,
    measure_training,
    percentages,
)
from kdmt.score.systems import SystemRun, Way
from kdmt.score.test_sets import TestSet
from kdmt.score.translations import Decoded, Translations
from kdmt.stages.references import join_words
from kdmt.stages.workspace import Workspace

SAMPLE = "train"  # folder of the translations of training sentences, inside that of the translations of test sets
_ALIGNED_PAIRS = 20_000  # of all directions; takes about ten seconds for sentences of 25 words
_LEAST_ALIGNED = 2_000  # of a direction

Splitter = Callable[[str], Words]


@dataclass(frozen=True)
class Sample:
    """Training sentences that the systems translate.

    Attributes:
        sources: sources in the form that the tokenizer reads [N].
        beginnings: at most 75% of each source [N].
        text: the same pairs as words.
        directions: direction of each sentence [N].
    """

    sources: list[str]
    beginnings: list[str]
    text: TrainingText
    directions: Sequence[Direction]


@dataclass(frozen=True)
class Training:
    """What the diagnostics use of the training corpus.

    Attributes:
        sample: None if no training sentences are translated.
        knowledge: of each direction that is tested: the alignment of its pairs, and the rare words of its target
            language in all pairs.
        num_pairs: number of pairs that the alignments were learnt from.
    """

    sample: Sample | None
    knowledge: Mapping[Direction, Knowledge]
    num_pairs: int


@dataclass(frozen=True)
class DiagnosedRun:
    """Outputs of one system on one test set with one way of decoding.

    Attributes:
        words: outputs in the form that the tokenizer reads [N].
        training: outputs for the training sentences; None if the system did not translate them in this way.
    """

    run: SystemRun
    words: list[str]
    training: TrainingOutputs | None


# --------------------------------------------------------------------------------------------------------------- texts


def read_training(workspace: Workspace, texts: Mapping[str, TestText]) -> Training:
    """Read the training corpus once: pairs to align and to translate, and counts of the words of the references."""
    settings = workspace.config.score.diagnostics
    assert settings is not None, "only read for diagnostics"
    config, context = workspace.config, workspace.config.prepare.context
    paths = [workspace.prepare / f"train.{lang}" for lang in workspace.direction.sides]
    directions, number_L = config.trained_directions, _directions_of_lines(workspace)
    split = [splitters(workspace, each) for each in directions]
    aligned, chosen = _aligned_lines(number_L, len(directions)), spread(len(number_L), settings.train_sentences)
    wanted, pairs, lines = set(chosen), [_Pairs() for _ in directions], []
    rare = _rare_words(config, texts)
    for i, (source, target) in enumerate(zip(*map(iterate_lines, paths), strict=True)):
        number = number_L[i]
        words = split[number][1](target)
        rare[directions[number].target].add(words)
        if i not in aligned and i not in wanted:
            continue
        src_words = split[number][0](without_context(source, context))
        if i in aligned:
            pairs[number].add(src_words, words)
        if i in wanted:
            lines.append((source, src_words, words))
    aligners = {direction: own.aligner() for direction, own in zip(directions, pairs, strict=True)}
    knowledge = {each: Knowledge(aligners.get(each), rare[each.target].counts) for each in config.all_directions}
    sample = None
    if settings.train_sentences:
        text = TrainingText([i + 1 for i in chosen], [each[1] for each in lines], [each[2] for each in lines])
        sources, of_lines = [each[0] for each in lines], [directions[number_L[i]] for i in chosen]
        beginnings = [
            _beginning(source, context, spaced=prepared.spaced_sides(config.prepare, direction)[0])
            for source, direction in zip(sources, of_lines, strict=True)
        ]
        sample = Sample(sources, beginnings, text, of_lines)
    return Training(sample, knowledge, sum(len(own.sources) for own in pairs))


@dataclass(frozen=True)
class _Pairs:
    """Pairs of words that an alignment is learnt from."""

    sources: list[Words] = field(default_factory=list)
    targets: list[Words] = field(default_factory=list)

    def add(self, source: Words, target: Words) -> None:
        self.sources.append(source)
        self.targets.append(target)

    def aligner(self) -> Aligner | None:
        """Return the translation table; None if there is no word pair."""
        known = any(source and target for source, target in zip(self.sources, self.targets, strict=True))
        return Aligner.train(self.sources, self.targets) if known else None


def _directions_of_lines(workspace: Workspace) -> NDArray[np.int16]:
    """Return the index in `trained_directions` of the direction of each training pair."""
    names = [str(each) for each in workspace.config.trained_directions]
    if not workspace.config.is_multilingual:
        return np.zeros(
            sum(1 for _ in iterate_lines(workspace.prepare / f"train.{workspace.direction.source}")), np.int16
        )
    return read_directions([workspace.prepare / "train.tags"], names)


def _aligned_lines(number_L: NDArray[np.int16], num_directions: int) -> set[int]:
    """Return the lines that the alignments are learnt from, spread over the pairs of each direction."""
    most = max(_ALIGNED_PAIRS // num_directions, _LEAST_ALIGNED)
    found: set[int] = set()
    for number in range(num_directions):
        own_N = np.flatnonzero(number_L == number)
        found.update(own_N[spread(len(own_N), most)].tolist())
    return found


def _rare_words(config: Pipeline, texts: Mapping[str, TestText]) -> dict[str, RareWords]:
    """Return a counter of the words of the references in each target language."""
    words: dict[str, set[str]] = {each.target: set() for each in config.all_directions}
    for name, text in texts.items():
        words[config.tests_by_split[name][1].target].update(word for line in text.references for word in line)
    return {language: RareWords(own) for language, own in words.items()}


def _beginning(source: str, context: Context | None, *, spaced: bool) -> str:
    """Return a source of which only the first words of the sentence are left; its context is unchanged."""
    if context is None:
        return source_prefix(source, spaced=spaced)
    previous, sentence = split_context(source, context)
    return join_context(previous, source_prefix(sentence, spaced=spaced), context)


def read_texts(workspace: Workspace) -> dict[str, TestText]:
    """Return all test sets."""
    src, tgt = workspace.direction.sides
    context = workspace.config.prepare.context
    return {
        name: TestText(
            name,
            read_lines(workspace.prepare / f"{name}.raw.{src}"),
            [src_words(without_context(line, context)) for line in iterate_lines(workspace.prepare / f"{name}.{src}")],
            [tgt_words(line) for line in iterate_lines(workspace.prepare / f"{name}.{tgt}")],
            read_lines(workspace.prepare / f"{name}.raw.{tgt}"),
        )
        for name, (_, direction) in workspace.config.tests_by_split.items()
        for src_words, tgt_words in [splitters(workspace, direction)]
    }


def splitters(workspace: Workspace, direction: Direction) -> tuple[Splitter, Splitter]:
    """Return functions that split a source and a target, in the form that the tokenizer reads, into words."""
    found = []
    for lang, spaced in zip(direction.sides, prepared.spaced_sides(workspace.config.prepare, direction), strict=True):
        is_tokenised = workspace.config.prepare.text.moses or not languages.writes_spaces(lang)
        name = "none" if spaced and is_tokenised else languages.bleu_tokenizer(lang)
        found.append(partial(_split, workspace, name))
    return found[0], found[1]


def _split(workspace: Workspace, tokenizer: str, line: str) -> Words:
    (joined,) = join_words(workspace, [line])
    return joined.split() if tokenizer == "none" else _tokenize(tokenizer, joined)


def _tokenize(tokenizer: str, line: str) -> Words:
    split: Callable[[str], str] = bleu_metric(tokenize=tokenizer, lowercase=False).tokenizer
    return split(line).split()


# --------------------------------------------------------------------------------------------------- training sentences


def translate_sample(
    workspace: Workspace,
    sample: Sample,
    *,
    name: str,
    way: Way,
    translations: Translations,
    made_from: Mapping[str, object],
    translator: Callable[[], Translator],
) -> TrainingOutputs:
    """Return the outputs of a system for the training sentences, which are translated unless they were before.

    Args:
        name: beginning of the names of the files.
        made_from: values that translations of the training text depend on.
        translator: function that returns the translator of the system.
    """
    split = {direction: splitters(workspace, direction)[1] for direction in dict.fromkeys(sample.directions)}
    decode = workspace.config.score.decode(way.beam)
    found = []
    for part, lines in (("whole", sample.sources), ("beginning", sample.beginnings)):
        file, recorded = f"{name}.{part}", {**made_from, "sentences": len(lines), "part": part}
        decoded = translations.find(file, recorded)
        if decoded is None:
            workspace.say(f"score: {name}: {len(lines):,} training sentences, {part}")
            decoded = Decoded(_translate(translator(), lines, sample.directions, decode), 0.0, 0.0, 0.0)
            translations.keep(file, recorded, decoded)
        words = zip(sample.directions, decoded.words, strict=True)
        found.append([split[direction](line) for direction, line in words])
    return TrainingOutputs(*found)


def _translate(
    translator: Translator, lines: Sequence[str], directions: Sequence[Direction], decode: Decode
) -> list[str]:
    """Return the translation of each line in its direction, in words."""
    if not translator.codec.text.directions:
        return translator.translate_ids(translator.codec.encode_source(lines), decode)
    found = [""] * len(lines)
    for direction in dict.fromkeys(directions):
        own = translator.for_direction(direction)
        places = [place for place, each in enumerate(directions) if each == direction]
        words = own.translate_ids(own.encode_words([lines[place] for place in places]), decode)
        for place, line in zip(places, words, strict=True):
            found[place] = line
    return found


# ------------------------------------------------------------------------------------------------------------- figures


def diagnose(
    workspace: Workspace,
    runs: Sequence[DiagnosedRun],
    texts: Mapping[str, TestText],
    test_sets: Mapping[str, TestSet],
    training: Training,
) -> SystemDiagnostics:
    """Return the diagnostics of all runs, with examples of the first run of each system."""
    settings = workspace.config.score.diagnostics
    assert settings is not None, "only called for diagnostics"
    metric = main_metric(workspace.config.score.metrics)
    rows: list[DiagnosticsRow] = []
    examples: list[Example] = []
    for name, text in texts.items():
        direction = workspace.config.tests_by_split[name][1]
        _, tgt_words = splitters(workspace, direction)
        references, knowledge = Outputs(text.references, text.finished_references), training.knowledge[direction]
        rows.append(_reference_row(text, references, knowledge))
        first: dict[str, tuple[Outputs, Measured]] = {}
        for each in runs:
            if each.run.test_set != name:
                continue
            workspace.say(f"score: {each.run.file}, diagnostics")
            outputs = Outputs([tgt_words(line) for line in each.words], list(each.run.finished))
            measured = measure_outputs(text, outputs, knowledge)
            first.setdefault(each.run.system.name, (outputs, measured))
            score = partial(_score_part, test_sets[name], each.run.hypotheses, metric)
            rows.append(_row(each, text, outputs, measured, training.sample, score))
        shown = {system: outputs for system, (outputs, _) in first.items()}
        found = {system: measured for system, (_, measured) in first.items()}
        examples += find_examples(text, shown, found, most=settings.examples)
    if training.sample is not None:
        examples += _training_examples(runs, training.sample, settings)
    num_sentences = 0 if training.sample is None else len(training.sample.sources)
    return SystemDiagnostics(metric, num_sentences, training.num_pairs, rows, examples)


def _training_examples(runs: Sequence[DiagnosedRun], sample: Sample, settings: Diagnostics) -> Iterator[Example]:
    systems: dict[str, TrainingOutputs] = {}
    for each in runs:
        if each.training is not None:
            systems.setdefault(each.run.system.name, each.training)
    return find_training_examples(sample.text, systems, most=settings.examples)


def _score_part(test_set: TestSet, hypotheses: Sequence[str], metric: str, indices: Sequence[int]) -> float:
    return test_set.first.part(indices).score([hypotheses[i] for i in indices], [metric])[metric].value


def _reference_row(text: TestText, references: Outputs, knowledge: Knowledge) -> DiagnosticsRow:
    ratios = measure_outputs(text, references, knowledge).ratios
    figures = percentages(ratios) | diversity(references.words)
    return DiagnosticsRow(REFERENCE, text.name, 0, 1, None, figures, counts(ratios), {})


def _row(
    each: DiagnosedRun,
    text: TestText,
    outputs: Outputs,
    measured: Measured,
    sample: Sample | None,
    score: Callable[[Sequence[int]], float],
) -> DiagnosticsRow:
    ratios = dict(measured.ratios)
    if sample is not None and each.training is not None:
        ratios |= measure_training(sample.text, each.training)
    return DiagnosticsRow(
        system=each.run.system.name,
        test_set=text.name,
        seed=each.run.system.seed,
        beam=each.run.way.beam,
        iterations=each.run.way.iterations,
        figures=percentages(ratios) | diversity(outputs.words),
        counts=counts(ratios),
        kinds=kind_scores(text, measured.ratios, score),
    )
