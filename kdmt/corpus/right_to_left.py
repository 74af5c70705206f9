"""Order of the target tokens of a right-to-left model, which predicts the last word first.

Such a model reads and predicts reversed targets, with </s> at the end as always. Training reverses targets, and engines
reverse what they get and what they return, so that callers see sentences in their normal order. The score of a sentence
is the probability that the model gives to its reversed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.batching import Change, IntArray
from kdmt.types import Hypothesis


def reverse_targets(targets: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return sentences, or values of their tokens, in reversed order with the last element, </s>, in its place."""
    return [np.concatenate([target[:-1][::-1], target[-1:]]) for target in targets]


def reverse_hypotheses(found: Sequence[Sequence[Hypothesis]]) -> list[list[Hypothesis]]:
    """Return the hypotheses of each source in reversed order, with the log-probability of each token."""
    return [[_reverse(hypothesis) for hypothesis in nbest] for nbest in found]


def _reverse(hypothesis: Hypothesis) -> Hypothesis:
    of_tokens, of_eos = hypothesis.log_probs[:-1], hypothesis.log_probs[-1:]
    return replace(hypothesis, tokens=hypothesis.tokens[::-1], log_probs=(*of_tokens[::-1], *of_eos))


def reverse_joined(tokens_M: IntArray, sizes_B: IntArray) -> IntArray:
    """Return concatenated sentences, each reversed with its </s> at the end.

    Args:
        tokens_M: tokens of all sentences, each with </s>.
        sizes_B: number of tokens of each sentence.
    """
    ends_B = np.cumsum(sizes_B)
    starts_M, last_M = (np.repeat(each, sizes_B) for each in (ends_B - sizes_B, ends_B - 1))
    place_M = np.arange(len(tokens_M))
    return tokens_M[np.where(place_M == last_M, last_M, starts_M + last_M - 1 - place_M)]


def reversing(change: Change | None) -> Change:
    """Return a change of the tokens of a batch that also reverses its targets."""

    def reverse(tokens_M: IntArray, sizes_B: IntArray, side: int) -> tuple[IntArray, IntArray]:
        if change is not None:
            tokens_M, sizes_B = change(tokens_M, sizes_B, side)
        return (reverse_joined(tokens_M, sizes_B) if side == 1 else tokens_M), sizes_B

    return reverse
