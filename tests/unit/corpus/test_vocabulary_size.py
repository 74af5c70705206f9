"""Tests of the suggested size of a vocabulary: the published sizes, its order, and the reason."""

from __future__ import annotations

import pytest

from kdmt.corpus.vocabulary_size import explain_suggestion, is_far_off, suggest_size


@pytest.mark.parametrize(
    ("num_pairs", "least", "most"),
    [(30_000, 1_000, 1_000), (500_000, 4_000, 16_000), (1_000_000, 8_000, 8_000), (4_500_000, 32_000, 64_000)],
)
def test_the_suggestion_is_within_the_published_sizes(num_pairs: int, least: int, most: int) -> None:
    """Check the sizes of Gowda and May (2020)."""
    assert least <= suggest_size(num_pairs) <= most


def test_a_larger_corpus_never_gets_a_smaller_vocabulary() -> None:
    sizes = [suggest_size(10**exponent * digit) for exponent in range(9) for digit in range(1, 10)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1_000
    assert sizes[-1] == 32_000


def test_the_explanation_has_both_numbers_and_the_reason() -> None:
    assert explain_suggestion(30_000).startswith("1,000 pieces suit 30,000 pairs: with more, many pieces occur fewer")


@pytest.mark.parametrize(("size", "expected"), [(2_999, False), (3_000, True), (334, False), (333, True)])
def test_sizes_are_far_off_from_a_factor_of_three(size: int, expected: bool) -> None:
    assert is_far_off(size, 30_000) is expected
