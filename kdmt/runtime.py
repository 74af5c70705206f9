"""Cores, threads and devices that this process may use, and signals that request it to stop."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from kdmt.cuda_options import configure_cuda
from kdmt.errors import UserError
from kdmt.ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch

_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/nvmap"), Path("/dev/kfd"), Path("/dev/dxg"))


def cores() -> int:
    """Return the number of cores that this process may run on, which may be less than the number in the machine."""
    numbers = core_numbers()
    return os.cpu_count() or 1 if numbers is None else len(numbers)


def core_numbers() -> list[int] | None:
    """Return the indices of the cores that this process may run on, None on systems without CPU affinity (macOS)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def cores_of_rank() -> int:
    """Return the number of cores per rank, if `torchrun` started several ranks on this machine."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def use_threads(threads: int) -> int:
    """Set the number of CPU threads of PyTorch, 0 for one per core, and return it.

    Denormal numbers are flushed to zero, because Adam's second moments reach their range, in which arithmetic is much
    slower. Threads inherit this mode from the thread that starts them, so that the first call must precede the first
    parallel operation of the process.
    """
    import torch

    torch.set_flush_denormal(True)
    threads = threads or cores_of_rank()
    torch.set_num_threads(threads)
    return threads


def pick_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """Return a device by its name; `auto` is a GPU if there is one, a different one for each rank, else the CPU.

    For a GPU, PyTorch's settings for this process are those of `configure_cuda`.

    Raises:
        UserError: if the name is not valid, or if this machine has no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and ranks.world > 1:
        name = f"cuda:{ranks.local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: expected auto, cpu, cuda or cuda:<n>") from None
    available = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(device.type, 0)
    if (device.index or 0) >= available:
        raise UserError(f"device {name!r}: this machine has {available} of that type")
    if device.type == "cuda":
        configure_cuda()
    return device


def devices_of(name: str) -> list[str]:
    """Return the names of the devices for worker processes.

    `auto` is all GPUs, or the CPU if there are none; `cuda` is all GPUs.

    Raises:
        UserError: if the name is not valid, or if this machine has no such device.
    """
    count = 0 if name == "cpu" else num_gpus()
    if name == "cpu" or (name == "auto" and not count):
        return ["cpu"]
    if count and name in ("auto", "cuda"):
        return [f"cuda:{number}" for number in range(count)]
    return [str(pick_device(name))]


def num_gpus() -> int:
    """Return the number of GPUs that PyTorch finds.

    Without a driver the number is 0, and PyTorch is not imported, which would take a second or more.
    """
    if not any(path.exists() for path in _DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count()


def gpu_name(device: str) -> str:
    """Return the type of a GPU."""
    import torch

    return torch.cuda.get_device_name(device)


def processor_type() -> str:
    """Return the name of the processor, with the widest vector instructions that libraries choose their code by."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = set(text.partition("flags")[2].partition("\n")[0].split())
    widest = [flag for flag in ("amx_tile", "avx512f", "avx2") if flag in flags]
    return " ".join([name.group(1) if name else "unknown", *widest])


# the second signal of these has its default effect, for a user who does not want to wait
_Handler = Callable[[int, FrameType | None], object] | int | None  # signal handler
_ONCE = (signal.SIGINT, signal.SIGTERM)
# these may arrive twice for the same reason: when a terminal is closed, the shell and the kernel both send SIGHUP
_REPEATABLE = (signal.SIGHUP, signal.SIGUSR1)


@dataclass
class StopRequest:
    """The signal that requested a stop, for the loop to check."""

    signal_number: int = 0  # 0: none


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn signals into a request to stop while the body runs; a second SIGINT or SIGTERM has its default effect.

    SIGHUP remains ignored if it is ignored already, for example under `nohup`. Threads other than the main thread
    cannot handle signals, so that a stop is never requested in them.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous: dict[int, _Handler] = {}
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def request(signal_number: int, _: FrameType | None) -> None:
        stop.signal_number = stop.signal_number or signal_number
        if signal_number in _ONCE:
            for number in _ONCE:
                signal.signal(number, previous[number])
        elif signal_number == signal.SIGHUP:
            _leave_closed(terminals)

    for watched in (*_ONCE, *_REPEATABLE):
        if watched != signal.SIGHUP or signal.getsignal(watched) != signal.SIG_IGN:
            previous[watched] = signal.signal(watched, request)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave_closed(terminals: Sequence[int]) -> None:
    """Discard output to a closed terminal, because a write error would end the run before it is saved."""
    for descriptor in terminals:
        if not os.isatty(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
