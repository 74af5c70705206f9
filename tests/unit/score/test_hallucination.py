"""Oscillating and detached hallucinations, compared with counting by nested loops."""

from __future__ import annotations

import random

from kdmt.score.hallucination import find_detached, find_oscillating


def most_frequent_bigram(words: list[str]) -> int:
    pairs = [(words[i], words[i + 1]) for i in range(len(words) - 1)]
    return max([sum(other == pair for other in pairs) for pair in pairs], default=0)


def test_an_output_oscillates_from_the_tenth_repetition_on_unless_its_source_does() -> None:
    nine, ten = ["a", "b"] * 9, ["a", "b"] * 10
    assert find_oscillating([["x"]] * 2, [nine, ten]).tolist() == [False, True]
    assert find_oscillating([["x", "y"] * 10, ["x", "y"] * 9], [ten, ten]).tolist() == [False, True]
    assert find_oscillating([[], ["x"]], [[], ["a"]]).tolist() == [False, False]
    assert find_oscillating([["x"]], [["a"] * 11]).tolist() == [True]  # 10 overlapping pairs


def test_oscillation_equals_counting_every_pair() -> None:
    rng = random.Random(1)
    texts = [rng.choices("ab", k=rng.randint(0, 12)) for _ in range(400)]
    sources, outputs = texts[:200], texts[200:]
    expected = [
        most_frequent_bigram(output) >= 4 and most_frequent_bigram(source) < 4
        for source, output in zip(sources, outputs, strict=True)
    ]
    assert find_oscillating(sources, outputs, times=4).tolist() == expected
    assert 0 < sum(expected) < 200


def test_an_output_is_detached_if_five_different_sources_have_it() -> None:
    sources = [["a"], ["b"], ["c"], ["d"], ["d"], ["e"], ["f"]]
    outputs = [["x", "y"]] * 6 + [["z"]]
    assert find_detached(sources, outputs).tolist() == [True] * 6 + [False]
    assert not find_detached(sources[:5], outputs[:5]).any()  # four different sources


def test_detached_outputs_equal_counting_pairs() -> None:
    rng = random.Random(2)
    sources = [rng.choices("abc", k=2) for _ in range(60)]
    outputs = [rng.choices("xyz", k=2) for _ in range(60)]
    expected = [
        len({tuple(s) for s, o in zip(sources, outputs, strict=True) if o == output}) >= 5 for output in outputs
    ]
    assert find_detached(sources, outputs).tolist() == expected
    assert 0 < sum(expected) < 60
