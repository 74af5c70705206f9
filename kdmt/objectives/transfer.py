"""Copies from the host to the device of a model.

What is known from a batch alone (lengths, masks, drafts, random choices) is computed on the host, from `Batch.on_host`,
and copied to the device: the host would have to wait to read it from there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def copied(values: Tensor, device: torch.device) -> Tensor:
    """Return values of the host on a device; the host does not wait for the copy to a GPU."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def indices_of(mask: Tensor, device: torch.device) -> Tensor:
    """Return the indices of the true values of a flattened mask of the host, int64 [M] on a device."""
    return copied(mask.flatten().nonzero()[:, 0], device)


def picked(values_BLx: Tensor, index_M: Tensor) -> Tensor:
    """Return the values at indices of the flattened first two dimensions, [M, ...]."""
    return values_BLx.flatten(0, 1).index_select(0, index_M)


def put_back(values_BLx: Tensor, index_M: Tensor, picked_Mx: Tensor) -> Tensor:
    """Return a copy with other values at indices of the flattened first two dimensions, [B, L, ...]."""
    return values_BLx.flatten(0, 1).index_copy(0, index_M, picked_Mx).view_as(values_BLx)
