"""Construction of a training set from candidates: the chosen targets of each line of the text, in the order of lines.

Several processes work on chunks of lines; their results are written in order. Memory use is limited to a few chunks
and a few bytes per line.

Shapes: L lines, U distinct sentences, N lines of a chunk.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.choices import OnFailure
from kdmt.config import Context, Failures
from kdmt.corpus.context import without_context
from kdmt.corpus.dropped import NUM_EXAMPLES, Examples, add_examples, cut_texts
from kdmt.corpus.lines import Piece, cut_lines
from kdmt.corpus.process_pool import mapping_in_order
from kdmt.corpus.tokenizer import count_lines
from kdmt.distill.candidates import NO_FAILURE, Candidates, GivenScores
from kdmt.distill.failures import FAILURES, find_text_failures
from kdmt.distill.selection import ALL, BEST, Candidate, Choice, Line, Selector
from kdmt.errors import UserError
from kdmt.files import naming
from kdmt.languages import Direction

_CHUNK_LINES = 10_000
_CHUNK_BYTES = 16 << 20  # of candidates, typically; they take about ten times as much memory once they are read
_FILES = ("source", "target", "tags", "rejected", "choices")
_CHOICE_COLUMNS = ("line", "rank", "candidate", "usable", "reason")
_NOTHING = "-"  # in a column of the record of choices

TypicalRatio = float | Mapping[str, float]
Nbest = list[tuple[Candidate, str]]  # candidates of one sentence, each with its failure or `-`


@dataclass(frozen=True)
class TrainingText:
    """Files of text that is distilled: parallel with references and optional tags, or monolingual.

    Lines whose tag is one of `originals` keep their references. With `context`, sources have the previous sentences of
    their documents; checks of hypotheses compare them with the sentence itself.
    """

    source: Path
    target: Path | None = None
    tags: Path | None = None
    originals: frozenset[str] = frozenset()
    context: Context | None = None

    def paths(self) -> tuple[Path | None, ...]:
        return (self.source, self.target, self.tags)


@dataclass(frozen=True)
class Outputs:
    """Files to which a training set is written."""

    source: Path
    target: Path
    tags: Path
    rejected: Path  # index of the line <TAB> failure <TAB> action taken
    choices: Path  # record of choices: a line of names, then a line for each line of the training set

    def paths(self) -> tuple[Path, ...]:
        return (self.source, self.target, self.tags, self.rejected, self.choices)


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
    typical_ratio: TypicalRatio,
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
        typical_ratio: typical number of target characters per source character, or that of each tag of the lines.
        given: scores for `select`, if it uses them.
        out: paths of the new files; there is no file of tags if no text has tags, and no record of choices if the
            selector has no columns.
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
    files = {name: path.open("wb") for name, path in zip(_FILES, out.paths(), strict=True)}
    try:
        files["choices"].write(("\t".join((*_CHOICE_COLUMNS, *select.columns)) + "\n").encode())
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
    if not select.columns:
        out.choices.unlink()
    return report


def usable_candidates(
    texts: Sequence[TrainingText],
    numbers_L: NDArray[np.int64],
    *,
    nbest: Path,
    offsets: Path,
    settings: Failures,
    typical_ratio: TypicalRatio,
    given: GivenScores | None = None,
) -> Iterator[tuple[Line, list[Candidate]]]:
    """Yield each line with its candidates without a failure. For the arguments, see `merge_candidates`."""
    for chunk in _chunks(texts, numbers_L, np.load(offsets, mmap_mode="r"), given):
        for line, found in _read_chunk(nbest, ALL, settings, typical_ratio, chunk).lines():
            yield line, [candidate for candidate, failure in found if failure == NO_FAILURE]


def distinct_sentences(
    texts: Sequence[TrainingText],
    numbers_L: NDArray[np.int64],
    *,
    nbest: Path,
    offsets: Path,
    settings: Failures,
    typical_ratio: TypicalRatio,
) -> Iterator[tuple[Line, Nbest]]:
    """Yield the candidates of each distinct sentence with their failures, and the first line with this sentence.

    The sentences are numbered in the order of their first lines. For the arguments, see `merge_candidates`.
    """
    following = 0
    for chunk in _chunks(texts, numbers_L, np.load(offsets, mmap_mode="r"), None):
        read = _read_chunk(nbest, ALL, settings, typical_ratio, chunk)
        numbers = numbers_L[chunk.first : chunk.first + len(read.sources)].tolist()
        for number, line in zip(numbers, read.lines(), strict=True):
            if number == following:
                following += 1
                yield line


# ------------------------------------------------------------------------------------------------------------- chunks


def _chunks(
    texts: Sequence[TrainingText],
    numbers_L: NDArray[np.int64],
    bounds_U: NDArray[np.int64],
    given: GivenScores | None,
) -> Iterator[_Chunk]:
    first = 0
    num_lines = _lines_of_a_chunk(bounds_U)
    for text in texts:
        paths = [path for path in text.paths() if path is not None]
        for pieces in cut_lines(paths, num_lines):
            own = numbers_L[first : first + pieces[0].count]
            scores = None if given is None else (given.path, given.starts_U[own])
            yield _Chunk(first, bounds_U[own], bounds_U[own + 1], {piece.path: piece for piece in pieces}, text, scores)
            first += len(own)


def _lines_of_a_chunk(bounds_U: NDArray[np.int64]) -> int:
    """Return the number of lines of a chunk: fewer if sentences have many candidates."""
    mean_bytes = int(bounds_U[-1]) // max(len(bounds_U) - 1, 1)
    return max(min(_CHUNK_LINES, _CHUNK_BYTES // max(mean_bytes, 1)), 1)


# ------------------------------------------------------------------------------------------------------------- choices


@dataclass(frozen=True)
class _Target:
    """A line of the training set without its source: a chosen candidate, or what replaces it."""

    words: str
    weight: float = 1.0
    rank: int = 1
    candidate: int | None = None  # index among all candidates of the line; None for a reference
    usable: int = 0  # number of candidates without a failure
    reason: str = ""
    values: tuple[float, ...] = ()

    def row(self, index: int, num_values: int) -> str:
        """Return the line of the record of choices."""
        candidate = _NOTHING if self.candidate is None else str(self.candidate)
        values = [f"{value:.6g}" for value in self.values] or [_NOTHING] * num_values
        return "\t".join((str(index), str(self.rank), candidate, str(self.usable), self.reason, *values)) + "\n"


@dataclass(frozen=True)
class _Read:
    """The text of a chunk, and the candidates of each line with their failures."""

    sources: list[str]
    references: list[str] | None
    tags: list[str] | None
    found: list[Nbest]

    def lines(self) -> Iterator[tuple[Line, Nbest]]:
        """Yield each line with its candidates and their failures; a line without a reference has an empty one."""
        nothing = [""] * len(self.sources)
        texts = zip(self.sources, self.references or nothing, self.tags or nothing, self.found, strict=True)
        for source, reference, tag, found in texts:
            yield Line(source, reference, tag), found


def _read_chunk(nbest: Path, depth: int, settings: Failures, typical_ratio: TypicalRatio, chunk: _Chunk) -> _Read:
    references, tags = (None if path is None else chunk.pieces[path].read() for path in chunk.text.paths()[1:])
    sources = chunk.pieces[chunk.text.source].read()
    candidates = Candidates(nbest)
    try:
        found = candidates.read(chunk.starts_N, chunk.stops_N, depth=depth)
    finally:
        candidates.close()
    if chunk.given is not None:
        found = _with_scores(found, *chunk.given)
    ratio_N = _ratio_of_lines(typical_ratio, tags, len(sources))
    sentences = [without_context(line, chunk.text.context) for line in sources]
    languages = _languages_of_lines(settings, tags)
    return _Read(sources, references, tags, _with_text_failures(found, sentences, settings, ratio_N, languages))


def _ratio_of_lines(typical_ratio: TypicalRatio, tags: Sequence[str] | None, num_lines: int) -> NDArray[np.float64]:
    """Return the typical ratio of each line [N]."""
    if not isinstance(typical_ratio, Mapping):
        return np.full(num_lines, typical_ratio)
    assert tags is not None, "ratios of tags are given for lines with tags"
    return np.array([typical_ratio[tag] for tag in tags])


def _languages_of_lines(settings: Failures, tags: Sequence[str] | None) -> list[str] | None:
    """Return the target language of each line, if the settings depend on it: the tags of lines are directions then."""
    if not isinstance(settings.scripts, Mapping):
        return None
    assert tags is not None, "scripts of languages are given for lines with directions"
    return [Direction.parse(tag).target for tag in tags]


def _choose_chunk(
    nbest: Path, settings: Failures, select: Selector, typical_ratio: TypicalRatio, chunk: _Chunk
) -> _Chosen:
    read = _read_chunk(nbest, select.depth, settings, typical_ratio, chunk)
    sources, references, tags = read.sources, read.references, read.tags
    report = MergeReport()
    out: dict[str, list[str]] = {name: [] for name in _FILES}
    for place, own in enumerate(read.found):
        reference = None if references is None else references[place]
        index = chunk.first + place
        if reference is not None and tags is not None and tags[place] in chunk.text.originals:
            targets, rejection = [_Target(reference, reason="original target")], None
            report.of_teacher.append(0)
        else:
            line = Line(sources[place], reference or "", "" if tags is None else tags[place])
            targets, rejection = _choose(own, line, settings, select, report, has_reference=reference is not None)
        report.indices.extend([index] * len(targets))
        if rejection is not None:
            out["rejected"].append(f"{index}\t{rejection}\n")
            failure = rejection.partition("\t")[0]
            if report.failures[failure] <= NUM_EXAMPLES:
                shown = cut_texts(sources[place], own[0][0].words if own else "")
                add_examples(report.examples, {failure: [shown]})
        for target in targets:
            out["source"].append(f"{sources[place]}\n")
            out["target"].append(f"{target.words}\n")
            out["tags"].append("\n" if tags is None else f"{tags[place]}\n")
            if select.columns:
                out["choices"].append(target.row(index, len(select.columns)))
            if select.weighs:
                report.weights.append(target.weight)
    report.num_sentences, report.num_lines = len(sources), len(report.indices)
    return _Chosen({name: "".join(lines).encode() for name, lines in out.items()}, report)


def _with_text_failures(
    found: list[Nbest],
    sources: Sequence[str],
    settings: Failures,
    ratio_N: NDArray[np.float64],
    languages: Sequence[str] | None,
) -> list[Nbest]:
    """Return the candidates with the failures that their words show, for those without a failure so far.

    Args:
        ratio_N: typical ratio of each line.
        languages: target language of each line, for scripts by language.
    """
    words = [candidate.words for nbest in found for candidate, _ in nbest]
    source_of_each = [source for nbest, source in zip(found, sources, strict=True) for _ in nbest]
    ratio_of_each = np.repeat(ratio_N, [len(nbest) for nbest in found])
    language_of_each = None
    if languages is not None:
        language_of_each = [language for nbest, language in zip(found, languages, strict=True) for _ in nbest]
    codes_N = find_text_failures(
        words, source_of_each, settings, typical_ratio=ratio_of_each, languages=language_of_each
    )
    codes = iter(codes_N.tolist())
    names = (NO_FAILURE, *FAILURES)

    def seen(failure: str) -> str:
        code = next(codes)
        return names[code] if failure == NO_FAILURE else failure

    return [[(candidate, seen(failure)) for candidate, failure in nbest] for nbest in found]


def _choose(
    candidates: Nbest, line: Line, settings: Failures, select: Selector, report: MergeReport, *, has_reference: bool
) -> tuple[list[_Target], str | None]:
    """Return the targets of a line; if all candidates fail, also the failure and the action taken.

    Candidates that fail are excluded from the selection. If all candidates that the selector considers fail, the
    failure of the first one determines the action.
    """
    usable = [place for place, (_, failure) in enumerate(candidates) if failure == NO_FAILURE]
    if usable:
        rule = BEST if not has_reference and select.by_reference else select
        chosen = rule.choose([candidates[place][0] for place in usable], line)
        report.of_teacher.extend(b"\1" * len(chosen))
        return [_chosen(candidates, usable, rank, each, rule) for rank, each in enumerate(chosen, start=1)], None
    first = candidates[0][1] if candidates else "empty"
    report.failures[first] += 1
    action = _action(settings, first, has_reference=has_reference)
    if action == "keep":
        report.of_teacher.append(1)
        words, place = (candidates[0][0].words, 0) if candidates else ("", None)
        return [_Target(words, candidate=place, reason=f"{first}: kept")], f"{first}\tkept"
    if action == "reference":
        report.replaced[first] += 1
        report.of_teacher.append(0)
        return [_Target(line.reference, reason=f"{first}: reference")], f"{first}\treplaced by the reference"
    report.dropped[first] += 1
    return [], f"{first}\tdropped"


def _chosen(candidates: Nbest, usable: Sequence[int], rank: int, choice: Choice, rule: Selector) -> _Target:
    place = usable[choice.index]
    words = candidates[place][0].words
    return _Target(words, choice.weight, rank, place, len(usable), rule.reason, choice.values)


def _action(settings: Failures, failure: str, *, has_reference: bool) -> OnFailure:
    """Return the action for a failure; a line without a reference is dropped instead of replaced."""
    action: OnFailure = getattr(settings, failure)
    return "drop" if action == "reference" and not has_reference else action


def _with_scores(found: list[Nbest], path: Path, starts_N: NDArray[np.int64]) -> list[Nbest]:
    scores = np.load(path, mmap_mode="r")
    return [
        [
            (replace(candidate, given=tuple(given)), failure)
            for (candidate, failure), given in zip(nbest, scores[start : start + len(nbest)].tolist(), strict=True)
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
