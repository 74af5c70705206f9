"""Tests of the trigram model against a plain implementation of its formula."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.corpus.filters.ngram_model import ORDER, NgramModel

Sentences = st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=6)


def probability(word: Hashable, history: tuple[Hashable, ...], sentences: list[list[int]], num_words: int) -> float:
    """Return P(word | history) by the recursive formula, counting in plain dictionaries."""
    ngrams: Counter[tuple[Hashable, ...]] = Counter()
    for sentence in sentences:
        padded = ["<s>"] * len(history) + sentence + ["</s>"]
        ngrams.update(tuple(padded[i : i + len(history) + 1]) for i in range(len(sentence) + 1))
    following: defaultdict[tuple[Hashable, ...], Counter[Hashable]] = defaultdict(Counter)
    for ngram, count in ngrams.items():
        following[ngram[:-1]][ngram[-1]] += count
    shorter = probability(word, history[1:], sentences, num_words) if history else 1 / (num_words + 1)
    own = following[history]
    if not own:
        return shorter
    return (own[word] + len(own) * shorter) / (own.total() + len(own))


@settings(max_examples=30, deadline=None)
@given(Sentences, st.lists(st.integers(0, 3), max_size=5))
def test_probabilities_are_those_of_the_formula(sentences: list[list[int]], sentence: list[int]) -> None:
    model = NgramModel([np.array(ids, dtype=np.int64) for ids in sentences], 4)
    found = model.log_probabilities(np.array(sentence, dtype=np.int64))
    padded = ["<s>"] * (ORDER - 1) + sentence + ["</s>"]
    expected = [
        math.log(probability(padded[i + ORDER - 1], tuple(padded[i : i + ORDER - 1]), sentences, 4))
        for i in range(len(sentence) + 1)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_probabilities_sum_to_one() -> None:
    model = NgramModel([np.array([0, 1, 2]), np.array([1, 1])], 3)
    after = [np.exp(model.log_probabilities(np.array([0, 1, word]))[2]) for word in range(3)]
    end = np.exp(model.log_probabilities(np.array([0, 1]))[2])
    assert sum(after) + end == pytest.approx(1.0)
