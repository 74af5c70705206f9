"""How long a translation will be, told from its source (Gu et al. 2018; the difference of lengths as in CMLM).

Shapes: B batch, S source length, D model width, K lengths of a sentence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdmt.models.attention import at_least_float32
from kdmt.models.transformer import EncoderOutput

_REACH = 128  # the difference is told from -128 to 127


class LengthHead(nn.Module):
    """A softmax over the difference between target and source length, of the mean of the encoder's states.

    Lengths count </s>.

    Args:
        absolute: over the target's lengths from 0 to 255 instead.
        frame: tokens before each sentence, which the encoder has seen and which are counted in the classes.
    """

    def __init__(self, dim: int, *, bias: bool = True, absolute: bool = False, frame: int = 0) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * _REACH, bias=bias)
        self.absolute, self.frame = absolute, frame

    def forward(self, encoded: EncoderOutput) -> Tensor:
        """Natural log-probabilities of the classes: [B, 256]."""
        keep_BS1 = encoded.keep_BS[:, :, None]
        mean_BD = (encoded.states_BSD * keep_BS1).sum(1) / keep_BS1.sum(1)
        return at_least_float32(self.proj(mean_BD)).log_softmax(-1)

    def nll(self, encoded: EncoderOutput, tgt_lengths_B: Tensor) -> Tensor:
        """Of the true lengths, those out of reach counted as the farthest: [B]."""
        classes_B = (tgt_lengths_B - self._first(encoded)).clamp(0, 2 * _REACH - 1)
        return -self(encoded).gather(1, classes_B[:, None])[:, 0]

    def best(self, encoded: EncoderOutput, k: int, *, limit: int) -> Tensor:
        """The k most probable lengths, at least 2 (a word and </s>) and at most `limit`, no two the same: int64 [B, K].

        Where fewer are within the head's reach, the nearest one stands for the rest.
        """
        log_probs_BC = self(encoded)
        classes_C = torch.arange(2 * _REACH, device=log_probs_BC.device)
        lengths_BC = self._first(encoded)[:, None] + classes_C
        impossible_BC = (lengths_BC < 2) | (lengths_BC > limit)
        best_BK = log_probs_BC.masked_fill(impossible_BC, -torch.inf).topk(k, dim=1).indices
        return lengths_BC.gather(1, best_BK).clamp(2, limit)

    def most_probable(self, encoded: EncoderOutput) -> Tensor:
        """The most probable length, be it one that no sentence can have: int64 [B]."""
        return self._first(encoded) + self(encoded).argmax(1)

    def _first(self, encoded: EncoderOutput) -> Tensor:
        """The length that class 0 stands for: int64 [B]."""
        sizes_B = encoded.keep_BS.sum(1)
        return (torch.zeros_like(sizes_B) if self.absolute else sizes_B - _REACH) - self.frame


def uniform_copy(x_BSD: Tensor, src_keep_BS: Tensor, tgt_lengths_B: Tensor, width: int) -> Tensor:
    """Each target position gets one source token's state, spread evenly from the first to the last: [B, width, D].

    Gu et al. 2018, section 3.2. Padding may be on either side of the source. Positions beyond a target's length have
    the last token's.
    """
    places_BT = _opposite(src_keep_BS.sum(1), tgt_lengths_B, width).round().long()
    last_B1 = src_keep_BS.sum(1, keepdim=True) - 1
    first_B1 = src_keep_BS.long().argmax(1, keepdim=True)
    index_BT = first_B1 + torch.minimum(places_BT, last_B1)
    return x_BSD.gather(1, index_BT[:, :, None].expand(-1, -1, x_BSD.size(2)))


def soft_copy(
    x_BSD: Tensor, src_keep_BS: Tensor, tgt_lengths_B: Tensor, width: int, *, log_temperature: Tensor
) -> Tensor:
    """Each target position gets a mean of the source tokens' states, the nearer the heavier: [B, width, D].

    Weights are softmax_s(-|s - o| / t) where o is the place opposite in the source (Wei et al. 2019, section 3.1, with
    places that are stretched to the target's length).
    """
    places_BS = src_keep_BS.long().cumsum(1) - 1  # of real tokens, wherever the padding is
    opposite_BT = _opposite(src_keep_BS.sum(1), tgt_lengths_B, width)
    distance_BTS = (opposite_BT[:, :, None] - places_BS[:, None, :]).abs()
    scores_BTS = (-distance_BTS / log_temperature.exp()).masked_fill(~src_keep_BS[:, None, :], -torch.inf)
    return scores_BTS.softmax(-1).to(x_BSD.dtype) @ x_BSD


def _opposite(src_lengths_B: Tensor, tgt_lengths_B: Tensor, width: int) -> Tensor:
    """Where in the source each target position lies, from 0 to its last token: float [B, width]."""
    steps_B1 = ((src_lengths_B - 1) / (tgt_lengths_B - 1).clamp_min(1))[:, None]
    return torch.arange(width, device=src_lengths_B.device) * steps_B1
