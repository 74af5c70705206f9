"""Tests of finding exchanged sides without knowing the languages, for made-up and (if present) real languages."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from kdmt.corpus.swapped import Exchanged, Sides

UDHR = Path(__file__).parents[3] / ".." / "shared" / "data" / "udhr"


def words(syllables: str, count: int, seed: int) -> list[str]:
    """Return lines of 3 to 9 words made of the given syllables."""
    rng = random.Random(seed)
    parts = syllables.split()
    return [
        " ".join("".join(rng.choices(parts, k=rng.randint(1, 3))) for _ in range(rng.randint(3, 9)))
        for _ in range(count)
    ]


ONE, OTHER = "ba be ti ka lo", "mur sel dan rog wyn"


def pairs(first: str, second: str, count: int, *, seed: int) -> list[tuple[str, str]]:
    return list(zip(words(first, count, seed), words(second, count, seed + 1000), strict=True))


def flip(of: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(target, source) for source, target in of]


def test_exchanged_pairs_are_counted() -> None:
    sides = Sides(pairs(ONE, OTHER, 50, seed=1))
    text = pairs(ONE, OTHER, 300, seed=2)
    assert sides.compare(text) == Exchanged(300, 0)
    assert sides.compare(flip(text)) == Exchanged(300, 300)
    mixed = flip(text[:30]) + text[30:]
    assert sides.compare(mixed) == Exchanged(300, 30)
    assert sides.compare(mixed).is_suspicious
    assert not sides.compare(flip(text[:3]) + text[3:]).is_suspicious


@pytest.mark.parametrize("count", [6, 50, 1000])
def test_similar_sides_are_not_suspicious(count: int) -> None:
    """Compare equal languages, as in a copying task, and two dialects."""
    sides, text = Sides(pairs(ONE, ONE, count, seed=1)), pairs(ONE, ONE, 1000, seed=3)
    assert not sides.compare(text).is_suspicious
    assert not sides.compare(flip(text)).is_suspicious
    dialect = [(line, line.replace("ba", "pa")) for line in words(ONE, 1000, 5)]
    assert not Sides(dialect[:count]).compare(dialect).is_suspicious


def test_pairs_with_little_evidence_are_not_compared() -> None:
    sides = Sides(pairs(ONE, OTHER, 50, seed=1))
    assert sides.compare([("", ""), ("12", "34"), ("\u3042" * 40, "\u0e01" * 40)]) == Exchanged(0, 0)
    assert Sides([]).compare(pairs(ONE, OTHER, 9, seed=1)) == Exchanged(0, 0)


@pytest.mark.skipif(not UDHR.is_dir(), reason="there is no UDHR text in ../shared/data")
def test_exchanged_sides_of_real_languages_are_found() -> None:
    texts = {path.suffix: path.read_text(encoding="utf-8").splitlines() for path in sorted(UDHR.glob("udhr.*"))[::2]}
    assert len(texts) >= 12
    for source, target in itertools.permutations(texts.values(), 2):
        both = list(zip(source, target, strict=True))
        sides = Sides(both[:25])
        assert sides.compare(both[25:]).num_exchanged == 0
        assert sides.compare(flip(both[25:])) == Exchanged(25, 25)
