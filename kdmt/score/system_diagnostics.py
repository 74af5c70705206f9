"""Diagnostics of the translations of trained systems, and the file diagnostics.json.

Every figure is a ratio of two sums over sentences, except lexical diversity, so that it can be computed for any part of
a test set. The references are a system too, named `reference`: what a correct translation has of each figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.config import read_record
from kdmt.files import read_json_object, write_json
from kdmt.score.coverage import Aligner, Coverage
from kdmt.score.hallucination import find_detached, find_oscillating
from kdmt.score.lexical import Ratios, find_copies, mtld, rare_recall, type_token_ratio
from kdmt.score.replication import find_replicated
from kdmt.score.sentence_kinds import find_numbers, find_urls, split_kinds

REFERENCE = "reference"  # name of the references among the systems

Words = list[str]
Scorer = Callable[[Sequence[int]], float]  # function from indices of sentences to their score


@dataclass(frozen=True)
class Figure:
    """Figure of the table: label, unit, number of digits, and what it is."""

    label: str
    meaning: str
    unit: str = "%"
    digits: int = 1


TEST_FIGURES: dict[str, Figure] = {
    "length": Figure("length", "words of the outputs relative to those of the references"),
    "omitted": Figure("omitted words", "source words that the reference translates and the output does not"),
    "untranslated": Figure(
        "untranslated words", "source words that the reference translates and the output contains as they are"
    ),
    "copies": Figure("copies", "outputs of which at least half of the different words are words of the source"),
    "oscillating": Figure(
        "oscillating", "outputs that have a bigram at least 10 times, while the source has none that often"
    ),
    "detached": Figure("detached", "outputs of at least 5 different sources"),
    "rare_recall": Figure("rare words", "recall of words of the reference that the training targets have 1 to 5 times"),
    "numbers": Figure("numbers kept", "numbers of the source and the reference that the output has too"),
    "urls": Figure("URLs kept", "URLs and e-mail addresses of the source and the reference that the output has too"),
}
DIVERSITY_FIGURES: dict[str, Figure] = {
    "type_token_ratio": Figure("type/token ratio", "different words relative to words", digits=2),
    "mtld": Figure("MTLD", "measure of textual lexical diversity (McCarthy and Jarvis 2010), threshold 0.72", "words"),
}
TRAINING_FIGURES: dict[str, Figure] = {
    "replicated": Figure("replicated targets", "training targets that the output equals"),
    "extracted": Figure(
        "extracted targets", "training targets that the output equals if at most 75% of the source is given"
    ),
    "training_oscillating": Figure("oscillating (training)", "as above, on training sources"),
    "training_detached": Figure("detached (training)", "as above, on training sources"),
}
FIGURES = TEST_FIGURES | DIVERSITY_FIGURES | TRAINING_FIGURES
KIND_FIGURES = ("length", "omitted", "oscillating")  # figures of each kind of sentences
PROBLEMS = ("oscillating", "detached", "copies", "untranslated", "omitted", "replicated", "extracted")
_FAULTS = ("oscillating", "detached", "copies", "untranslated", "omitted")  # problems in test sets
_AT_MOST_ONE_EACH = ("oscillating", "detached", "copies")  # problems of whole outputs


# ------------------------------------------------------------------------------------------------------------- records


@dataclass(frozen=True)
class KindScores:
    """Figures of one kind of sentences."""

    sentences: int
    score: float | None
    figures: dict[str, float | None]


@dataclass(frozen=True)
class DiagnosticsRow:
    """Diagnostics of one system on one test set with one seed and one way of decoding.

    Attributes:
        figures: name in `FIGURES` -> value; None if there is nothing to count.
        counts: name -> numerator and denominator of the figure, for ratios.
        kinds: kind of sentences -> figures.
    """

    system: str
    test_set: str
    seed: int
    beam: int
    iterations: int | None
    figures: dict[str, float | None]
    counts: dict[str, tuple[int, int]]
    kinds: dict[str, KindScores]


@dataclass(frozen=True)
class Example:
    """A sentence with a problem of one system, and the outputs of all systems.

    Attributes:
        text: name of the test set, or `train`.
        line: line number in the prepared text, from 1.
        note: what was found, such as the omitted words.
    """

    problem: str
    system: str
    text: str
    line: int
    source: str
    reference: str
    outputs: dict[str, str]
    note: str = ""


@dataclass(frozen=True)
class SystemDiagnostics:
    """Content of diagnostics.json.

    Attributes:
        score: name of the metric of the scores of kinds.
        training_sentences: number of training sentences that were translated; 0 if there are none.
        training_pairs: number of training pairs that the alignment was learnt from.
    """

    score: str
    training_sentences: int
    training_pairs: int
    rows: list[DiagnosticsRow]
    examples: list[Example] = field(default_factory=list)


def write_diagnostics(path: Path, found: SystemDiagnostics) -> None:
    """Write diagnostics.json, with the meaning of every figure."""
    meanings = {name: f"{figure.meaning} ({figure.unit})" for name, figure in FIGURES.items()}
    write_json(path, {"figures": meanings, **asdict(found)})


def read_diagnostics(path: Path) -> SystemDiagnostics:
    """Return the content of diagnostics.json.

    Raises:
        UserError: if the file is missing or damaged.
    """
    values = read_json_object(path)
    values.pop("figures", None)
    return read_record(SystemDiagnostics, values, str(path))


# --------------------------------------------------------------------------------------------------------------- texts


@dataclass(frozen=True)
class TestText:
    """A test set.

    Attributes:
        raw_sources: sources before text processing [N].
        sources, references: words of each sentence [N].
        finished_references: references as finished text [N].
    """

    __test__ = False  # prevents pytest from collecting this class as tests

    name: str
    raw_sources: list[str]
    sources: list[Words]
    references: list[Words]
    finished_references: list[str]


@dataclass(frozen=True)
class Outputs:
    """Outputs of a system for a text: as words, and as finished text."""

    words: list[Words]
    finished: list[str]


@dataclass(frozen=True)
class TrainingText:
    """Training pairs that the systems translate: line numbers from 1 [N], and words of sources and targets [N]."""

    lines: list[int]
    sources: list[Words]
    targets: list[Words]


@dataclass(frozen=True)
class TrainingOutputs:
    """Words of the outputs for training sources, and for their beginnings [N]; an empty beginning has no words."""

    whole: list[Words]
    beginning: list[Words]


@dataclass(frozen=True)
class Knowledge:
    """What the training corpus says about words.

    Attributes:
        aligner: translation table; None if it has no word pair.
        rare: words of the references that occur 1 to 5 times in the training targets of their language.
    """

    aligner: Aligner | None
    rare: Collection[str]


# ------------------------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Measured:
    """Measurements of the outputs for a test set.

    Attributes:
        ratios: numerator and denominator of each figure in `TEST_FIGURES` for each sentence [N, 2].
        covered: source words that are omitted or left untranslated [N].
    """

    ratios: dict[str, Ratios]
    covered: list[Coverage]


def measure_outputs(text: TestText, outputs: Outputs, knowledge: Knowledge) -> Measured:
    """Measure the outputs of a system for a test set."""
    covered = _cover(text, outputs, knowledge.aligner)
    ratios = {
        "length": _pairs((len(o), len(r)) for o, r in zip(outputs.words, text.references, strict=True)),
        "omitted": _pairs((len(each.omitted), len(each.translated)) for each in covered),
        "untranslated": _pairs((len(each.untranslated), len(each.foreign)) for each in covered),
        "copies": _shares(find_copies(text.sources, outputs.words)),
        "oscillating": _shares(find_oscillating(text.sources, outputs.words)),
        "detached": _shares(find_detached(text.sources, outputs.words)),
        "rare_recall": rare_recall(outputs.words, text.references, knowledge.rare),
        "numbers": _kept(find_numbers, text, outputs),
        "urls": _kept(find_urls, text, outputs),
    }
    return Measured(ratios, covered)


def measure_training(text: TrainingText, outputs: TrainingOutputs) -> dict[str, Ratios]:
    """Return numerator and denominator of each figure in `TRAINING_FIGURES` for each sentence [N, 2]."""
    return {
        "replicated": _shares(find_replicated(outputs.whole, text.targets)),
        "extracted": _shares(find_replicated(outputs.beginning, text.targets)),
        "training_oscillating": _shares(find_oscillating(text.sources, outputs.whole)),
        "training_detached": _shares(find_detached(text.sources, outputs.whole)),
    }


def diversity(lines: Sequence[Words]) -> dict[str, float | None]:
    """Return the values of `DIVERSITY_FIGURES`."""
    ratio = type_token_ratio(lines)
    return {"type_token_ratio": None if ratio is None else 100 * ratio, "mtld": mtld(lines)}


def percentages(ratios: Mapping[str, Ratios], mask: NDArray[np.bool_] | None = None) -> dict[str, float | None]:
    """Return each figure in percent, over all sentences or those of a mask; None if the denominator is 0."""
    sums = {name: (rows if mask is None else rows[mask]).sum(axis=0).tolist() for name, rows in ratios.items()}
    return {name: 100 * part / whole if whole else None for name, (part, whole) in sums.items()}


def counts(ratios: Mapping[str, Ratios]) -> dict[str, tuple[int, int]]:
    """Return the sums of numerators and denominators."""
    return {name: (int(rows[:, 0].sum()), int(rows[:, 1].sum())) for name, rows in ratios.items()}


def kind_scores(text: TestText, ratios: Mapping[str, Ratios], score: Scorer) -> dict[str, KindScores]:
    """Return the figures of each kind of sentences in a test set."""
    wanted = {name: ratios[name] for name in KIND_FIGURES}
    num_words = np.array([len(words) for words in text.sources])
    return {
        kind: KindScores(int(mask.sum()), score(np.flatnonzero(mask).tolist()), percentages(wanted, mask))
        for kind, mask in split_kinds(text.raw_sources, num_words).items()
    }


def _cover(text: TestText, outputs: Outputs, aligner: Aligner | None) -> list[Coverage]:
    if aligner is None:
        return [Coverage([], [], [], []) for _ in outputs.words]
    return aligner.cover(text.sources, text.references, outputs.words)


def _kept(find: Callable[[str], Counter[str]], text: TestText, outputs: Outputs) -> Ratios:
    rows = []
    for source, reference, output in zip(text.raw_sources, text.finished_references, outputs.finished, strict=True):
        wanted = find(source) & find(reference)
        rows.append(((wanted & find(output)).total(), wanted.total()))
    return _pairs(rows)


def _pairs(rows: Iterable[tuple[int, int]]) -> Ratios:
    return np.array(list(rows), dtype=np.float64).reshape(-1, 2)


def _shares(found: NDArray[np.bool_]) -> Ratios:
    return np.stack([found, np.ones(len(found))], axis=1)


# ------------------------------------------------------------------------------------------------------------ examples


def find_examples(
    text: TestText, systems: Mapping[str, Outputs], measured: Mapping[str, Measured], *, most: int
) -> Iterator[Example]:
    """Yield at most `most` sentences for each problem and each system, those with the most cases first.

    Args:
        systems: name of each system -> its outputs.
        measured: name of each system -> measurements of its outputs.
    """
    shown = {name: outputs.finished for name, outputs in systems.items()}
    for name, outputs in systems.items():
        ratios, covered = measured[name].ratios, measured[name].covered
        for problem in _FAULTS:
            for i in _worst(ratios[problem], outputs.words, problem, most):
                note = _note(problem, text.sources[i], outputs.words[i], covered[i])
                lines = {each: finished[i] for each, finished in shown.items()}
                yield Example(
                    problem, name, text.name, i + 1, text.raw_sources[i], text.finished_references[i], lines, note
                )


def find_training_examples(
    text: TrainingText, systems: Mapping[str, TrainingOutputs], *, most: int
) -> Iterator[Example]:
    """Yield at most `most` replicated training pairs for each system, and those that it replicates from a beginning."""
    for name, outputs in systems.items():
        ratios = measure_training(text, outputs)
        for problem in ("replicated", "extracted"):
            parts = {each: own.whole if problem == "replicated" else own.beginning for each, own in systems.items()}
            longest = np.array([len(words) for words in text.sources]) * ratios[problem][:, 0]
            for i in _largest(longest, most):
                lines = {each: " ".join(words[i]) for each, words in parts.items()}
                source, target = " ".join(text.sources[i]), " ".join(text.targets[i])
                yield Example(problem, name, "train", text.lines[i], source, target, lines)


def _worst(rows: Ratios, outputs: Sequence[Words], problem: str, most: int) -> list[int]:
    chosen = _largest(rows[:, 0], len(rows))
    if problem in _AT_MOST_ONE_EACH:  # the same output once
        first: dict[tuple[str, ...], int] = {}
        for i in chosen:
            first.setdefault(tuple(outputs[i]), i)
        chosen = list(first.values())
    return chosen[:most]


def _largest(values: NDArray[np.float64], most: int) -> list[int]:
    """Return the indices of the largest values above 0, the first one of equal values first."""
    order = np.argsort(-values, kind="stable")
    return order[values[order] > 0][:most].tolist()


def _note(problem: str, source: Words, output: Words, covered: Coverage) -> str:
    if problem == "omitted":
        return " ".join(source[i] for i in covered.omitted)
    if problem == "untranslated":
        return " ".join(source[i] for i in covered.untranslated)
    if problem == "oscillating":
        (bigram, times), *_ = Counter(pairwise(output)).most_common(1)
        return f"{' '.join(bigram)} ({times} times)"
    return ""
