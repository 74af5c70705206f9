"""Diagnostics of the score stage: the texts that they compare, and the figures of every system.

All texts are compared as words: the form that the tokenizer reads, split by sacreBLEU's tokenizer of the language
unless it is tokenised already. diagnostics.json is written next to scores.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from kdmt import languages
from kdmt.config import Context, Decode, Diagnostics
from kdmt.corpus import prepared
from kdmt.corpus.alignment import spread
from kdmt.corpus.context import join_context, split_context, without_context
from kdmt.corpus.direction_codecs import read_directions
from kdmt.corpus.lines import iterate_lines, read_lines
from kdmt.decode.engines.translator import Translator
from kdmt.languages import Direction
from kdmt.score.coverage import Aligner
from kdmt.score.lexical import count_rare
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
_ALIGNED_PAIRS = 20_000  # takes about ten seconds for sentences of 25 words

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
    """What the diagnostics use of the training corpus; `sample` is None if no training sentences are translated."""

    sample: Sample | None
    knowledge: Knowledge
    num_pairs: int  # pairs that the alignment was learnt from


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
    context = workspace.config.prepare.context
    paths = [workspace.prepare / f"train.{lang}" for lang in workspace.direction.sides]
    num_lines = sum(1 for _ in iterate_lines(paths[0]))
    aligned, chosen = set(spread(num_lines, _ALIGNED_PAIRS)), spread(num_lines, settings.train_sentences)
    wanted, pairs, lines = set(chosen), [], []

    def targets() -> Iterator[Words]:
        lines_of_sides = zip(*map(iterate_lines, paths), strict=True)
        with_splitters = zip(lines_of_sides, _splitters_of_lines(workspace), strict=False)  # the latter may be endless
        for i, ((source, target), (src_words, tgt_words)) in enumerate(with_splitters):
            words = tgt_words(target)
            sentence = without_context(source, context)
            if i in aligned:
                pairs.append((src_words(sentence), words))
            if i in wanted:
                lines.append((source, src_words(sentence), words))
            yield words

    rare = count_rare(targets(), {word for text in texts.values() for words in text.references for word in words})
    known = any(source and target for source, target in pairs)
    aligner = Aligner.train([source for source, _ in pairs], [target for _, target in pairs]) if known else None
    sample = None
    if settings.train_sentences:
        text = TrainingText([i + 1 for i in chosen], [each[1] for each in lines], [each[2] for each in lines])
        sources, directions = [each[0] for each in lines], _directions(workspace, chosen)
        beginnings = [
            _beginning(source, context, spaced=prepared.spaced_sides(workspace.config.prepare, direction)[0])
            for source, direction in zip(sources, directions, strict=True)
        ]
        sample = Sample(sources, beginnings, text, directions)
    return Training(sample, Knowledge(aligner, rare), len(pairs))


def _beginning(source: str, context: Context | None, *, spaced: bool) -> str:
    """Return a source of which only the first words of the sentence are left; its context is unchanged."""
    if context is None:
        return source_prefix(source, spaced=spaced)
    previous, sentence = split_context(source, context)
    return join_context(previous, source_prefix(sentence, spaced=spaced), context)


def _directions(workspace: Workspace, lines: Sequence[int]) -> list[Direction]:
    """Return the direction of some training sentences."""
    directions = workspace.config.trained_directions
    if not workspace.config.is_multilingual:
        return directions * len(lines)
    numbers = read_directions([workspace.prepare / "train.tags"], [str(each) for each in directions])
    return [directions[number] for number in numbers[list(lines)]]


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


def _splitters_of_lines(workspace: Workspace) -> Iterator[tuple[Splitter, Splitter]]:
    """Yield the splitters of the direction of each training pair, without end for a pipeline with one direction."""
    config = workspace.config
    if not config.is_multilingual:
        yield from itertools.repeat(splitters(workspace, workspace.direction))
    of_directions = {str(each): splitters(workspace, each) for each in config.trained_directions}
    yield from (of_directions[name] for name in iterate_lines(workspace.prepare / "train.tags"))


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
        _, tgt_words = splitters(workspace, workspace.config.tests_by_split[name][1])
        references = Outputs(text.references, text.finished_references)
        rows.append(_reference_row(text, references, training.knowledge))
        first: dict[str, tuple[Outputs, Measured]] = {}
        for each in runs:
            if each.run.test_set != name:
                continue
            outputs = Outputs([tgt_words(line) for line in each.words], list(each.run.finished))
            measured = measure_outputs(text, outputs, training.knowledge)
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
