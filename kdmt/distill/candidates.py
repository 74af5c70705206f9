"""The file `nbest`: all hypotheses as text, from which the targets of training sets are chosen.

    number <TAB> score <TAB> length <TAB> failure or - <TAB> words

Each line has one hypothesis, best first. `number` is the index among the distinct sentences (`kdmt.distill.sources`),
`length` the number of tokens with </s>. `nbest.npy` in the same folder has the byte offset of each sentence's first
line, int64 [U + 1], so that single sentences can be read.

A pool of candidates has two more columns:

    number <TAB> score <TAB> length <TAB> failure or - <TAB> count <TAB> system <TAB> words

`count` is the number of times that the teacher drew the text, or that another system's file has it; 0 for a hypothesis
of beam search that was not drawn. `system` is 0 for the teacher, 1 for the first of the other systems. A text occurs
once for each sentence; if several systems have it, its `system` is the first of them and its `count` the sum. The score
of a candidate of another system is nan, and its length is that in the vocabulary of the data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from kdmt.config import Failures
from kdmt.corpus.process_pool import mapping_in_order
from kdmt.corpus.text_files import open_lines
from kdmt.distill.blocks import Block, Decoded, read_block
from kdmt.distill.decoding import BlockTask
from kdmt.distill.failures import FAILURES, Codes, Flags, find_token_failures
from kdmt.distill.pool_systems import SystemCandidates, candidates_of
from kdmt.distill.selection import Candidate
from kdmt.errors import UserError
from kdmt.files import naming

NO_FAILURE = "-"
_SCORES_AT_ONCE = 100_000
_NAMES = (NO_FAILURE, *FAILURES)

# (concatenated target ids of hypotheses, number of tokens of each) -> words of each hypothesis
ToWords = Callable[[NDArray[np.integer], NDArray[np.int32]], list[str]]
# (concatenated ids, number of tokens of each hypothesis, flags of the maximum length, settings) -> codes of failures
FindFailures = Callable[[NDArray[np.integer], NDArray[np.integer], Flags, Failures], Codes]
# (concatenated ids, number of ids of each hypothesis) -> number of tokens of each hypothesis, with </s>
CountTokens = Callable[[NDArray[np.integer], NDArray[np.integer]], NDArray[np.int32]]


@dataclass(frozen=True)
class GivenScores:
    """Scores of each candidate from F files of the user.

    Attributes:
        path: `.npy` file, float64 [H, F], in the order of `nbest`.
        starts_U: index of each sentence's first score, int64.
    """

    path: Path
    starts_U: NDArray[np.int64]


@dataclass(frozen=True)
class Written:
    """Statistics collected while candidates were written, for B sentences that have hypotheses."""

    made_with: list[Mapping[str, object]]  # from the header of each block
    scores_B: NDArray[np.float32]  # of the best hypothesis
    lengths_B: NDArray[np.int32]  # of the best hypothesis: number of tokens with </s>
    num_candidates: int


@dataclass(frozen=True)
class _Spelled:
    """The lines of `nbest` for one block."""

    text: bytes
    sizes_N: NDArray[np.int64]  # number of bytes of each sentence's lines
    made_with: Mapping[str, object]
    scores_B: NDArray[np.float32]
    lengths_B: NDArray[np.int32]
    num_candidates: int


def find_failures_of_tokens(
    tokens: NDArray[np.integer], sizes: NDArray[np.integer], at_limit: Flags, settings: Failures
) -> Codes:
    """Return the failures that ids of a vocabulary show; see `find_token_failures`."""
    return find_token_failures(tokens, sizes, at_limit, repetition_times=settings.repetition_times)


def count_ids(tokens: NDArray[np.integer], sizes: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return the number of ids of each hypothesis of a vocabulary, with </s>. See `CountTokens`."""
    del tokens
    return sizes.astype(np.int32) + 1


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
    systems: Sequence[SystemCandidates] = (),
    find_failures: FindFailures = find_failures_of_tokens,
    count_tokens: CountTokens = count_ids,
) -> Written:
    """Write `nbest` and its offsets from all blocks, after a check of each block.

    Args:
        to_words: function that converts ids to words; it can be sent to other processes.
        out, out_offsets: paths of the new files.
        workers: number of processes.
        vocab_size: size of the target dictionary; if given, all ids must be smaller.
        systems: candidates of other systems, for a pool.
        find_failures: function that finds the failures that ids show; it can be sent to other processes.
        count_tokens: function that counts the tokens of hypotheses; it can be sent to other processes.

    Raises:
        UserError: if a block is missing, damaged or made from something else.
    """
    offsets = np.zeros(1 + sum(task.count for task in tasks), dtype="<i8")
    found: list[_Spelled] = []
    first = 1
    spell = partial(
        _spell_block, blocks, made_from, to_words, settings, vocab_size, systems, find_failures, count_tokens
    )
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
        sum(spelled.num_candidates for spelled in found),
    )


