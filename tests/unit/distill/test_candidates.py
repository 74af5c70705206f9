"""Tests of the n-best file: it is written from blocks and read by sentence; external scores refer to its lines."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from failure_oracle import find_failure
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipeline import read_lines, write_lines

from kdmt.config import Failures
from kdmt.distill import candidates as module
from kdmt.distill.blocks import DamagedBlock, Decoded, plan_blocks, write_block
from kdmt.distill.candidates import Candidates, format_candidate, read_scores, write_candidates
from kdmt.distill.decoding import BlockTask
from kdmt.errors import UserError
from kdmt.types import UNK, Hypothesis

MADE_FROM = {"teacher": "t"}
SETTINGS = Failures(repetition_times=3)
LIMIT = 6
# tokens and score of each hypothesis of each sentence
Nbest = list[list[tuple[list[int], float]]]


def spell(tokens: np.ndarray, sizes: np.ndarray) -> list[str]:
    """Return the words of each hypothesis; token 9 becomes an empty string. A local function could not be pickled."""
    words = iter(f"w{token}\u2028é" if token != 9 else "" for token in tokens.tolist())
    return [" ".join(next(words) for _ in range(size)) for size in sizes.tolist()]


@dataclass
class Written:
    folder: Path
    tasks: list[BlockTask]

    def write(self, workers: int = 1) -> module.Written:
        return write_candidates(
            self.tasks,
            self.folder,
            made_from=MADE_FROM,
            to_words=spell,
            settings=SETTINGS,
            out=self.folder / "nbest",
            out_offsets=self.folder / "nbest.npy",
            workers=workers,
        )


def write_blocks(folder: Path, nbest: Nbest, block_size: int) -> Written:
    hashes = np.arange(len(nbest), dtype="<u8")
    tasks = []
    for block in plan_blocks(len(nbest), block_size):
        own = slice(block.first, block.first + block.count)
        decoded = Decoded.of(
            [[Hypothesis(tuple(tokens), score) for tokens, score in sentence] for sentence in nbest[own]],
            hashes_N=hashes[own],
            max_len_N=[LIMIT] * block.count,
            vocab_size=100,
        )
        write_block(folder, block, decoded, made_from=MADE_FROM, made_with={"block": block.number})
        tasks.append(BlockTask(block, np.arange(len(nbest))[own], hashes[own]))
    return Written(folder, tasks)


def expected_lines(nbest: Nbest) -> list[list[str]]:
    found = []
    for number, sentence in enumerate(nbest):
        found.append([])
        for tokens, score in sentence:
            failure = find_failure(tokens, hit_limit=len(tokens) >= LIMIT, settings=SETTINGS) or "-"
            words = " ".join("" if token == 9 else f"w{token}\u2028é" for token in tokens)
            found[-1].append(f"{number}\t{np.float32(score):.7g}\t{len(tokens) + 1}\t{failure}\t{words}")
    return found


nbests = st.lists(
    st.lists(st.tuples(st.lists(st.integers(UNK, 9), max_size=7), st.floats(-90, 0, width=32)), max_size=3),
    min_size=1,
    max_size=9,
)


@given(nbests, st.integers(1, 10), st.data())
def test_hypotheses_are_read_back_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, nbest: Nbest, block_size: int, data: st.DataObject
) -> None:
    written = write_blocks(tmp_path_factory.mktemp("blocks"), nbest, block_size)
    seen, expected = written.write(), expected_lines(nbest)
    assert seen.made_with == [{"block": number} for number in range(len(written.tasks))]
    best = [own[0] for own in nbest if own]
    assert seen.lengths_B.tolist() == [len(tokens) + 1 for tokens, _ in best]
    assert seen.scores_B.tolist() == [np.float32(score) for _, score in best]
    text = (written.folder / "nbest").read_text(encoding="utf-8")
    assert text == "".join(f"{line}\n" for own in expected for line in own)
    offsets = np.load(written.folder / "nbest.npy")
    assert offsets.dtype == np.int64
    sizes = [sum(len(line.encode()) + 1 for line in own) for own in expected]
    assert offsets.tolist() == [0, *np.cumsum(sizes).tolist()]

    order = np.array(data.draw(st.lists(st.integers(0, len(nbest) - 1), max_size=12)), dtype=np.int64)
    depth = data.draw(st.integers(1, 4))
    candidates = Candidates(written.folder / "nbest")
    found = candidates.read(offsets[order], offsets[order + 1], depth=depth)
    candidates.close()
    again = [
        [f"{candidate.score:.7g}\t{candidate.length}\t{failure}\t{candidate.words}" for candidate, failure in own]
        for own in found
    ]
    assert again == [[line.partition("\t")[2] for line in expected[number][:depth]] for number in order.tolist()]


def test_file_does_not_depend_on_number_of_workers(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    nbest = [[(rng.integers(3, 9, rng.integers(0, 8)).tolist(), -float(k)) for k in range(3)] for _ in range(50)]
    written = write_blocks(tmp_path, nbest, 4)
    written.write()
    alone = [(tmp_path / name).read_bytes() for name in ("nbest", "nbest.npy")]
    assert written.write(workers=2).made_with == [{"block": number} for number in range(13)]
    assert [(tmp_path / name).read_bytes() for name in ("nbest", "nbest.npy")] == alone


def test_scores_are_written_with_float32_precision(tmp_path: Path) -> None:
    """Seven digits do not represent every float32 exactly, but never reverse the order of two values."""
    scores = [-0.1, -0.10000001, -1 / 3, -123.45678, -1e-30, -1e30, 0.0]
    write_blocks(tmp_path, [[([5], score) for score in scores]], 1).write()
    found = [float(line.split("\t")[1]) for line in read_lines(tmp_path / "nbest")]
    assert found == pytest.approx([float(np.float32(score)) for score in scores], rel=5e-7)


def test_damaged_or_missing_block_is_named(tmp_path: Path) -> None:
    written = write_blocks(tmp_path, [[([5], -1.0)]] * 9, 3)
    path = tmp_path / "000001.gz"
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:-40] + b"x" + data[-39:]))
    with pytest.raises(DamagedBlock, match=r"000001\.gz: damaged: its checksum does not match"):
        written.write()
    path.unlink()
    with pytest.raises(DamagedBlock, match=r"000001\.gz: the block is missing"):
        written.write(workers=2)


# ------------------------------------------------------------------------------------------------------ external scores


@pytest.fixture
def nbest(tmp_path: Path) -> Path:
    """Write an n-best file of four sentences with two, zero, one and three hypotheses."""
    counts, lines = [2, 0, 1, 3], list[bytes]()
    sizes = [0]
    for number, count in enumerate(counts):
        own = [format_candidate(number, -1.0, 2, 0, f"word {k}") for k in range(count)]
        lines += own
        sizes.append(sum(map(len, own)))
    (tmp_path / "nbest").write_bytes(b"".join(lines))
    np.save(tmp_path / "nbest.npy", np.cumsum(sizes))
    return tmp_path / "nbest"


def give(nbest: Path, *scores: str) -> tuple[list[float], list[int]]:
    path = nbest.with_name("scores")
    write_lines(path, scores)
    given = read_scores([path], nbest, nbest.with_name("nbest.npy"), nbest.parent)
    return np.load(given.path)[:, 0].tolist(), given.starts_U.tolist()


def test_scores_are_assigned_to_the_lines_of_the_nbest(nbest: Path) -> None:
    scores, starts = give(nbest, "1", "-2.5", "3e-2", "-inf", " 5 ", "6")
    assert scores == [1.0, -2.5, 0.03, -math.inf, 5.0, 6.0]
    assert starts[0] == 0
    assert starts[2:] == [2, 3]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "0 scores for the 6 lines of"),
        (["1"] * 5, "5 scores for the 6 lines of"),
        (["1"] * 7, "7 scores for the 6 lines of"),
        (["1", "2", "", "4", "5", "6"], ":3: not a number: ''"),
        (["1", "nan", "3", "4", "5", "6"], ":2: not a number: 'nan'"),
        (["1", "2", "3", "4", "5", "six" * 30], f":6: not a number: '{('six' * 30)[:40]}'"),
        (["1 2", "3", "4", "5", "6", "7"], ":1: not a number: '1 2'"),
    ],
)
def test_invalid_score_is_refused_with_its_line(nbest: Path, scores: list[str], message: str) -> None:
    with pytest.raises(UserError, match=rf"scores:? ?{message}"):
        give(nbest, *scores)


def test_line_breaks_in_a_hypothesis_become_spaces() -> None:
    assert format_candidate(3, -0.5, 4, 0, "a\nb\tc") == b"3\t-0.5\t4\t-\ta b c\n"
