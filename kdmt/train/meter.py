"""Measurement of training speed: tokens per second, time spent waiting for data, memory, utilisation of the GPU."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from kdmt.objectives.objective import Objective, Prepared
from kdmt.ranks import Ranks
from kdmt.train.data import Prefetched, Step
from kdmt.train.utilisation import peak_flops, training_flops


class Meter:
    """Speed counters since the last reset. The time of validating and saving is excluded."""

    def __init__(self, device: torch.device, objective: Objective) -> None:
        self.device, self.objective = device, objective
        self.peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.prefetched: Prefetched[Step] | None = None
        self.reset()

    def start(self, prefetched: Prefetched[Step]) -> None:
        """Start to count, with the waiting time of `prefetched`."""
        self.prefetched = prefetched
        self.reset()

    def reset(self) -> None:
        self.started = time.perf_counter()
        self.tokens = self.flops = 0.0
        self.waited_before = self.prefetched.waited if self.prefetched is not None else 0.0

    def count(self, batches: Sequence[Prepared], tokens: float) -> None:
        """Count an update: this rank's batches, and the target tokens of all ranks."""
        self.tokens += tokens
        if self.peak is not None:
            self.flops += sum(training_flops(self.objective, each) for each in batches)

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.started += time.perf_counter() - began

    def read(self, ranks: Ranks) -> dict[str, float]:
        """Return the figures since the last reset.

        They are seconds, target tokens per second, the share of the time spent waiting for data, the largest memory of
        all ranks in GB, and on a GPU of known type the model FLOPs utilisation.
        """
        seconds = time.perf_counter() - self.started
        waited = (self.prefetched.waited if self.prefetched is not None else 0.0) - self.waited_before
        figures = {
            "seconds": round(seconds, 3),
            "tokens_per_second": round(self.tokens / seconds, 1),
            "data_wait": round(waited / seconds, 4),
            "memory_gb": round(max(ranks.collect(peak_memory(self.device))) / 1e9, 3),
        }
        if self.peak is not None:
            used = ranks.sum([self.flops])[0]
            figures["model_flops_utilisation"] = round(used / (seconds * self.peak * ranks.world), 4)
        return figures


def peak_memory(device: torch.device) -> int:
    """Return the peak memory so far in bytes: allocated memory on a GPU, resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
