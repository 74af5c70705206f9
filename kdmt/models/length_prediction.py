"""Prediction of the target length from the source (Gu et al. 2018; the difference of the lengths as in CMLM).

Shapes: B batch, S source length, T target length, D model width, K lengths of a sentence, C classes of lengths.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdmt.models.attention import at_least_float32
from kdmt.models.transformer import EncoderOutput

_REACH = 128  # differences from -128 to 127 can be predicted


class LengthHead(nn.Module):
    """Softmax over the difference between target and source length, computed from the mean of the encoder's states.

    Lengths include </s>.

    Args:
        absolute: whether to predict the target length, from 0 to 255, in place of the difference.
        frame: number of tokens that the model puts before each sentence. The encoder has read them, and the classes
            include them.
    """

    def __init__(self, dim: int, *, bias: bool = True, absolute: bool = False, frame: int = 0) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * _REACH, bias=bias)
        self.absolute, self.frame = absolute, frame

    def forward(self, encoded: EncoderOutput) -> Tensor:
        """Return the natural log-probabilities of the classes: [B, 256]."""
        keep_BS1 = encoded.keep_BS[:, :, None]
        mean_BD = (encoded.states_BSD * keep_BS1).sum(1) / keep_BS1.sum(1)
        return at_least_float32(self.proj(mean_BD)).log_softmax(-1)

    def nll(self, encoded: EncoderOutput, tgt_lengths_B: Tensor) -> Tensor:
        """Return the negative log-likelihood of the true lengths, [B].

        A length out of range counts as the nearest class.
        """
        classes_B = (tgt_lengths_B - self._first(encoded)).clamp(0, 2 * _REACH - 1)
        return -self(encoded).gather(1, classes_B[:, None])[:, 0]

    def best(self, encoded: EncoderOutput, k: int, *, limit: int) -> Tensor:
        """Return the k most probable lengths: int64 [B, K].

        A length is at least 2 (a word and </s>) and at most `limit`. The lengths of a sentence are all different,
        unless the head can predict fewer than k such lengths; the others are then clamped to this range.
        """
        log_probs_BC = self(encoded)
        classes_C = torch.arange(2 * _REACH, device=log_probs_BC.device)
        lengths_BC = self._first(encoded)[:, None] + classes_C
        impossible_BC = (lengths_BC < 2) | (lengths_BC > limit)
        best_BK = log_probs_BC.masked_fill(impossible_BC, -torch.inf).topk(k, dim=1).indices
        return lengths_BC.gather(1, best_BK).clamp(2, limit)

    def most_probable(self, encoded: EncoderOutput) -> Tensor:
        """Return the most probable length, even if no sentence can have it: int64 [B]."""
        return self._first(encoded) + self(encoded).argmax(1)

    def _first(self, encoded: EncoderOutput) -> Tensor:
        """Return the length that class 0 represents: int64 [B]."""
        sizes_B = encoded.keep_BS.sum(1)
        return (torch.zeros_like(sizes_B) if self.absolute else sizes_B - _REACH) - self.frame


def uniform_copy(x_BSD: Tensor, src_keep_BS: Tensor, tgt_lengths_B: Tensor, width: int) -> Tensor:
    """Copy the state of one source token to each target position: [B, width, D].

    The source tokens are spread evenly, from the first to the last (Gu et al. 2018, section 3.2). Padding may be on
    either side of the source. Positions beyond the length of a target get the state of the last token.
    """
    positions_BT = _opposite(src_keep_BS.sum(1), tgt_lengths_B, width).round().long()
    last_B1 = src_keep_BS.sum(1, keepdim=True) - 1
    first_B1 = src_keep_BS.long().argmax(1, keepdim=True)
    index_BT = first_B1 + torch.minimum(positions_BT, last_B1)
    return x_BSD.gather(1, index_BT[:, :, None].expand(-1, -1, x_BSD.size(2)))


def soft_copy(
    x_BSD: Tensor, src_keep_BS: Tensor, tgt_lengths_B: Tensor, width: int, *, log_temperature: Tensor
) -> Tensor:
    """Return for each target position a weighted mean of the states of the source tokens: [B, width, D].

    The weights are softmax_s(-|s - o| / t), where o is the corresponding position in the source (Wei et al. 2019,
    section 3.1, with positions that are stretched to the length of the target).
    """
    positions_BS = src_keep_BS.long().cumsum(1) - 1  # counted over real tokens, on whichever side the padding is
    opposite_BT = _opposite(src_keep_BS.sum(1), tgt_lengths_B, width)
    distance_BTS = (opposite_BT[:, :, None] - positions_BS[:, None, :]).abs()
    scores_BTS = (-distance_BTS / log_temperature.exp()).masked_fill(~src_keep_BS[:, None, :], -torch.inf)
    return scores_BTS.softmax(-1).to(x_BSD.dtype) @ x_BSD


def _opposite(src_lengths_B: Tensor, tgt_lengths_B: Tensor, width: int) -> Tensor:
    """Return the source position that corresponds to each target position, 0 for the first: float [B, width]."""
    steps_B1 = ((src_lengths_B - 1) / (tgt_lengths_B - 1).clamp_min(1))[:, None]
    return torch.arange(width, device=src_lengths_B.device) * steps_B1