def _spell_block(
    blocks: Path,
    made_from: Mapping[str, object],
    to_words: ToWords,
    settings: Failures,
    vocab_size: int | None,
    systems: Sequence[SystemCandidates],
    find_failures: FindFailures,
    count_tokens: CountTokens,
    task: BlockTask,
) -> _Spelled:
    header, decoded = read_block(blocks, task.block, made_from=made_from, hashes_N=task.hashes_N, vocab_size=vocab_size)
    codes_H = find_failures(decoded.tokens_T, decoded.sizes_H, decoded.at_limit_H > 0, settings)
    lengths_H = count_tokens(decoded.tokens_T, decoded.sizes_H)
    numbers_H = np.repeat(np.arange(task.block.first, task.block.first + task.count), decoded.counts_N)
    rows = zip(
        numbers_H.tolist(),
        decoded.scores_H.tolist(),
        lengths_H.tolist(),
        codes_H.tolist(),
        to_words(decoded.tokens_T, decoded.sizes_H),
        strict=True,
    )
    if decoded.draws_H is None:
        lines, counts_N = [format_candidate(*row) for row in rows], decoded.counts_N.astype(np.int64)
    else:
        lines, counts_N = _pool_lines(list(rows), decoded, systems, task.block)
    sizes_H = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines))
    ends_N = np.cumsum(counts_N)
    sums = np.concatenate([[0], np.cumsum(sizes_H)])
    best_B = (np.cumsum(decoded.counts_N) - decoded.counts_N)[decoded.counts_N > 0]
    return _Spelled(
        b"".join(lines),
        sums[ends_N] - sums[ends_N - counts_N],
        header["made_with"],
        decoded.scores_H[best_B],
        lengths_H[best_B],
        len(lines),
    )


def _pool_lines(
    rows: Sequence[tuple[int, float, int, int, str]],
    decoded: Decoded,
    systems: Sequence[SystemCandidates],
    block: Block,
) -> tuple[list[bytes], NDArray[np.int64]]:
    """Return the lines of the distinct texts of each sentence, and their number for each sentence: int64 [N]."""
    assert decoded.draws_H is not None
    draws, lines, counts = decoded.draws_H.tolist(), list[bytes](), list[int]()
    start = 0
    others = candidates_of(systems, block.first, block.count)
    for place, count in enumerate(decoded.counts_N.tolist()):
        # text -> the first candidate with it: score, length, failure; its number of draws, and its system
        found: dict[str, tuple[tuple[float, int, int], int, int]] = {}
        own = slice(start, start + count)
        for (_, score, length, code, words), drawn in zip(rows[own], draws[own], strict=True):
            facts, times, owner = found.get(words, ((score, length, code), 0, 0))
            found[words] = (facts, times + drawn, owner)
        for system, texts in enumerate(others[place], start=1):
            for length, code, words in texts:
                facts, times, owner = found.get(words, ((math.nan, length, code), 0, system))
                found[words] = (facts, times + 1, owner)
        lines += [
            format_candidate(block.first + place, *facts, words, origin=(times, owner))
            for words, (facts, times, owner) in found.items()
        ]
        counts.append(len(found))
        start += count
    return lines, np.array(counts, dtype=np.int64)


