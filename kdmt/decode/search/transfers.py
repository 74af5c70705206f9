"""Copies between host and GPU with as few waits of the host as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor of the CPU on a device.

    The copy to a GPU goes from pinned memory, so that the host does not wait for the operations before it.
    """
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(*tensors: Tensor) -> tuple[NDArray[Any], ...]:
    """Return tensors as arrays, after a single transfer from a GPU.

    The tensors are transferred as one float64 tensor, in which integers below 2**53 are exact. Arrays of integers are
    int64, those of floating-point numbers are float64 if they come from a GPU.
    """
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return tuple(_array(tensor) for tensor in tensors)
    return unpack(pack(tensors).cpu().numpy(), tensors)


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Return the values of all tensors as one float64 tensor."""
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def unpack(packed: NDArray[np.float64], tensors: Sequence[Tensor]) -> tuple[NDArray[Any], ...]:
    """Return the arrays that `pack` concatenated, with the shapes of the tensors."""
    arrays = np.split(packed, np.cumsum([tensor.numel() for tensor in tensors[:-1]]))
    return tuple(_unpacked(array, tensor) for array, tensor in zip(arrays, tensors, strict=True))


def _array(tensor: Tensor) -> NDArray[Any]:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # NumPy has no bfloat16


def _unpacked(array: NDArray[np.float64], tensor: Tensor) -> NDArray[Any]:
    array = array.reshape(tensor.shape)
    if tensor.dtype.is_floating_point:
        return array
    return array.astype(np.bool_ if tensor.dtype == torch.bool else np.int64)
