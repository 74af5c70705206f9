"""Number types of decoding with PyTorch.

`float32` is for results that are compared with other scores: `kdmt generate` (with fairseq's), `kdmt score` (with its
forced scores), forced scores themselves, and the reranking of candidates by a teacher. `auto` is for commands that only
write translations: `kdmt translate` and `kdmt distill`. On a CPU both are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

DecodingPrecision = Literal["auto", "float32"]


def computes_in_bf16(device: torch.device, precision: DecodingPrecision, *, has_bf16: bool) -> bool:
    """Return whether matrix products of float32 models are computed in bfloat16.

    Args:
        has_bf16: whether the GPU supports bfloat16.
    """
    return precision == "auto" and device.type == "cuda" and has_bf16


def products(device: torch.device, precision: DecodingPrecision) -> AbstractContextManager[object]:
    """Return a context in which matrix products have the number type of the precision on this device.

    In `float32` they have all bits of float32 on a GPU too, without TF32, because the results are compared.
    """
    if uses_bf16(device, precision):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return _without_tf32() if precision == "float32" and torch.device(device).type == "cuda" else nullcontext()


@contextmanager
def _without_tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def uses_bf16(device: torch.device | str, precision: DecodingPrecision) -> bool:
    """Return the result of `computes_in_bf16` for a device of this machine."""
    device = torch.device(device)
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return computes_in_bf16(device, precision, has_bf16=has_bf16)