def format_candidate(
    number: int, score: float, length: int, code: int, words: str, *, origin: tuple[int, int] | None = None
) -> bytes:
    """Return a line of `nbest`.

    Args:
        code: code of a failure, 0 for none.
        origin: count and system of a candidate of a pool.
    """
    # a vocabulary of bytes can produce line ends
    if "\n" in words or "\t" in words:
        words = " ".join(words.split())
    columns = "" if origin is None else f"{origin[0]}\t{origin[1]}\t"
    return f"{number}\t{score:.7g}\t{length}\t{_NAMES[code]}\t{columns}{words}\n".encode()


class Candidates:
    """Reader of `nbest` that reads sentences in any order from one open file."""

    def __init__(self, path: Path) -> None:
        with ExitStack() as files:
            self._file = files.enter_context(path.open("rb"))
            self._files = files.pop_all()

    def close(self) -> None:
        self._files.close()

    def read(
        self, starts_N: NDArray[np.int64], stops_N: NDArray[np.int64], *, depth: int
    ) -> list[list[tuple[Candidate, str]]]:
        """Return the first `depth` candidates of each sentence, each with its failure or `-`.

        Args:
            starts_N, stops_N: byte offsets of the lines of each sentence.
            depth: maximum number of candidates of a sentence.
        """
        texts = _slices(self._file.fileno(), starts_N, stops_N)
        return [[_parse(line) for line in text.split("\n")[:-1][:depth]] for text in texts]


def _parse(line: str) -> tuple[Candidate, str]:
    _, score, length, failure, *origin, words = line.split("\t")
    count, system = map(int, origin) if origin else (1, 0)
    return Candidate(words, float(score), int(length), count=count, system=system), failure


def _slices(file: int, starts_N: NDArray[np.int64], stops_N: NDArray[np.int64]) -> list[str]:
    """Return the text of byte ranges; adjacent ranges are read together."""
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


def read_scores(paths: Sequence[Path], nbest: Path, offsets: Path, workdir: Path) -> GivenScores:
    """Convert the scores of text files, one number per line, to an array in `workdir`.

    Raises:
        UserError: if a line is not a number, or the number of lines is wrong.
    """
    counts_U = count_candidates(nbest, offsets)
    out = workdir / "scores.npy"
    with naming(out):
        scores_HF = open_memmap(out, mode="w+", dtype=np.float64, shape=(int(counts_U.sum()), len(paths)))
        for column, path in enumerate(paths):
            _read_column(path, nbest, scores_HF[:, column])
        scores_HF.flush()
    return GivenScores(out, np.cumsum(counts_U) - counts_U)


def count_candidates(nbest: Path, offsets: Path) -> NDArray[np.int64]:
    """Return the number of candidates of each sentence [U]."""
    counts_U = np.zeros(len(np.load(offsets, mmap_mode="r")) - 1, dtype=np.int64)
    with nbest.open("rb") as file:
        for candidate in file:
            counts_U[int(candidate[: candidate.index(b"\t")])] += 1
    return counts_U


def _read_column(path: Path, nbest: Path, scores_H: NDArray[np.float64]) -> None:
    lines = enumerate(open_lines(path, member=None, name=str(path)), start=1)
    scores = (_number(path, number, line) for number, line in lines)
    done = 0
    while len(part := np.fromiter(islice(scores, _SCORES_AT_ONCE), dtype=np.float64)):
        fitting = part[: max(len(scores_H) - done, 0)]
        scores_H[done : done + len(fitting)] = fitting
        done += len(part)
    if done != len(scores_H):
        raise UserError(f"{path}: {done:,} scores for the {len(scores_H):,} lines of {nbest}")


def _number(path: Path, number: int, line: str) -> float:
    try:
        score = float(line)
    except ValueError:
        score = math.nan
    if math.isnan(score):
        raise UserError(f"{path}:{number}: not a number: {line[:40]!r}")
    return score
