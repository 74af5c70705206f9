"""The number types and threads that a run computes with: chosen once, by what the machine can do, and kept.

`precision: auto` is decided by the device and the shape of the model, never by a clock: two runs of one pipeline on one
type of machine compute alike, whatever else the machines do meanwhile.

- A GPU with bf16 units: `bf16`.
- A CPU whose bf16 products are faster than float32's (`has_bf16_units`): `bf16_output` where the product with the
  vocabulary is wide enough to pay for its conversions (`precision_by_shape`), else `float32`.
- Everything else: `float32`.

The measurements are in docs/results-speed.md. Weights, optimiser state, softmax and sums are float32 in every case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch

from kdmt.choices import Precision
from kdmt.config import Train, read_record
from kdmt.errors import UserError
from kdmt.files import read_json_object, write_json
from kdmt.runtime import cores_of_rank

CHOICES: tuple[Precision, ...] = get_args(Precision)
FILE = "arithmetic.json"

MIN_WIDTH = 128  # a logit costs 6 operations for each unit of width and two conversions: narrow models gain nothing
MIN_VOCABULARY = 2_000  # below, the product with the vocabulary is too small a part of an update

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Arithmetic:
    """What a run computes with.

    Attributes:
        precision: `float32`; `bf16` for the products of the whole model; `bf16_output` for the output projection alone.
        threads: of PyTorch on the CPU.
    """

    precision: Precision
    threads: int


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides on its precision."""

    width: int  # of the decoder
    vocabulary: int  # target tokens


def choose_threads(run: Path, settings: Train) -> int:
    """As many as the settings say, as the run began with, or as there are cores."""
    stored = read_arithmetic(run)
    return settings.threads or (stored.threads if stored is not None else cores_of_rank())


def choose_arithmetic(
    run: Path, settings: Train, *, device: torch.device, shape: ModelShape, note: Callable[[str], None]
) -> Arithmetic:
    """Return what the run was begun with, or on its first start the choice for this machine, which is then stored.

    Args:
        run: the run's folder; holds `arithmetic.json` once this was called.
        shape: of the model that is trained.
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
        return Arithmetic(stored.precision, threads)
    chosen = Arithmetic(_precision(settings, device, shape), threads)
    if settings.precision == "auto" and chosen.precision != "float32":
        note(f"computes in {chosen.precision} (train.precision: auto)")
    _write(run, chosen)
    return chosen


def _precision(settings: Train, device: torch.device, shape: ModelShape) -> Precision:
    if settings.precision != "auto":
        return settings.precision
    if not has_bf16_units(device):
        return "float32"
    return "bf16" if device.type == "cuda" else precision_by_shape(shape)


def precision_by_shape(shape: ModelShape) -> Precision:
    """Return the precision of a model on a CPU with bf16 units."""
    return "bf16_output" if shape.width >= MIN_WIDTH and shape.vocabulary >= MIN_VOCABULARY else "float32"


def has_bf16_units(device: torch.device) -> bool:
    """Return whether products of bf16 matrices are faster here than float32's.

    On a CPU: with AMX, or with AMD's AVX-512 BF16. Intel's AVX-512 BF16 has half the rate of its float32 units.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    return bool(
        torch.cpu._is_amx_tile_supported()
        or (torch.cpu._is_avx512_bf16_supported() and cpu_vendor(_CPUINFO) == "AuthenticAMD")
    )


def cpu_vendor(cpuinfo: Path) -> str | None:
    """Return the processor's vendor as Linux gives it in /proc/cpuinfo, None where there is no such file or entry."""
    if not cpuinfo.is_file():
        return None
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "vendor_id":
            return value.strip()
    return None


def read_arithmetic(run: Path) -> Arithmetic | None:
    """What the run computes with, None if it has not begun.

    Raises:
        UserError: the file is damaged.
    """
    path = run / FILE
    if not path.exists():
        return None
    stored = read_json_object(path)
    stored.pop("probe_ms", None)  # timings of an earlier version
    found = read_record(Arithmetic, stored, f"{path}: damaged")
    if found.threads < 1:
        raise UserError(f"{path}: damaged: {found.threads} threads")
    return found


def _write(run: Path, arithmetic: Arithmetic) -> None:
    write_json(run / FILE, asdict(arithmetic))
