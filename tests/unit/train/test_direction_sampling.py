"""Tests of the sampling of directions in training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kdmt.config import DirectionSampling
from kdmt.errors import UserError
from kdmt.train.direction_sampling import PairDirections

NAMES = ("en-de", "en-fr", "cs-en")


def pairs(*counts: int) -> PairDirections:
    return PairDirections(NAMES, np.repeat(np.arange(3, dtype=np.int16), counts))


def test_an_epoch_has_the_shares_of_the_formula() -> None:
    directions, settings = pairs(900, 90, 10), DirectionSampling(temperature=2.0, weights={"cs-en": 3.0})
    mixture = directions.mixture([np.arange(1000)], settings, seed=1)
    powers = np.array([900**0.5, 90**0.5, 3.0 * 10**0.5])
    expected = 1000 * powers / powers.sum()
    for epoch in (1, 2, 3):
        counts = directions.counts(mixture.pairs(epoch))
        assert list(counts) == list(NAMES)
        assert np.abs(np.array(list(counts.values())) - expected).max() < 1 + 1e-6


def test_the_temperature_follows_its_schedule() -> None:
    directions = pairs(900, 90, 10)
    settings = DirectionSampling.model_validate({"temperature_schedule": [[2, 1.0], [4, 5.0]]})
    whole, resumed = (directions.mixture([np.arange(1000)], settings, seed=1) for _ in range(2))
    drawn = [whole.pairs(epoch) for epoch in range(1, 7)]
    for pairs_of_epoch, temperature in zip(drawn, (1.0, 1.0, 3.0, 5.0, 5.0, 5.0), strict=True):
        powers = np.array([900, 90, 10]) ** (1 / temperature)
        counts = np.array(list(directions.counts(pairs_of_epoch).values()))
        assert np.abs(counts - 1000 * powers / powers.sum()).max() < 1 + 1e-6
    assert resumed.pairs(5).tolist() == drawn[4].tolist()
    all_drawn = np.concatenate(drawn)
    for number in range(3):  # no pair is used again before all others of its direction have been
        times = np.bincount(all_drawn, minlength=1000)[directions.direction_P == number]
        assert times.max() - times.min() <= 1


def test_fractions_of_pairs_are_carried_over() -> None:
    directions = pairs(70, 20, 10)
    mixture = directions.mixture([np.arange(100)], DirectionSampling(temperature=5.0), seed=1)
    total = sum(len(mixture.pairs(epoch)) for epoch in range(1, 31))
    assert abs(total - 3000) < 3


def test_temperature_1_has_every_pair_once_in_each_epoch() -> None:
    mixture = pairs(7, 2, 1).mixture([np.arange(10)], DirectionSampling(), seed=3)
    assert Counter(mixture.pairs(4).tolist()) == Counter(range(10))


def test_an_epoch_does_not_depend_on_those_before() -> None:
    settings = DirectionSampling(temperature=5.0)
    resumed, whole = (pairs(50, 5, 5).mixture([np.arange(60)], settings, seed=1) for _ in range(2))
    epochs = [whole.pairs(epoch).tolist() for epoch in range(1, 6)]
    assert resumed.pairs(4).tolist() == epochs[3]
    assert epochs[0] != epochs[1]


def test_pairs_that_are_left_out_are_not_drawn() -> None:
    kept = np.array([0, 1, 5, 8])
    mixture = pairs(4, 3, 2).mixture([kept], DirectionSampling(temperature=2.0), seed=1)
    assert set(mixture.pairs(1).tolist()) | set(mixture.pairs(2).tolist()) <= set(kept.tolist())


def test_a_direction_has_at_most_its_maximum_of_pairs_in_each_training_set() -> None:
    direction_P = np.array([*[0, 1] * 50, *[2] * 5, *[0, 1] * 50], np.int16)  # sets of 105 and 100 pairs
    directions = PairDirections(NAMES, direction_P)
    usable_P = directions.usable({"en-de": 20, "cs-en": 9}, [0, 105, 205])
    first, second = (Counter(direction_P[part][usable_P[part]].tolist()) for part in (slice(105), slice(105, None)))
    assert (first, second) == ({0: 20, 1: 50, 2: 5}, {0: 20, 1: 50})
    assert np.array_equal(usable_P[:100], usable_P[105:]), "both sets have the same pairs"
    chosen = np.flatnonzero(usable_P[:100:2])
    assert chosen.tolist() != list(range(20)), "chosen at random"


def test_a_direction_without_pairs_is_an_error() -> None:
    with pytest.raises(UserError, match=r"^cs-en: no pair is within"):
        pairs(4, 3, 2).mixture([np.arange(7)], DirectionSampling(), seed=1)


def test_pairs_of_each_set_of_a_mixture_are_distributed_over_its_directions() -> None:
    """The second set has no pair of the last direction; the first has 80% of an epoch, in which it is whole once."""
    directions = PairDirections(NAMES, np.array([*[0] * 300, *[1] * 90, *[2] * 10, *[0] * 40, *[1] * 10], np.int16))
    parts, settings = [np.arange(400), np.arange(400, 450)], DirectionSampling(temperature=2.0, weights={"en-fr": 2.0})
    mixture = directions.mixture(parts, settings, seed=1, shares=[0.8, 0.2])
    drawn = mixture.pairs(1)
    assert len(drawn) == pytest.approx(500, abs=5)
    for part, share, sizes, weights in zip(
        parts, (400, 100), ([300, 90, 10], [40, 10]), ([1, 2, 1], [1, 2]), strict=True
    ):
        powers = np.array(weights) * np.sqrt(sizes)
        counts = list(directions.counts(drawn[np.isin(drawn, part)]).values())[: len(sizes)]
        assert np.abs(np.array(counts) - share * powers / powers.sum()).max() < 1 + 1e-6
    found = directions.sizes(mixture)
    assert list(found) == list(NAMES)
    assert sum(found.values()) == pytest.approx(500)


def test_files_of_directions_are_read_one_after_the_other(tmp_path: Path) -> None:
    for name, text in {"a": "en-fr\nen-de\n", "b": "cs-en\n", "c": "en-de\nde-en\n"}.items():
        (tmp_path / name).write_text(text)
    found = PairDirections.read([tmp_path / "a", tmp_path / "b"], NAMES)
    assert found.direction_P.tolist() == [1, 0, 2]
    with pytest.raises(UserError, match=r"c:2: 'de-en' is none of the directions en-de, en-fr, cs-en"):
        PairDirections.read([tmp_path / "c"], NAMES)
