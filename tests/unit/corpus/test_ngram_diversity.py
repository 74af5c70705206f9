"""Lazy choice of diverse lines, compared with computing every gain before every choice."""

from __future__ import annotations

import random
import tempfile
from collections import Counter

import pytest

from kdmt.corpus.ngram_diversity import NgramGain, choose_diverse


def ngrams(words: list[str], order: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for n in range(1, order + 1) for i in range(len(words) - n + 1)}


def choose_slowly(lines: list[str], count: int, order: int, decay: float, like: list[str] | None) -> list[int]:
    """Choose greedily with exact n-grams; of equal gains the first line."""
    value = {
        ngram: float(times)
        for ngram, times in Counter(
            ngram for line in (lines if like is None else like) for ngram in ngrams(line.split(), order)
        ).items()
    }
    left = [i for i, line in enumerate(lines) if line.split()]
    chosen = []
    while left and len(chosen) < count:
        gains = {
            i: sum(value.get(ngram, 0.0) for ngram in ngrams(lines[i].split(), order)) / len(lines[i].split())
            for i in left
        }
        best = max(left, key=lambda i: (gains[i], -i))
        for ngram in ngrams(lines[best].split(), order):
            if ngram in value:
                value[ngram] *= decay
        left.remove(best)
        chosen.append(best)
    return sorted(chosen)


def choose(lines: list[str], count: int, gain: NgramGain, like: list[str] | None = None) -> list[int]:
    with tempfile.TemporaryFile() as file:
        chosen, num_lines = choose_diverse(lines, count, gain, file, like=like)
    assert num_lines == len(lines)
    return chosen.tolist()


def corpus(size: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{int(rng.expovariate(0.2))}" for _ in range(rng.randint(0, 9))) for _ in range(size)]


@pytest.mark.parametrize("count", [1, 7, 60, 200])
@pytest.mark.parametrize(("order", "decay"), [(1, 0.5), (3, 0.5), (2, 0.0), (3, 1.0)])
def test_the_lazy_choice_is_the_greedy_one(count: int, order: int, decay: float) -> None:
    lines = corpus(120, seed=order)
    expected = choose_slowly(lines, count, order, decay, None)
    assert choose(lines, count, NgramGain(order, decay, table_bits=24)) == expected


def test_the_ngrams_of_another_text_can_be_covered() -> None:
    lines, like = corpus(80, seed=5), corpus(6, seed=6)
    found = choose(lines, 10, NgramGain(table_bits=24), like)
    assert found == choose_slowly(lines, 10, 3, 0.5, like)
    assert found != choose(lines, 10, NgramGain(table_bits=24))


def test_repeated_lines_lose_against_new_ones() -> None:
    lines = ["a b c d"] * 20 + ["e f g h", "i j k l"]
    assert choose(lines, 3, NgramGain(decay=0.0, table_bits=20)) == [0, 20, 21]


def test_characters_take_the_place_of_words() -> None:
    lines = ["我愛你", "我愛你", "他是誰"]
    assert choose(lines, 2, NgramGain(decay=0.0, by_character=True, table_bits=20)) == [0, 2]


@pytest.mark.parametrize("lines", [[], ["", "  ", "?"]])
def test_lines_without_words_are_not_chosen(lines: list[str]) -> None:
    assert choose(lines, 5, NgramGain(table_bits=12)) == []
