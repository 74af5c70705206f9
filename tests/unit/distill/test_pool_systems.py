"""Tests of candidates of other systems, which are sorted by sentence."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tiny_pipeline import write_lines

from kdmt.choices import Failure
from kdmt.config import Failures, Text
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.text import TextProcessor
from kdmt.distill import pool_systems
from kdmt.distill.failures import CODES
from kdmt.distill.pool_systems import SystemCandidate, candidates_of, read_systems
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.types import UNK

NUMBERS = np.array([0, 1, 0, 2, 3, 1])  # lines 0 and 2, and 1 and 5, have the same sentence


class Upper:
    """Text processing that shows where it was applied."""

    directions = ()

    def target_words(self, line: str) -> str:
        return " ".join(line.upper().split())


class Codec:
    """Text whose tokens are letters."""

    text = Upper()

    def encode_target(self, words: list[str]) -> list[np.ndarray]:
        return [np.array([UNK if letter == "?" else ord(letter) for letter in [*line, "."]]) for line in words]


def sized(*words: str, failure: Failure | None = None) -> list[SystemCandidate]:
    """Return the words of candidates with their numbers of tokens and a failure."""
    return [(len(each) + 1, 0 if failure is None else CODES[failure], each) for each in words]


def read(tmp_path: Path, lines: list[str], numbers: Any = NUMBERS) -> list[list[SystemCandidate]]:
    write_lines(tmp_path / "theirs.tsv", lines)
    count = int(numbers.max()) + 1
    systems = read_systems(
        {"theirs": str(tmp_path / "theirs.tsv")},
        cast(TextCodec, Codec()),
        numbers,
        num_sentences=count,
        workdir=tmp_path,
        settings=Failures(),
    )
    assert systems[0].num_candidates == len(lines)
    return [own for (own,) in candidates_of(systems, 0, count)]


def test_candidates_belong_to_the_sentence_of_their_line_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = read(tmp_path, ["4\tlast", "2\ta  b", "0\tc", "5\td", "1\te", "2\t"])
    assert found == [
        [*sized("A B", "C"), *sized("", failure="empty")],
        sized("D", "E"),
        [],
        sized("LAST"),
    ]


def test_failures_are_found_in_words_and_in_the_vocabulary(tmp_path: Path) -> None:
    loop, often = " ".join(["DER HUND"] * 5), " ".join(["DER HUND"] * 3)
    found = read(tmp_path, [f"0\t{loop}", f"1\t{often}", "3\tA?", f"4\t{loop}?", "4\t10000000"])
    assert found == [
        sized(loop, failure="repetition"),
        sized(often),
        sized("A?", failure="unk"),
        [*sized(f"{loop}?", failure="repetition"), *sized("10000000")],
    ]


class Several(Codec):
    """Text of several directions, or of one of them."""

    def __init__(self, text: TextProcessor) -> None:
        self.text = text  # type: ignore[assignment]

    def for_direction(self, direction: Direction) -> Several:
        return Several(self.text.for_direction(direction))  # type: ignore[attr-defined]


def test_candidates_are_processed_in_the_target_language_of_their_line(tmp_path: Path) -> None:
    directions = (Direction("en", "fr"), Direction("fr", "en"))
    codec = Several(TextProcessor(Text(moses=True), "src", "tgt", None, directions=directions))
    write_lines(tmp_path / "theirs.tsv", ["0\tl'eau", "1\tit's", "2\tl'eau"])
    write_lines(tmp_path / "tags", ["en-fr", "fr-en", "en-fr"])
    systems = read_systems(
        {"theirs": str(tmp_path / "theirs.tsv")},
        cast(TextCodec, codec),
        np.arange(3),
        num_sentences=3,
        workdir=tmp_path,
        settings=Failures(),
        tags=[tmp_path / "tags"],
    )
    expected = ["l' eau", "it 's", "l' eau"]
    assert candidates_of(systems, 0, 3) == [[sized(words)] for words in expected]


def test_many_sentences_are_sorted_in_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_systems, "_SENTENCES", 7)
    monkeypatch.setattr(pool_systems, "_MAX_RANGES", 5)
    monkeypatch.setattr(pool_systems, "_AT_ONCE", 7)
    rng = random.Random(1)
    numbers = np.array([rng.randrange(100) for _ in range(300)])
    numbers[:100] = np.arange(100)
    lines = [(rng.randrange(300), f"w{place}") for place in range(1000)]
    expected: list[list[SystemCandidate]] = [[] for _ in range(100)]
    for index, words in lines:
        expected[numbers[index]].extend(sized(words.upper()))
    assert read(tmp_path, [f"{index}\t{words}" for index, words in lines], numbers) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["system_1", "system_1.npy", "theirs.tsv"]


def test_a_range_of_sentences_of_several_systems(tmp_path: Path) -> None:
    paths = {name: str(tmp_path / name) for name in ("a", "b")}
    write_lines(tmp_path / "a", [f"{index}\ta{index}" for index in range(6)])
    write_lines(tmp_path / "b", ["3\tb"])
    codec = cast(TextCodec, Codec())
    systems = read_systems(paths, codec, NUMBERS, num_sentences=4, workdir=tmp_path, settings=Failures())
    assert candidates_of(systems, 1, 2) == [[sized("A1", "A5"), []], [sized("A3"), sized("B")]]
    assert [(system.name, system.num_sentences) for system in systems] == [("a", 4), ("b", 1)]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [(["6\tx"], "theirs.tsv:1: index 6"), (["no tab"], "theirs.tsv:1: expected"), ([], "theirs.tsv: has no candidate")],
)
def test_errors(tmp_path: Path, lines: list[str], problem: str) -> None:
    (tmp_path / "theirs.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with pytest.raises(UserError, match=problem):
        read_systems(
            {"theirs": str(tmp_path / "theirs.tsv")},
            cast(TextCodec, Codec()),
            NUMBERS,
            num_sentences=4,
            workdir=tmp_path,
            settings=Failures(),
        )
