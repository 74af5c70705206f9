"""Tests of n-gram counts from sorted arrays against `collections.Counter`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.distill import ngram_counts
from kdmt.distill.ngram_counts import Symbols

ORDER = 4
texts_of_words = st.lists(st.lists(st.sampled_from("abc"), max_size=9), min_size=1, max_size=6)


def counts_of(text: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[start : start + order]) for start in range(len(text) - order + 1))


def shared(text: Sequence[str], other: Sequence[str], order: int) -> int:
    return (counts_of(text, order) & counts_of(other, order)).total()


@given(texts_of_words, st.integers(1, 40), st.booleans())
def test_matches_of_pairs_equal_counters(texts: list[list[str]], max_cells: int, fits: bool) -> None:
    rows, every = np.arange(len(texts))[::2], np.arange(len(texts))
    symbols = Symbols.of_words(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_counts, "MAX_CELLS", max_cells)  # several parts
        if not fits:
            patch.setattr(ngram_counts, "_BITS", 1)
        matches = symbols.matches(ORDER, rows, every)
    totals = symbols.totals(ORDER)
    for n in range(ORDER):
        assert totals[n].tolist() == [max(len(text) - n, 0) for text in texts]
        assert matches[n].tolist() == [[shared(texts[row], other, n + 1) for other in texts] for row in rows]


@given(texts_of_words, st.data())
def test_mean_matches_equal_the_mean_of_the_matches_of_pairs(texts: list[list[str]], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0, 1), min_size=len(texts), max_size=len(texts)))
    found = Symbols.of_words(texts).mean_matches(ORDER, np.array(weights))
    for n in range(ORDER):
        expected = [
            sum(weight * shared(text, other, n + 1) for weight, other in zip(weights, texts, strict=True))
            for text in texts
        ]
        assert found[n].tolist() == pytest.approx(expected, abs=1e-9)


def test_ngrams_do_not_extend_into_the_next_text() -> None:
    symbols = Symbols.of_words([["a"], ["b", "c"], [], ["c", "a", "b", "c"]])
    assert symbols.totals(2)[1].tolist() == [0, 1, 0, 3]
    assert symbols.matches(2, np.array([1]), np.array([0, 3]))[1].tolist() == [[0, 1]]


def test_characters_are_the_symbols_of_a_text() -> None:
    texts = ["abca", "", "ca😀a"]
    characters, words = Symbols.of_characters(texts), Symbols.of_words([list(text) for text in texts])
    every = np.arange(3)
    assert np.array_equal(characters.matches(6, every, every), words.matches(6, every, every))
