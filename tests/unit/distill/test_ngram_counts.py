"""Tests of n-gram counts from sorted arrays against `collections.Counter`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.distill import ngram_counts
from kdmt.distill.ngram_counts import NgramColumns, ngram_columns, symbols_of

ORDER = 4
texts_of_words = st.lists(st.lists(st.sampled_from("abc"), max_size=9), min_size=1, max_size=6)


def columns_of(texts: Sequence[Sequence[str]]) -> list[NgramColumns]:
    return ngram_columns(*symbols_of(texts), len(texts), ORDER)


def counts_of(text: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[start : start + order]) for start in range(len(text) - order + 1))


def shared(text: Sequence[str], other: Sequence[str], order: int) -> int:
    return (counts_of(text, order) & counts_of(other, order)).total()


@given(texts_of_words, st.integers(1, 40))
def test_matches_of_pairs_equal_counters(texts: list[list[str]], max_cells: int) -> None:
    rows, every = np.arange(len(texts))[::2], np.arange(len(texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_counts, "MAX_CELLS", max_cells)  # several blocks of columns
        for order, columns in enumerate(columns_of(texts), start=1):
            assert columns.totals_T.tolist() == [max(len(text) - order + 1, 0) for text in texts]
            expected = [[shared(texts[row], other, order) for other in texts] for row in rows]
            assert columns.matches(rows, every).tolist() == expected


@given(texts_of_words, st.data())
def test_mean_matches_equal_the_mean_of_the_matches_of_pairs(texts: list[list[str]], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0, 1), min_size=len(texts), max_size=len(texts)))
    for order, columns in enumerate(columns_of(texts), start=1):
        expected = [
            sum(weight * shared(text, other, order) for weight, other in zip(weights, texts, strict=True))
            for text in texts
        ]
        assert columns.mean_matches(np.array(weights)).tolist() == pytest.approx(expected, abs=1e-9)


def test_ngrams_do_not_extend_into_the_next_text() -> None:
    bigrams = columns_of([["a"], ["b", "c"], [], ["c", "a", "b", "c"]])[1]
    assert bigrams.totals_T.tolist() == [0, 1, 0, 3]
    assert bigrams.matches(np.array([1]), np.array([0, 3])).tolist() == [[0, 1]]
