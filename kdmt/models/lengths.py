"""How long a translation will be, told from its source (Gu et al. 2018; the difference of lengths as in CMLM).

Shapes: B batch, S source length, D model width, K lengths of a sentence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdmt.models.transformer import EncoderOutput

_REACH = 128  # the difference is told from -128 to 127


class LengthHead(nn.Module):
    """A softmax over the difference between target and source length, of the mean of the encoder's states.

    Lengths count </s>.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * _REACH)

    def forward(self, encoded: EncoderOutput) -> Tensor:
        """Natural log-probabilities of the differences: [B, 256]."""
        keep_BS1 = encoded.keep_BS[:, :, None]
        mean_BD = (encoded.states_BSD * keep_BS1).sum(1) / keep_BS1.sum(1)
        return self.proj(mean_BD).float().log_softmax(-1)

    def nll(self, encoded: EncoderOutput, tgt_lengths_B: Tensor) -> Tensor:
        """Of the true lengths, those out of reach counted as the farthest: [B]."""
        classes_B = (tgt_lengths_B - encoded.keep_BS.sum(1) + _REACH).clamp(0, 2 * _REACH - 1)
        return -self(encoded).gather(1, classes_B[:, None])[:, 0]

    def best(self, encoded: EncoderOutput, k: int, *, limit: int) -> Tensor:
        """The k most probable lengths, at least 2 (a word and </s>) and at most `limit`: int64 [B, K]."""
        differences_BK = self(encoded).topk(k, dim=1).indices - _REACH
        return (encoded.keep_BS.sum(1, keepdim=True) + differences_BK).clamp(2, limit)


def uniform_places(src_lengths_B: Tensor, tgt_lengths_B: Tensor, width: int) -> Tensor:
    """Which source token each target position starts from, spread evenly from the first to the last: int64 [B, width].

    Gu et al. 2018, section 3.2. Positions beyond a target's length have the last one.
    """
    steps_B1 = ((src_lengths_B - 1) / (tgt_lengths_B - 1).clamp_min(1))[:, None]
    places_BT = (torch.arange(width, device=src_lengths_B.device) * steps_B1).round().long()
    return torch.minimum(places_BT, src_lengths_B[:, None] - 1)
