"""Construction of executors from settings: the number of workers, and where they run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from kdmt.config import Distill, EndpointTeacher
from kdmt.runtime import cores, devices_of, num_gpus
from kdmt.workers.processes import Inline, Processes
from kdmt.workers.ray_actors import RayActors
from kdmt.workers.tasks import Executor

LOGS = "logs"  # folder of the workers' logs, inside a stage's folder
_SILENCE_SECONDS = 1800.0
_WORTH_A_PROCESS = 200_000  # sentences: two seconds of work
_COMPARED = 15  # relative cost of a sentence whose hypotheses are compared


def num_helpers(sentences: int, *, compared: bool = False) -> int:
    """Return the number of processes, one per core, for work on text; 1 if starting more takes longer than the work.

    Args:
        compared: True if the hypotheses of a sentence are compared with one another or with a reference.
    """
    return cores() if sentences * (_COMPARED if compared else 1) > _WORTH_A_PROCESS else 1


def open_executor(settings: Distill, folder: Path) -> Executor:
    """Return the executor that `distill.executor` selects.

    Args:
        settings: section `distill`.
        folder: folder of the stage, which contains the logs of the workers.
    """
    return EXECUTORS[settings.executor](settings, folder / LOGS)


def decodes_on_gpus(settings: Distill) -> bool:
    """Return whether the executor that `open_executor` returns has workers on GPUs.

    Raises:
        UserError: if this machine has no such device.
    """
    return _ray_uses_gpus(settings) if settings.executor == "ray" else devices_of(settings.device)[0] != "cpu"


def open_processes(
    folder: Path, *, device: str, workers: int, threads: int, silence_seconds: float = _SILENCE_SECONDS
) -> Processes:
    """Return an executor with worker processes on this machine.

    Args:
        workers: number of workers; 0 for one per GPU, or on CPUs as many as the cores allow.
        threads: number of threads of each worker.
    """
    devices = devices_of(device)
    fitting = len(devices) if devices[0] != "cpu" else max(1, cores() // threads)
    return Processes(
        workers=workers or fitting,
        threads=threads,
        devices=devices,
        log_folder=folder / LOGS,
        silence_seconds=silence_seconds,
    )


def _open_processes(settings: Distill, logs: Path) -> Processes:
    return open_processes(
        logs.parent,
        device=settings.device,
        workers=settings.workers or (1 if isinstance(settings.of_text, EndpointTeacher) else 0),
        threads=settings.threads,
        silence_seconds=_silence_seconds(settings),
    )


def _open_inline(settings: Distill, logs: Path) -> Inline:
    return Inline(threads=settings.threads, device=devices_of(settings.device)[0], log_folder=logs)


def _open_ray(settings: Distill, logs: Path) -> RayActors:
    return RayActors(
        workers=settings.workers or None,
        threads=settings.threads,
        gpus=_ray_uses_gpus(settings),
        log_folder=logs,
        silence_seconds=_silence_seconds(settings),
    )


def _ray_uses_gpus(settings: Distill) -> bool:
    return settings.device == "cuda" or (settings.device == "auto" and num_gpus() > 0)


def _silence_seconds(settings: Distill) -> float:
    return 60 * settings.silence_minutes or math.inf


# value of `distill.executor` -> (section `distill`, folder of logs) -> executor
EXECUTORS: dict[str, Callable[[Distill, Path], Executor]] = {
    "processes": _open_processes,
    "inline": _open_inline,
    "ray": _open_ray,
}
