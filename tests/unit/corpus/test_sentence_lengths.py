"""Tests of measures of sentence lengths, compared with the formula and with the statistics module."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.sentence_lengths import RatioMedian, count_characters, length_ratios, split_words, typical_ratio

sizes = st.integers(0, 3000)
ratios = st.floats(0.05, 20)


@given(st.lists(st.tuples(sizes, sizes), max_size=20), ratios)
def test_ratios_follow_the_formula_and_are_symmetric(pairs: list[tuple[int, int]], typical: float) -> None:
    source_N, target_N = (np.array([pair[side] for pair in pairs], dtype=np.uint32) for side in (0, 1))
    found = length_ratios(source_N, target_N, typical)
    expected = []
    for source, target in pairs:
        one, other = source * math.sqrt(typical) + 10, target / math.sqrt(typical) + 10
        expected.append(math.inf if (source == 0) != (target == 0) else max(one, other) / min(one, other))
    assert found.tolist() == pytest.approx(expected)
    assert length_ratios(target_N, source_N, 1 / typical).tolist() == pytest.approx(expected)


@given(st.lists(st.tuples(sizes, sizes), max_size=40), st.integers(0, 40))
def test_the_median_does_not_depend_on_chunks(pairs: list[tuple[int, int]], cut: int) -> None:
    lines = [("a" * source, "b" * target) for source, target in pairs]
    chunks = [[*zip(*part, strict=True)] or [(), ()] for part in (lines[:cut], lines[cut:])]
    exact = [target / source for source, target in pairs if source and target]
    expected = statistics.median_low(exact) if exact else 1.0
    assert typical_ratio((source, target) for source, target in chunks) == pytest.approx(expected, rel=6e-4)


def test_extreme_ratios_have_a_positive_median() -> None:
    median = RatioMedian()
    assert median.value() == 1.0
    median.add(count_characters(["a" * 3_000_000]), count_characters(["b"]))
    assert median.value() == pytest.approx(math.exp(-12), rel=1e-5)  # the smallest ratio that is represented


def test_splitting_text_with_and_without_spaces_into_words() -> None:
    assert split_words(" a  b c", spaced=True) == ["a", "b", "c"]
    assert split_words("今日は iPod 3", spaced=False) == list("今日はiPod3")
    assert split_words("", spaced=False) == []
