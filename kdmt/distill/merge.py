"""Construction of a training set from candidates: the chosen targets of each line of the text, in the order of lines.

Several processes work on chunks of lines; their results are written in order. Memory use is limited to a few chunks
and a few bytes per line.

Shapes: L lines, U distinct sentences, N lines of a chunk.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.choices import OnFailure
from kdmt.config import Failures
from kdmt.corpus.dropped import NUM_EXAMPLES, Examples, add_examples, cut_texts
from kdmt.corpus.lines import Piece, cut_lines
from kdmt.corpus.pool import mapping_in_order
from kdmt.corpus.tokenizer import count_lines
from kdmt.distill.candidates import NO_FAILURE, Candidates, GivenScores
from kdmt.distill.failures import FAILURES, find_text_failures
from kdmt.distill.selection import BEST, Candidate, Selector
from kdmt.errors import UserError
from kdmt.files import naming

_CHUNK_LINES = 10_000
_FILES = ("source", "target", "tags")

Nbest = list[tuple[Candidate, str]]  # candidates of one sentence, each with its failure or `-`


@dataclass(frozen=True)
class TrainingText:
    """Files of text that is distilled: parallel with references and optional tags, or monolingual."""

    source: Path
    target: Path | None = None
    tags: Path | None = None

    def paths(self) -> tuple[Path | None, ...]:
        return (self.source, self.target, self.tags)


@dataclass(frozen=True)
class Outputs:
    """Files to which a training set is written."""

    source: Path
    target: Path
    tags: Path
    rejected: Path  # index of the line <TAB> failure <TAB> action taken

    def paths(self) -> tuple[Path, ...]:
        return (self.source, self.target, self.tags, self.rejected)


@dataclass
class MergeReport:
    """Counts of a merge: every failure is counted here, and its line is in the file `rejected`."""

    num_sentences: int = 0  # number of lines of the text
    num_lines: int = 0  # number of lines written
    failures: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)  # failures that were replaced by the reference
    dropped: Counter[str] = field(default_factory=Counter)
    examples: Examples = field(default_factory=dict)  # failure -> source and hypothesis of its first lines
    indices: array[int] = field(default_factory=lambda: array("q"))  # index in the text of each written line
    weights: array[float] = field(default_factory=lambda: array("f"))  # of each written line, if the rule has weights
    of_teacher: bytearray = field(default_factory=bytearray)  # for each written line, 1 if it is not a reference
    quality: dict[str, object] | None = None  # facts on a filter by an external scorer

    def keep(self, is_kept: NDArray[np.bool_], *, failure: str) -> None:
        """Keep only the written lines of the mask; count the others as dropped for this failure."""
        dropped = int((~is_kept).sum())
        self.failures[failure] += dropped
        self.dropped[failure] += dropped
        self.num_lines -= dropped
        self.indices = array("q", compress(self.indices, is_kept.tolist()))
        self.weights = array("f", compress(self.weights, is_kept.tolist()))
        self.of_teacher = bytearray(compress(self.of_teacher, is_kept.tolist()))


@dataclass(frozen=True)
class _Chunk:
    """Consecutive lines of one text, with the byte offsets of their candidates."""

    first: int
    starts_N: NDArray[np.int64]
    stops_N: NDArray[np.int64]
    pieces: dict[Path, Piece]  # one for each file of the text
    text: TrainingText
    given: tuple[Path, NDArray[np.int64]] | None  # file of scores, index of each line's first score


@dataclass
class _Chosen:
    """The result for a chunk: text of each output file, and counts."""

    text: dict[str, bytes]
    report: MergeReport


def merge_candidates(
    texts: Sequence[TrainingText],
    numbers_L: NDArray[np.int64],
    *,
    nbest: Path,
    offsets: Path,
    settings: Failures,
    select: Selector,
    typical_ratio: float,
    given: GivenScores | None = None,
    out: Outputs,
    workers: int,
) -> MergeReport:
    """Write the text of a training set.

    Args:
        texts: texts whose lines are numbered consecutively.
        numbers_L: index of the distinct sentence on each line.
        nbest, offsets: files from `write_candidates`.
        settings: action for each failure.
        select: selector among the candidates without a failure.
        typical_ratio: typical number of target characters per source character.
        given: scores for `select`, if it uses them.
        out: paths of the new files; there is no file of tags if no text has tags.
        workers: number of processes.

    Raises:
        UserError: if the number of lines of the texts is not that of `numbers_L`.
    """
    total = sum(count_lines(text.source) for text in texts)
    if total != len(numbers_L):
        names = ", ".join(str(text.source) for text in texts)
        raise UserError(f"{names}: {total} lines of text for {len(numbers_L)} sentences")
    report = MergeReport()
    bounds_U = np.load(offsets, mmap_mode="r")
    choose = partial(_choose_chunk, nbest, settings, select, typical_ratio)
    files = {name: path.open("wb") for name, path in zip((*_FILES, "rejected"), out.paths(), strict=True)}
    try:
        with mapping_in_order(choose, workers) as map_in_order:
            for chosen in map_in_order(_chunks(texts, numbers_L, bounds_U, given)):
                for name, data in chosen.text.items():
                    with naming(files[name].name):
                        files[name].write(data)
                _add(report, chosen.report)
    finally:
        for file in files.values():
            with naming(file.name):
                file.close()
    if not any(text.tags for text in texts):
        out.tags.unlink()
    return report


# ------------------------------------------------------------------------------------------------------------- chunks


def _chunks(
    texts: Sequence[TrainingText],
    numbers_L: NDArray[np.int64],
    bounds_U: NDArray[np.int64],
    given: GivenScores | None,
) -> Iterator[_Chunk]:
    first = 0
    for text in texts:
        paths = [path for path in text.paths() if path is not None]
        for pieces in cut_lines(paths, _CHUNK_LINES):
            own = numbers_L[first : first + pieces[0].count]
            scores = None if given is None else (given.path, given.starts_U[own])
            yield _Chunk(first, bounds_U[own], bounds_U[own + 1], {piece.path: piece for piece in pieces}, text, scores)
            first += len(own)


# ------------------------------------------------------------------------------------------------------------- choices


def _choose_chunk(nbest: Path, settings: Failures, select: Selector, typical_ratio: float, chunk: _Chunk) -> _Chosen:
    count = len(chunk.starts_N)
    references, tags = (None if path is None else chunk.pieces[path].read() for path in chunk.text.paths()[1:])
    sources = chunk.pieces[chunk.text.source].read()
    candidates = Candidates(nbest)
    try:
        found = candidates.read(chunk.starts_N, chunk.stops_N, depth=select.depth)
    finally:
        candidates.close()
    if chunk.given is not None:
        found = _with_scores(found, *chunk.given)
    found = _with_text_failures(found, sources, settings, typical_ratio)
    report = MergeReport()
    out: dict[str, list[str]] = {name: [] for name in (*_FILES, "rejected")}
    for place, own in enumerate(found):
        reference = None if references is None else references[place]
        index = chunk.first + place
        lines, rejection = _choose(own, reference, settings, select, report)
        report.indices.extend([index] * len(lines))
        if rejection is not None:
            out["rejected"].append(f"{index}\t{rejection}\n")
            failure = rejection.partition("\t")[0]
            if report.failures[failure] <= NUM_EXAMPLES:
                shown = cut_texts(sources[place], own[0][0].words if own else "")
                add_examples(report.examples, {failure: [shown]})
        for words, weight in lines:
            out["source"].append(f"{sources[place]}\n")
            out["target"].append(f"{words}\n")
            out["tags"].append("\n" if tags is None else f"{tags[place]}\n")
            if select.weighs:
                report.weights.append(weight)
    report.num_sentences, report.num_lines = count, len(report.indices)
    return _Chosen({name: "".join(lines).encode() for name, lines in out.items()}, report)


def _with_text_failures(
    found: list[Nbest], sources: Sequence[str], settings: Failures, typical_ratio: float
) -> list[Nbest]:
    """Return the candidates with the failures that their words show, for those without a failure so far."""
    words = [candidate.words for nbest in found for candidate, _ in nbest]
    source_of_each = [source for nbest, source in zip(found, sources, strict=True) for _ in nbest]
    codes = iter(find_text_failures(words, source_of_each, settings, typical_ratio=typical_ratio).tolist())
    names = (NO_FAILURE, *FAILURES)

    def seen(failure: str) -> str:
        code = next(codes)
        return names[code] if failure == NO_FAILURE else failure

    return [[(candidate, seen(failure)) for candidate, failure in nbest] for nbest in found]


def _choose(
    candidates: Nbest, reference: str | None, settings: Failures, select: Selector, report: MergeReport
) -> tuple[list[tuple[str, float]], str | None]:
    """Return the targets of a line with their weights; if all candidates fail, also the failure and the action taken.

    Candidates that fail are excluded from the selection. If all candidates that the selector considers fail, the
    failure of the first one determines the action.
    """
    usable = [candidate for candidate, failure in candidates if failure == NO_FAILURE]
    if usable:
        rule = BEST if reference is None and select.by_reference else select
        chosen = rule.choose(usable, reference or "")
        report.of_teacher.extend(b"\1" * len(chosen))
        return [(candidate.words, weight) for candidate, weight in chosen], None
    first = candidates[0][1] if candidates else "empty"
    report.failures[first] += 1
    action = _action(settings, first, has_reference=reference is not None)
    if action == "keep":
        report.of_teacher.append(1)
        return [(candidates[0][0].words if candidates else "", 1.0)], f"{first}\tkept"
    if action == "reference":
        assert reference is not None
        report.replaced[first] += 1
        report.of_teacher.append(0)
        return [(reference, 1.0)], f"{first}\treplaced by the reference"
    report.dropped[first] += 1
    return [], f"{first}\tdropped"


def _action(settings: Failures, failure: str, *, has_reference: bool) -> OnFailure:
    """Return the action for a failure; a line without a reference is dropped instead of replaced."""
    action: OnFailure = getattr(settings, failure)
    return "drop" if action == "reference" and not has_reference else action


def _with_scores(found: list[Nbest], path: Path, starts_N: NDArray[np.int64]) -> list[Nbest]:
    scores = np.load(path, mmap_mode="r")
    return [
        [
            (replace(candidate, given=float(score)), failure)
            for (candidate, failure), score in zip(nbest, scores[start : start + len(nbest)], strict=True)
        ]
        for nbest, start in zip(found, starts_N.tolist(), strict=True)
    ]


def _add(report: MergeReport, more: MergeReport) -> None:
    report.num_sentences += more.num_sentences
    report.num_lines += more.num_lines
    report.failures += more.failures
    report.replaced += more.replaced
    report.dropped += more.dropped
    add_examples(report.examples, more.examples)
    report.indices.extend(more.indices)
    report.weights.extend(more.weights)
    report.of_teacher.extend(more.of_teacher)
