"""Reversal of targets, compared with Python's `reversed`."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.right_to_left import reverse_hypotheses, reverse_joined, reverse_targets, reversing
from kdmt.types import EOS, Hypothesis

SENTENCES = st.lists(st.lists(st.integers(4, 99), max_size=6), max_size=5)


def by_hand(words: list[int]) -> list[int]:
    return [*reversed(words), EOS]


@given(SENTENCES)
def test_words_are_reversed_and_eos_stays_last(sentences: list[list[int]]) -> None:
    targets = [np.array([*words, EOS]) for words in sentences]
    assert [each.tolist() for each in reverse_targets(targets)] == [by_hand(words) for words in sentences]
    sizes = np.array([len(target) for target in targets], dtype=np.int64)
    joined = np.concatenate([np.empty(0, dtype=np.int64), *targets])
    assert reverse_joined(joined, sizes).tolist() == [token for words in sentences for token in by_hand(words)]


def test_log_probs_stay_with_their_tokens() -> None:
    found = [[Hypothesis((5, 6, 7), -1.5, (-0.1, -0.2, -0.3, -0.9))], [], [Hypothesis((), -1.0)]]
    assert reverse_hypotheses(found) == [
        [Hypothesis((7, 6, 5), -1.5, (-0.3, -0.2, -0.1, -0.9))],
        [],
        [Hypothesis((), -1.0)],
    ]


def test_sources_are_not_reversed_and_another_change_comes_first() -> None:
    def twice(tokens: np.ndarray, sizes: np.ndarray, _: int) -> tuple[np.ndarray, np.ndarray]:
        """Put another word in front of the only sentence."""
        return np.append(9, tokens), sizes + 1

    tokens, sizes = np.array([5, 6, EOS]), np.array([3])
    assert reversing(None)(tokens, sizes, 0)[0].tolist() == [5, 6, EOS]
    assert reversing(None)(tokens, sizes, 1)[0].tolist() == [6, 5, EOS]
    assert reversing(twice)(tokens, sizes, 1)[0].tolist() == [6, 5, 9, EOS]
