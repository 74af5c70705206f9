"""Tests of text of several directions: numbers before sources, marks before hypotheses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_pipeline import write_lines

from kdmt.config import Failures
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.distill.candidates import count_ids, find_failures_of_tokens
from kdmt.distill.direction_text import (
    CountTokensOfDirections,
    DirectionsText,
    DirectionsToWords,
    FindFailuresOfDirections,
    Marks,
)
from kdmt.distill.failures import CODES
from kdmt.distill.inputs import Inputs
from kdmt.distill.sources import find_sources
from kdmt.errors import UserError
from kdmt.languages import POOLED

NAMES = ("en-de", "en-fr", "fr-en")
LINES = ["a b", "c", "a b", "a b", "c", "x", "c", "a b"]
TAGS = ["en-de", "en-de", "en-de", "en-fr", "en-fr", "fr-en", "fr-en", "en-de"]


@dataclass(frozen=True)
class Lettered:
    """All lines as numbers of their letters, more by `shift`."""

    shift: int

    def __len__(self) -> int:
        return len(LINES)

    def sentences(self, lines_N: NDArray[np.int64]) -> list[NDArray[np.integer]]:
        return [np.array([*(ord(c) + self.shift for c in LINES[line]), 2]) for line in lines_N.tolist()]

    def chunks(self) -> Iterator[tuple[NDArray[np.integer], NDArray[np.int32]]]:
        raise AssertionError("not used")


def text(folder: Path, tags: list[str] = TAGS) -> DirectionsText:
    write_lines(folder / "train.src", LINES)
    write_lines(folder / "train.tags", tags)
    inputs = Inputs(PreparedCorpus(folder, POOLED, (True, True)))
    return DirectionsText(inputs, NAMES, {0: Lettered(0), 2: Lettered(1000)})


def test_sources_have_the_number_of_their_direction_and_the_ids_of_its_teacher(tmp_path: Path) -> None:
    found = [ids.tolist() for ids in text(tmp_path).sentences(np.array([1, 3, 5, 7]))]
    assert found == [[0, ord("c"), 2], [1], [2, ord("x") + 1000, 2], [0, ord("a"), ord(" "), ord("b"), 2]]


def test_equal_lines_of_one_direction_are_one_sentence(tmp_path: Path) -> None:
    sources = find_sources(text(tmp_path), once=True, workdir=tmp_path)
    keys = [(tag, "" if tag == "en-fr" else line) for tag, line in zip(TAGS, LINES, strict=True)]
    order = list(dict.fromkeys(keys))
    assert sources.numbers_L.tolist() == [order.index(key) for key in keys]


def test_a_tag_that_is_no_direction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.tags:8: 'de-en' is none of the directions en-de, en-fr, fr-en"):
        text(tmp_path, [*TAGS[:-1], "de-en"])


def test_marks_lead_hypotheses_to_their_teacher() -> None:
    marks = Marks(first=100, num_directions=3)
    assert marks.vocab_size == 106
    hypotheses = [(2, True, [7, 8]), (0, False, []), (0, False, [9, 9, 9, 9]), (2, False, [3]), (0, True, [5])]
    flat = [[marks.mark(number, at_limit=limit), *ids] for number, limit, ids in hypotheses]
    tokens, sizes = np.array([token for each in flat for token in each]), np.array([*map(len, flat)], np.int32)

    def spelled(name: str) -> DirectionsToWords:
        def words(tokens: NDArray[np.integer], sizes: NDArray[np.int32]) -> list[str]:
            parts = np.split(tokens, np.cumsum(sizes)[:-1])
            return [f"{name}{part.tolist()}" for part in parts]

        return words  # type: ignore[return-value]

    to_words = DirectionsToWords(marks, {0: spelled("first"), 2: spelled("third")})
    expected = [f"{('first', '', 'third')[number]}{ids}" for number, _, ids in hypotheses]
    assert to_words(tokens, sizes) == expected
    failures = FindFailuresOfDirections(marks, {0: find_failures_of_tokens, 2: find_failures_of_tokens})
    codes = failures(tokens, sizes, np.zeros(5, dtype=bool), Failures())
    names = ["too_long", "empty", "repetition", "unk", "too_long"]
    assert codes.tolist() == [CODES[name] for name in names]  # type: ignore[index]
    counts = CountTokensOfDirections(marks, {0: count_ids, 2: count_ids})
    assert counts(tokens, sizes).tolist() == [len(ids) + 1 for _, _, ids in hypotheses]
