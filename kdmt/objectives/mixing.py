"""Mixed training of layer-wise predictions: some are replaced by tokens of the target (Huang et al. 2022, DSLP).

Shapes: B batch, L decoder positions, N decoder layers but the last, D model width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdmt.models.nonautoregressive import NATransformer, Revise
from kdmt.objectives.transfer import copied


def drawn_replacements(model: NATransformer, shape: tuple[int, int], rate: float, device: torch.device) -> Tensor:
    """Draw the positions of each layer but the last whose prediction is replaced, bool [N, B, L].

    Each position is drawn independently with the probability `rate`. Random numbers come from PyTorch's own generator
    on the CPU, which a checkpoint keeps.

    Args:
        shape: B and L.
    """
    return copied(torch.rand(len(model.decoder_layers) - 1, *shape) < rate, device)


def mixed_with(replaced_NBL: Tensor, right: Callable[[Tensor], Tensor]) -> Revise:
    """Return the function that replaces predictions where `replaced_NBL` is True.

    Args:
        right: function of the features of a layer, [B, L, D], that returns the right symbols, int64 [B, L].
    """

    def revise(number: int, features_BLD: Tensor, symbols_BL: Tensor) -> Tensor:
        return torch.where(replaced_NBL[number], right(features_BLD), symbols_BL)

    return revise
