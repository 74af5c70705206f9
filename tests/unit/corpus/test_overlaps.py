"""Tests of the counts of pairs that corpora share, against a direct comparison of the pairs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.overlaps import count_overlaps


@given(corpora=st.lists(st.lists(st.integers(0, 8)), min_size=1, max_size=5))
def test_each_repetition_is_counted_where_it_occurs_first(corpora: list[list[int]]) -> None:
    pairs = [(number, pair) for number, corpus in enumerate(corpora) for pair in corpus]
    first = np.array([[own for _, own in pairs].index(pair) for _, pair in pairs], dtype=np.int64)
    expected = np.zeros((len(corpora), len(corpora)), dtype=np.int64)
    for index, (number, pair) in enumerate(pairs):
        earlier = next(i for i, (_, other) in enumerate(pairs) if other == pair)
        if earlier < index:
            expected[number, pairs[earlier][0]] += 1
    assert np.array_equal(count_overlaps(first, [len(corpus) for corpus in corpora]), expected)
