"""The workers that settings ask for: how many, where, and who looks after them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kdmt.stages.workspace import Workspace, pick_device

if TYPE_CHECKING:
    from kdmt.distill.executors import Executor

LOGS = "logs"  # below a stage's folder, one a worker: times and hosts
_SILENCE_SECONDS = 1800.0
_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/nvmap"), Path("/dev/kfd"), Path("/dev/dxg"))
_WORTH_A_PROCESS = 200_000  # sentences: two seconds of work
_COMPARED = 15  # times the work of a sentence, where its hypotheses are compared


def cores() -> int:
    """Those of this process."""
    return len(os.sched_getaffinity(0))


def helpers(sentences: int, *, compared: bool = False) -> int:
    """Processes for work on so much text that takes one core each; to start one takes as long as thousands of lines.

    Args:
        compared: the hypotheses of a sentence are compared with one another or with a reference.
    """
    return cores() if sentences * (_COMPARED if compared else 1) > _WORTH_A_PROCESS else 1


def open_executor(workspace: Workspace, folder: Path) -> Executor:
    """The workers that `distill` asks for; their logs lie below the stage's folder."""
    settings = workspace.config.distill
    silence = 60 * settings.silence_minutes or math.inf
    if settings.executor == "ray":
        from kdmt.distill.ray_executor import RayActors

        return RayActors(
            workers=settings.workers or None,
            threads=settings.threads,
            gpus=settings.device == "cuda" or (settings.device == "auto" and _num_gpus() > 0),
            log_folder=folder / LOGS,
            silence_seconds=silence,
        )
    if settings.executor == "inline":
        from kdmt.distill.executors import Inline

        return Inline(threads=settings.threads, device=_devices(settings.device)[0], log_folder=folder / LOGS)
    return open_processes(
        folder, device=settings.device, workers=settings.workers, threads=settings.threads, silence_seconds=silence
    )


def open_processes(
    folder: Path, *, device: str, workers: int, threads: int, silence_seconds: float = _SILENCE_SECONDS
) -> Executor:
    """Processes of this machine.

    Args:
        workers: 0 for as many as there are GPUs, or cores for their threads.
    """
    from kdmt.distill.executors import Processes

    devices = _devices(device)
    fitting = len(devices) if devices[0] != "cpu" else max(1, cores() // threads)
    return Processes(
        workers=workers or fitting,
        threads=threads,
        devices=devices,
        log_folder=folder / LOGS,
        silence_seconds=silence_seconds,
    )


def _devices(name: str) -> list[str]:
    """`auto` is all GPUs, or the CPU."""
    count = 0 if name == "cpu" else _num_gpus()
    if name == "cpu" or (name == "auto" and not count):
        return ["cpu"]
    return [f"cuda:{number}" for number in range(count)] if name == "auto" else [str(pick_device(name))]


def _num_gpus() -> int:
    """Those that PyTorch sees. Where there is no driver it is not asked: loading it takes a second or more."""
    if not any(path.exists() for path in _DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count()
