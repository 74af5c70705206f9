"""Tests of sampling by temperature."""

from __future__ import annotations

import pytest

from kdmt.corpus.temperature import temperature_counts, temperature_shares

SIZES = {"en-de": 1_000_000, "en-fr": 10_000, "en-is": 100}


@pytest.mark.parametrize("temperature", [1.0, 1.5, 5.0, 100.0])
def test_shares_are_those_of_the_formula(temperature: float) -> None:
    weights = {"en-fr": 2.5}
    powers = {name: weights.get(name, 1.0) * size ** (1 / temperature) for name, size in SIZES.items()}
    expected = {name: power / sum(powers.values()) for name, power in powers.items()}
    assert temperature_shares(SIZES, temperature, weights) == pytest.approx(expected)


@pytest.mark.parametrize("total", [0, 1, 2, 7, 12_345])
def test_counts_add_up_and_differ_from_the_shares_by_less_than_one(total: int) -> None:
    counts, shares = temperature_counts(SIZES, 3.0, total), temperature_shares(SIZES, 3.0)
    assert sum(counts.values()) == total
    assert all(abs(counts[name] - shares[name] * total) < 1 for name in SIZES)


def test_temperature_1_keeps_the_numbers() -> None:
    assert temperature_counts({"a": 3, "b": 5}, 1.0, 8) == {"a": 3, "b": 5}
