"""The number types and threads that a run computes with: chosen once, by what the machine can do, and kept.

`precision: auto` means float32 on a processor without matrix units for bf16, bf16 on a GPU that has it, and on a CPU
with AMX or AVX-512 BF16 whichever a short probe with a batch of the run's own finds fastest: tiny models lose more in
conversions than their products gain, while the product with the vocabulary gains almost always. Weights, optimiser
state, softmax and sums are float32 in every case.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from kdmt.config import Train, read_record
from kdmt.files import naming, read_json_object
from kdmt.train.ranks import cores_of_rank

Precision = Literal["float32", "bf16", "bf16_output"]
CHOICES: tuple[Precision, ...] = ("float32", "bf16_output", "bf16")
FILE = "arithmetic.json"

_PROBE_ROUNDS = 5


@dataclass(frozen=True)
class Arithmetic:
    """What a run computes with.

    Attributes:
        precision: `float32`; `bf16` for the products of the whole model; `bf16_output` for the output projection alone.
        threads: of PyTorch on the CPU.
        probe_ms: milliseconds of a forward and backward pass for each precision that was tried; not a result.
    """

    precision: Precision
    threads: int
    probe_ms: dict[str, float] = field(default_factory=dict)


def choose_threads(run: Path, settings: Train) -> int:
    """As many as the settings say, as the run began with, or as there are cores."""
    stored = read_arithmetic(run)
    return settings.threads or (stored.threads if stored is not None else cores_of_rank())


def choose_arithmetic(
    run: Path,
    settings: Train,
    *,
    device: torch.device,
    measure: Callable[[Precision], float],
    note: Callable[[str], None],
) -> Arithmetic:
    """What the run was begun with, or on its first start the choice for this machine, which is then stored.

    Args:
        run: the run's folder; holds `arithmetic.json` once this was called.
        measure: seconds of one forward and backward pass in a precision, changing nothing.
        note: receives what the user should know.
    """
    threads = torch.get_num_threads()
    stored = read_arithmetic(run)
    if stored is not None:
        if stored.threads != threads:
            note(f"begun with {stored.threads} threads, now {threads}: the last bits will not be those of one run")
        elif threads > (cores := cores_of_rank()):
            note(f"goes on with its {threads} threads on {cores} cores; train.threads={cores} would be faster")
        if stored.precision != "float32" and not has_bf16_units(device):
            note(f"goes on in {stored.precision}, for which this machine has no units: slower, and not the same bits")
        return Arithmetic(stored.precision, threads, stored.probe_ms)
    if settings.precision != "auto":
        chosen = Arithmetic(settings.precision, threads)
    elif not has_bf16_units(device):
        chosen = Arithmetic("float32", threads)
    elif device.type != "cpu":
        chosen = Arithmetic("bf16", threads)
    else:
        seconds = _probe(measure)
        fastest = min(CHOICES, key=seconds.__getitem__)
        chosen = Arithmetic(fastest, threads, {key: round(1000 * value, 2) for key, value in seconds.items()})
        note(f"computes in {fastest}: {', '.join(f'{key} {value} ms' for key, value in chosen.probe_ms.items())}")
    _write(run, chosen)
    return chosen


def has_bf16_units(device: torch.device) -> bool:
    """Whether products of bf16 matrices are faster here than float32's."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def read_arithmetic(run: Path) -> Arithmetic | None:
    """What the run computes with, None if it has not begun.

    Raises:
        UserError: the file is damaged.
    """
    path = run / FILE
    if not path.exists():
        return None
    return read_record(Arithmetic, read_json_object(path), f"{path}: damaged")


def _probe(measure: Callable[[Precision], float]) -> dict[Precision, float]:
    """Median seconds of each precision, measured in turn, since machines change their speed meanwhile."""
    rounds = [{precision: measure(precision) for precision in CHOICES} for _ in range(1 + _PROBE_ROUNDS)]
    return {precision: median(times[precision] for times in rounds[1:]) for precision in CHOICES}  # the first warms up


def _write(run: Path, arithmetic: Arithmetic) -> None:
    aside = run / f".partial-{FILE}"
    with naming(run / FILE):
        aside.write_text(json.dumps(asdict(arithmetic), indent=1) + "\n", encoding="utf-8")
    aside.replace(run / FILE)


def timed_pass(work: Callable[[], object]) -> float:
    """Seconds that `work` takes; random numbers that it draws are given back."""
    state = torch.get_rng_state()
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    torch.set_rng_state(state)
    return seconds
