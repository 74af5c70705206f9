"""Kinds of sentences: length, case, digits, URLs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from kdmt.score.sentence_kinds import find_numbers, find_urls, split_kinds


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("A DOG RUNS.", {"upper case"}),
        ("A.", set()),
        ("The Dog of the Neighbours Runs", {"title case"}),
        ("The dog of the Neighbours runs", set()),
        ("a dog runs", {"lower case"}),
        ("A dog has 3 legs.", {"with digits"}),
        ("see https://a.org/b2 now", {"lower case", "with URLs"}),
        ("mail me@a.org, 5 times", {"lower case", "with digits", "with URLs"}),
        ("他有 3 隻狗", {"with digits"}),
    ],
)
def test_kinds_of_a_sentence(text: str, kinds: set[str]) -> None:
    assert split_kinds([text], np.array([0])).keys() == kinds


def test_lengths_are_divided_without_gaps() -> None:
    num_words = np.arange(1, 100)
    masks = split_kinds(["A"] * 99, num_words)
    assert list(masks) == ["1 to 10 words", "11 to 20 words", "21 to 40 words", "41 words or more"]
    assert np.sum(list(masks.values()), axis=0).tolist() == [1] * 99
    assert num_words[masks["11 to 20 words"]].tolist() == list(range(11, 21))


def test_numbers_are_found_with_any_separator_and_urls_without_punctuation() -> None:
    assert find_numbers("1,000 and 1.000 and 1\u202f000, in 2026.") == Counter({"1000": 3, "2026": 1})
    assert find_numbers("see www.a2.org") == Counter()
    assert find_urls("(see https://a.org/b?c=1, or me@a.org.)") == Counter(["https://a.org/b?c=1", "me@a.org"])
