"""Tests of words and delays of simultaneous translation; tests/pipeline/test_simultaneous.py has the whole of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.decode.engines.simultaneous import SourceWords, WordWriter, check_spaces, word_delays
from kdmt.errors import UserError
from kdmt.languages import Direction


def subwords(tokens: Sequence[int]) -> str:
    """Return the text of tokens: an even one begins a word, an odd one continues it."""
    return "".join(f" {token}" if token % 2 == 0 else f"-{token}" for token in tokens).strip()


def lines_as_ids(lines: Sequence[str]) -> list[np.ndarray]:
    """Return one token for each letter of each word, and </s>."""
    return [np.array([*range(len(line.replace(" ", ""))), 2]) for line in lines]


def test_a_word_is_complete_when_the_next_one_begins() -> None:
    writer = WordWriter(subwords)
    assert [writer.write([token]) for token in (2, 3, 4, 6, 7)] == [[], [], ["2-3"], ["4"], []]
    assert writer.end() == ["6-7"]
    assert WordWriter(subwords).end() == []


def test_punctuation_is_written_with_the_word_before_it() -> None:
    """Finished text attaches it, so the word before it is not complete until another word begins."""
    writer = WordWriter(lambda tokens: " ".join("ab."[token] for token in tokens).replace(" .", "."))
    assert [writer.write([token]) for token in (0, 2, 1)] == [[], [], ["a."]]
    assert writer.end() == ["b"]


@given(st.lists(st.lists(st.integers(2, 9), max_size=4), max_size=5))
def test_words_do_not_depend_on_how_tokens_are_grouped(groups: list[list[int]]) -> None:
    tokens = [token for group in groups for token in group]
    writer = WordWriter(subwords)
    words = [word for group in groups for word in writer.write(group)]
    assert words + writer.end() == subwords(tokens).split()


def test_a_token_is_read_with_its_whole_word() -> None:
    source = SourceWords.of("ab cde f", lines_as_ids)
    assert list(source.counts) == [2, 5, 6]
    assert [source.containing(tokens) for tokens in range(1, 8)] == [1, 1, 2, 2, 2, 3, 3]  # the last one is </s>
    assert list(SourceWords.of("", lines_as_ids).counts) == []


@pytest.mark.parametrize("seed", range(5))
def test_delays_are_the_words_read_when_a_word_was_complete(seed: int) -> None:
    """Compare with a reader that looks at every word of the source after every step."""
    generator = random.Random(seed)
    line = " ".join("x" * generator.randint(1, 3) for _ in range(6))
    length = len(line.replace(" ", "")) + 1
    tokens = [generator.randint(2, 9) for _ in range(8)]
    reads = sorted(generator.randint(1, length) for _ in range(9))
    expected: list[int] = []
    for step in range(9):
        text = subwords(tokens[: step + 1]).split()
        complete = text if step == 8 else text[:-1]
        read = next(
            (n for n in range(1, 7) if len("".join(line.split()[:n])) >= reads[step]), 6
        )  # the fewest words that have the tokens
        expected += [read] * (len(complete) - len(expected))
    assert word_delays(tokens, reads, SourceWords.of(line, lines_as_ids), subwords) == expected


def test_languages_without_spaces_are_refused() -> None:
    check_spaces(Direction("en", "de"))
    with pytest.raises(UserError, match="'zh' is written without spaces"):
        check_spaces(Direction("en", "zh"))
