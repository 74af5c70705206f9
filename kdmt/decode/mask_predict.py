"""Filling in a sentence of known length, again and again (Ghazvininejad et al. 2019, Mask-Predict).

Shapes: N candidates, T target length with </s>.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdmt.types import EOS, PAD, UNK

# tokens [N, T], <unk> where nothing is known -> the most probable token of each position and its log-probability
Predict = Callable[[Tensor], tuple[Tensor, Tensor]]


def mask_predict(predict: Predict, lengths_N: Tensor, *, iterations: int) -> tuple[Tensor, Tensor]:
    """Fill in all words at once; then hide those of least confidence and fill them in anew.

    In iteration t of I, from 0, int(words * (I - t) / I) words are hidden; of equals those on the left. A word's
    confidence is that of the iteration it was last written in (section 3.2).

    Args:
        lengths_N: tokens of each candidate, </s> among them.

    Returns:
        Tokens, int64 [N, T], and their log-probabilities, [N, T], 0 where there is no word.
    """
    width = int(lengths_N.max())
    columns_T = torch.arange(width, device=lengths_N.device)
    words_NT = columns_T < (lengths_N - 1)[:, None]
    tokens_NT = torch.full(words_NT.shape, PAD, device=lengths_N.device).masked_fill_(words_NT, UNK)
    tokens_NT.scatter_(1, lengths_N[:, None] - 1, EOS)
    log_probs_NT = torch.zeros(words_NT.shape, device=lengths_N.device)
    hidden_NT = words_NT
    for iteration in range(iterations):
        if iteration:
            counts_N = (lengths_N - 1) * (iterations - iteration) // iterations
            hidden_NT = _least(log_probs_NT.masked_fill(~words_NT, torch.inf), counts_N)
        written_NT, said_NT = predict(tokens_NT.masked_fill(hidden_NT, UNK))
        tokens_NT = torch.where(hidden_NT, written_NT, tokens_NT)
        log_probs_NT = torch.where(hidden_NT, said_NT.to(log_probs_NT.dtype), log_probs_NT)
    return tokens_NT, log_probs_NT


def _least(values_NT: Tensor, counts_N: Tensor) -> Tensor:
    """The places of so many of the least values, of equals those on the left: bool [N, T]."""
    order_NT = values_NT.argsort(dim=1, stable=True)
    first_NT = torch.arange(values_NT.size(1), device=values_NT.device) < counts_N[:, None]
    return torch.zeros_like(first_NT).scatter(1, order_NT, first_NT)
