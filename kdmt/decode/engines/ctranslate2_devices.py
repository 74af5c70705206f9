"""Choices for CTranslate2 that depend on the device: number type, batches, GPUs, and the library that a GPU needs.

On a CPU all choices are those of the settings.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from kdmt.config import Decode

_HALF = ("float16", "bfloat16", "float32")  # in this order: float16 is the more precise one for small numbers
_SENTENCES, _TOKENS_A_SENTENCE = 1024, 64  # of a batch on a GPU
_BATCHES_IN_FLIGHT = 2  # one computes while the results of the other are read and the next one is prepared
_BLAS = "libcublas.so.12"
_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")  # in the messages of CUDA and cuBLAS


def pick_compute_type(device: str, wanted: str, supported: Collection[str]) -> str:
    """Return the number type of the computation.

    Args:
        device: cpu, cuda or cuda:<n>.
        wanted: a number type, or "auto": float32 on a CPU; on a GPU float16, or bfloat16 if only this is supported.
        supported: number types that CTranslate2 supports on the device.
    """
    if wanted != "auto":
        return wanted
    if device == "cpu":
        return "float32"
    return next((kind for kind in _HALF if kind in supported), "float32")


def compute_type_on(device: str, wanted: str) -> str:
    """Return the result of `pick_compute_type` for a device of this machine."""
    if wanted != "auto" or device == "cpu":
        return pick_compute_type(device, wanted, ())
    from ctranslate2 import get_supported_compute_types

    kind, _, index = device.partition(":")
    return pick_compute_type(device, wanted, get_supported_compute_types(kind, int(index or 0)))


def batch_limits(settings: Decode, device: str) -> Decode:
    """Return the settings; limits that are not set become 1,024 sentences of 64 tokens on a GPU."""
    if device == "cpu":
        return settings
    larger = {"batch_size": _SENTENCES, "max_tokens": _SENTENCES * _TOKENS_A_SENTENCE}
    return settings.model_copy(
        update={name: value for name, value in larger.items() if name not in settings.model_fields_set}
    )


def device_indices(device: str, num_gpus: int) -> list[int]:
    """Return the indices of the devices that one engine uses: all GPUs for `cuda`.

    Args:
        num_gpus: number of GPUs that CTranslate2 finds.
    """
    kind, _, index = device.partition(":")
    if kind == "cpu" or index:
        return [int(index or 0)]
    return list(range(max(num_gpus, 1)))


def batches_in_flight(device: str, num_devices: int) -> int:
    """Return the number of batches that are translated at the same time."""
    return 1 if device == "cpu" else _BATCHES_IN_FLIGHT * num_devices


def library_hint(error: str) -> str:
    """Return what to do about an error, "" unless a library of CUDA 12 is missing."""
    if _BLAS not in error:
        return ""
    return (
        f"; CTranslate2 needs {_BLAS} of CUDA 12, which PyTorch for CUDA 13 does not bring along: pip install "
        "nvidia-cublas-cu12, and add the folder of the library to LD_LIBRARY_PATH"
    )


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the memory of a GPU was too small for a batch. CTranslate2 raises a RuntimeError then."""
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


@dataclass
class MemoryLimit:
    """The size of batches that fits in the memory of the GPUs. It is lowered whenever a batch does not fit.

    Attributes:
        max_tokens: largest number of padded tokens in a batch; None before a batch did not fit.
    """

    max_tokens: int | None = None
    _lowering: threading.Lock = field(default_factory=threading.Lock)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def turn(self) -> AbstractContextManager[object]:
        """Return the context of the computation of a batch: one batch at a time once memory is limited.

        That holds on several GPUs too, since CTranslate2 may compute two batches on the same one.
        """
        return nullcontext() if self.max_tokens is None else self._turn

    def sentences(self, count: int, longest: int) -> int:
        """Return how many of `count` sentences with at most `longest` tokens are computed together."""
        return count if self.max_tokens is None else min(count, max(self.max_tokens // longest, 1))

    def lower(self, tokens: int) -> bool:
        """Lower the limit to half the tokens of a batch that did not fit; return False if it is not higher."""
        with self._lowering:
            if self.max_tokens is not None and self.max_tokens <= tokens // 2:
                return False
            self.max_tokens = tokens // 2
            return True
