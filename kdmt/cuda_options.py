"""Options of PyTorch for the GPUs of this process."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import version

_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@cache
def configure_cuda() -> None:
    """Set PyTorch's options for the GPUs of this process; to be called before the first tensor is on a GPU.

    - Attention does not use cuDNN, which builds a plan for every new shape of a batch: 23 ms to 1 s each, and almost
      every batch has a new shape. The kernels of FlashAttention need no plans.
    - Products of float32 matrices use TF32 where a GPU has it (10 bits of mantissa in the inputs, float32 sums).
    - The allocator grows segments in place of keeping blocks of every size that occurs, unless the user has configured
      the allocator.

    Options that are changed after the first call remain changed.
    """
    for name in _ALLOCATOR_VARIABLES:
        if name in os.environ:
            break
    else:
        os.environ[_allocator_variable()] = "expandable_segments:True"
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.set_float32_matmul_precision("high")


def _allocator_variable() -> str:
    """Return the environment variable of the allocator; the old name gives a warning from PyTorch 2.9 on."""
    major, minor = version("torch").split(".")[:2]
    return _ALLOCATOR_VARIABLES[(int(major), int(minor)) < (2, 9)]
