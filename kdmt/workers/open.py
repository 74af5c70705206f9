"""The workers that settings ask for: how many, where, and who looks after them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from kdmt.config import Distill
from kdmt.runtime import cores, devices_of, num_gpus

if TYPE_CHECKING:
    from kdmt.workers.processes import Executor

LOGS = "logs"  # below a stage's folder, one a worker: times and hosts
_SILENCE_SECONDS = 1800.0
_WORTH_A_PROCESS = 200_000  # sentences: two seconds of work
_COMPARED = 15  # times the work of a sentence, where its hypotheses are compared


def helpers(sentences: int, *, compared: bool = False) -> int:
    """Processes for work on so much text that takes one core each; to start one takes as long as thousands of lines.

    Args:
        compared: the hypotheses of a sentence are compared with one another or with a reference.
    """
    return cores() if sentences * (_COMPARED if compared else 1) > _WORTH_A_PROCESS else 1


def open_executor(settings: Distill, folder: Path) -> Executor:
    """The workers that `distill` asks for; their logs lie below the stage's folder."""
    silence = 60 * settings.silence_minutes or math.inf
    if settings.executor == "ray":
        from kdmt.workers.ray_actors import RayActors

        return RayActors(
            workers=settings.workers or None,
            threads=settings.threads,
            gpus=settings.device == "cuda" or (settings.device == "auto" and num_gpus() > 0),
            log_folder=folder / LOGS,
            silence_seconds=silence,
        )
    if settings.executor == "inline":
        from kdmt.workers.processes import Inline

        return Inline(threads=settings.threads, device=devices_of(settings.device)[0], log_folder=folder / LOGS)
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
    from kdmt.workers.processes import Processes

    devices = devices_of(device)
    fitting = len(devices) if devices[0] != "cpu" else max(1, cores() // threads)
    return Processes(
        workers=workers or fitting,
        threads=threads,
        devices=devices,
        log_folder=folder / LOGS,
        silence_seconds=silence_seconds,
    )
