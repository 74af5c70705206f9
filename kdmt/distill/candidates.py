"""The file `nbest`: every hypothesis as text, from which training sets are chosen.

    number <TAB> score <TAB> length <TAB> failure or - <TAB> words

A line a hypothesis, best first; `number` counts different sentences (`kdmt.distill.sources`), `length` tokens with
</s>. `nbest.npy` beside it has where each sentence's lines begin, in bytes, int64 [U + 1], so that one sentence can be
read alone.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Failures
from kdmt.corpus.pool import mapping_in_order
from kdmt.corpus.text_files import open_lines
from kdmt.distill.blocks import read_block
from kdmt.distill.decoding import BlockTask
from kdmt.distill.failures import FAILURES, find_token_failures
from kdmt.distill.selection import Candidate
from kdmt.errors import UserError
from kdmt.files import naming

NO_FAILURE = "-"
_NAMES = (NO_FAILURE, *FAILURES)

# target ids of hypotheses, back to back, and their sizes -> the words of each
ToWords = Callable[[NDArray[np.integer], NDArray[np.int32]], list[str]]


@dataclass(frozen=True)
class GivenScores:
    """A score for each candidate, from elsewhere.

    Attributes:
        path: a `.npy` of float64 [H], in the order of `nbest`.
        starts_U: int64, where each sentence's scores begin.
    """

    path: Path
    starts_U: NDArray[np.int64]


@dataclass(frozen=True)
class Written:
    """What was seen while candidates were written; B sentences that have any."""

    made_with: list[Mapping[str, object]]  # of each block
    scores_B: NDArray[np.float32]  # of the best
    lengths_B: NDArray[np.int32]  # of the best, tokens with </s>


@dataclass(frozen=True)
class _Spelled:
    """The lines of a block."""

    text: bytes
    sizes_N: NDArray[np.int64]  # bytes of each sentence's lines
    made_with: Mapping[str, object]
    scores_B: NDArray[np.float32]
    lengths_B: NDArray[np.int32]


def write_candidates(
    tasks: Sequence[BlockTask],
    blocks: Path,
    *,
    made_from: Mapping[str, object],
    to_words: ToWords,
    settings: Failures,
    out: Path,
    out_offsets: Path,
    workers: int,
    vocab_size: int | None = None,
) -> Written:
    """Write `nbest` and its offsets from all blocks, each of which is checked.

    Args:
        to_words: can be sent to other processes.
        out, out_offsets: the new files.
        workers: processes.
        vocab_size: of the target dictionary, which all ids are to be within.

    Raises:
        UserError: a block is missing, damaged or made from something else.
    """
    offsets = np.zeros(1 + sum(task.count for task in tasks), dtype="<i8")
    found: list[_Spelled] = []
    first = 1
    spell = partial(_spell_block, blocks, made_from, to_words, settings, vocab_size)
    with naming(out), out.open("wb") as file, mapping_in_order(spell, workers) as map_in_order:
        for task, spelled in zip(tasks, map_in_order(tasks), strict=True):
            file.write(spelled.text)
            offsets[first : first + task.count] = spelled.sizes_N
            first += task.count
            found.append(replace(spelled, text=b"", sizes_N=offsets[:0]))
    np.cumsum(offsets, out=offsets)
    with naming(out_offsets):
        np.save(out_offsets, offsets)
    return Written(
        [spelled.made_with for spelled in found],
        np.concatenate([spelled.scores_B for spelled in found] or [np.empty(0, np.float32)]),
        np.concatenate([spelled.lengths_B for spelled in found] or [np.empty(0, np.int32)]),
    )


def _spell_block(
    blocks: Path,
    made_from: Mapping[str, object],
    to_words: ToWords,
    settings: Failures,
    vocab_size: int | None,
    task: BlockTask,
) -> _Spelled:
    header, decoded = read_block(blocks, task.block, made_from=made_from, hashes_N=task.hashes_N, vocab_size=vocab_size)
    codes_H = find_token_failures(
        decoded.tokens_T, decoded.sizes_H, decoded.at_limit_H > 0, repetition_times=settings.repetition_times
    )
    numbers_H = np.repeat(np.arange(task.block.first, task.block.first + task.count), decoded.counts_N)
    rows = zip(
        numbers_H.tolist(),
        decoded.scores_H.tolist(),
        (decoded.sizes_H + 1).tolist(),
        codes_H.tolist(),
        to_words(decoded.tokens_T, decoded.sizes_H),
        strict=True,
    )
    lines = [format_candidate(*row) for row in rows]
    sizes_H = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines))
    ends_N = np.cumsum(decoded.counts_N)
    sums = np.concatenate([[0], np.cumsum(sizes_H)])
    best_B = (ends_N - decoded.counts_N)[decoded.counts_N > 0]
    return _Spelled(
        b"".join(lines),
        sums[ends_N] - sums[ends_N - decoded.counts_N],
        header["made_with"],
        decoded.scores_H[best_B],
        decoded.sizes_H[best_B] + 1,
    )


def format_candidate(number: int, score: float, length: int, code: int, words: str) -> bytes:
    """A line of `nbest`; `code` is that of a failure, 0 for none. A vocabulary of bytes can spell the end of a line."""
    if "\n" in words or "\t" in words:
        words = " ".join(words.split())
    return f"{number}\t{score:.7g}\t{length}\t{_NAMES[code]}\t{words}\n".encode()


class Candidates:
    """Reads `nbest` sentence by sentence, in any order, through one open file."""

    def __init__(self, path: Path) -> None:
        with ExitStack() as files:
            self._file = files.enter_context(path.open("rb"))
            self._files = files.pop_all()

    def close(self) -> None:
        self._files.close()

    def read(
        self, starts_N: NDArray[np.int64], stops_N: NDArray[np.int64], *, depth: int
    ) -> list[list[tuple[Candidate, str]]]:
        """The first `depth` candidates of sentences that lie at these bytes, each with its failure or `-`."""
        texts = _slices(self._file.fileno(), starts_N, stops_N)
        return [[_parse(line) for line in text.split("\n")[:-1][:depth]] for text in texts]


def _parse(line: str) -> tuple[Candidate, str]:
    _, score, length, failure, words = line.split("\t", 4)
    return Candidate(words, float(score), int(length)), failure


def _slices(file: int, starts_N: NDArray[np.int64], stops_N: NDArray[np.int64]) -> list[str]:
    """Text between bytes; what lies one behind the other is read in one piece."""
    texts: list[str] = []
    breaks = np.flatnonzero(starts_N[1:] != stops_N[:-1]) + 1
    for run in np.split(np.arange(len(starts_N)), breaks):
        if not len(run):
            continue
        first = int(starts_N[run[0]])
        data = os.pread(file, int(stops_N[run[-1]]) - first, first)
        bounds = zip((starts_N[run] - first).tolist(), (stops_N[run] - first).tolist(), strict=True)
        texts += [data[start:stop].decode() for start, stop in bounds]
    return texts


def read_scores(path: Path, nbest: Path, offsets: Path, workdir: Path) -> GivenScores:
    """The scores of a text file, a number a line, as an array in `workdir`.

    Raises:
        UserError: naming the line that is no number, or how many lines there are and should be.
    """
    counts_U = np.zeros(len(np.load(offsets, mmap_mode="r")) - 1, dtype=np.int64)
    out = workdir / "scores.npy"
    with nbest.open("rb") as file:
        for candidate in file:
            counts_U[int(candidate[: candidate.index(b"\t")])] += 1
    scores = array("d")
    for number, line in enumerate(open_lines(path, member=None, name=str(path)), start=1):
        try:
            score = float(line)
        except ValueError:
            score = math.nan
        if math.isnan(score):
            raise UserError(f"{path}:{number}: not a number: {line[:40]!r}")
        scores.append(score)
    if len(scores) != counts_U.sum():
        raise UserError(f"{path}: {len(scores):,} scores for the {int(counts_U.sum()):,} lines of {nbest}")
    with naming(out):
        np.save(out, np.frombuffer(scores, dtype=np.float64))
    return GivenScores(out, np.cumsum(counts_U) - counts_U)
