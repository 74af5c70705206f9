"""Tests of words and their ids."""

from __future__ import annotations

from kdmt.corpus.filters.words import MAX_WORDS, count_vocabulary, split_words


def test_words_are_in_lower_case_without_punctuation() -> None:
    assert split_words("Die STRASSE, „Straße“: 12.5!", spaced=True) == ["die", "strasse", "strasse", "12", "5"]
    assert split_words("東京、 です", spaced=False) == ["東", "京", "で", "す"]
    assert len(split_words("a " * 500, spaced=True)) == MAX_WORDS


def test_frequent_words_come_first_and_rare_ones_are_unknown() -> None:
    vocabulary = count_vocabulary(["b a b", "c b a", "d"], spaced=True, min_count=2, max_words=9)
    assert vocabulary.ids == {"b": 1, "a": 2}
    assert vocabulary.encode("A d b").tolist() == [2, 0, 1]
    assert len(vocabulary) == 3
    assert count_vocabulary(["b a b a b"], spaced=True, min_count=1, max_words=1).ids == {"b": 1}
