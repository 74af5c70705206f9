"""Lexical diversity, rare words and copies, compared with direct computations."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from kdmt.score.lexical import RareWords, find_copies, mtld, rare_recall, type_token_ratio


def parts(words: list[str], ratio: float) -> float:
    """Count the parts by trying every end of each part."""
    found, start = 0.0, 0
    while start < len(words):
        ends = [end for end in range(start + 1, len(words) + 1) if len(set(words[start:end])) / (end - start) <= ratio]
        if not ends:
            rest = words[start:]
            return found + (1 - len(set(rest)) / len(rest)) / (1 - ratio)
        found, start = found + 1, ends[0]
    return found


def test_type_token_ratio_by_hand() -> None:
    assert type_token_ratio([["a", "b"], ["a", "c"]]) == 3 / 4
    assert type_token_ratio([[], []]) is None


def test_mtld_by_hand() -> None:
    # "a b a": ratio 2/3 <= .72, a part; "c d": ratio 1, no part. Backwards "d c a b a": 4/5 at the end
    backwards = (1 - 4 / 5) / (1 - 0.72)
    assert mtld([["a", "b"], ["a", "c", "d"]]) == pytest.approx((5 / 1 + 5 / backwards) / 2)
    assert mtld([["a", "b", "c"]]) is None
    assert mtld([]) is None


@pytest.mark.parametrize("size", [3, 10, 30])
def test_mtld_equals_trying_every_end(size: int) -> None:
    rng = random.Random(size)
    words = [str(min(rng.randrange(size), rng.randrange(size))) for _ in range(200)]
    expected = (200 / parts(words, 0.72) + 200 / parts(words[::-1], 0.72)) / 2
    assert mtld([words[:50], words[50:]]) == pytest.approx(expected)


def test_rare_words_equal_those_of_a_full_count() -> None:
    rng = random.Random(3)
    lines = [[str(int(rng.expovariate(0.02))) for _ in range(8)] for _ in range(300)]
    counts = Counter(word for line in lines for word in line)
    wanted = {str(i) for i in range(0, 400, 2)}
    expected = {word: counts[word] for word in wanted if 1 <= counts[word] <= 5}
    assert expected
    for most in (5, 1):
        rare = RareWords(wanted, most=most)
        for line in lines:
            rare.add(line)
        assert rare.counts == {word: count for word, count in expected.items() if count <= most}


def test_recall_of_rare_words_counts_different_words_of_the_reference() -> None:
    found = rare_recall([["a", "x"], ["b"], []], [["a", "b", "a"], ["c"], ["b"]], {"a", "b", "x"})
    assert found.tolist() == [[1, 2], [0, 0], [0, 1]]


def test_copies_have_half_of_their_words_from_the_source() -> None:
    sources = [["The", "dog", "."], ["a", "b"], ["a", "b"], ["1", "."], ["x"]]
    outputs = [["the", "dog", "Hund", "!"], ["a", "y"], ["a", "y", "z"], ["1", "."], []]
    assert find_copies(sources, outputs).tolist() == [True, True, False, False, False]
