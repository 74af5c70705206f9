"""The number types and threads that a run computes with: chosen once for the machine, and stored with the run.

`precision: auto` depends on the device and the shape of the model, never on measured times: two runs of one pipeline on
the same type of machine compute the same, whatever the load of the machines.

- A GPU with bf16 units: `bf16`.
- A CPU with AMX: `bf16` if the model is wide enough to gain more than the conversions cost (`precision_by_shape`).
- Another CPU whose bf16 products are faster than those in float32 (`has_bf16_units`), or a narrower model:
  `bf16_output` if the output projection is large enough, else `float32`.
- All other devices: `float32`.

The measurements are in docs/results-speed.md. Weights, optimiser state, softmax and sums are float32 in every case.
"""

from __future__ import annotations

import os
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

MIN_WIDTH = 128  # a logit costs 6 operations per unit of width and two conversions: narrow models gain nothing
MIN_VOCABULARY = 2_000  # with fewer tokens, the output projection is too small a part of an update
MIN_WIDTH_AMX = 256  # from here on, a whole model in bf16 is faster with AMX

_CPUINFO = Path("/proc/cpuinfo")

# Number of compiled products that oneDNN keeps, each for one shape and of megabytes. Sentences differ in length, so no
# batch has the shapes of another, and 64 are enough for an update. With oneDNN's 1,024, a process took 2.4 times the
# memory.
_ONEDNN_CACHE = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


@dataclass(frozen=True)
class Arithmetic:
    """Precision and threads of a run.

    Attributes:
        precision: `float32`; `bf16` for the products of the whole model; `bf16_output` for the output projection only.
        threads: number of CPU threads of PyTorch.
    """

    precision: Precision
    threads: int


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model that determine its precision."""

    width: int  # of the decoder
    vocabulary: int  # number of target tokens


def choose_threads(run: Path, settings: Train) -> int:
    """Return the number of threads in the settings, else that stored with the run, else the number of cores."""
    stored = read_arithmetic(run)
    return settings.threads or (stored.threads if stored is not None else cores_of_rank())


def choose_arithmetic(
    run: Path, settings: Train, *, device: torch.device, shape: ModelShape, note: Callable[[str], None]
) -> Arithmetic:
    """Return the stored precision of the run and the current number of threads.

    On the first start of the run, the precision is chosen for this machine, and both are stored.

    Args:
        run: folder of the run, in which `arithmetic.json` is read or written.
        shape: sizes of the model that is trained.
        note: function that receives messages for the user.
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


def bound_memory(precision: Precision, device: torch.device) -> None:
    """Bound the memory for products in bf16 on a CPU, before the first one is computed."""
    if device.type == "cpu" and precision != "float32":
        os.environ.setdefault(*_ONEDNN_CACHE)


def _precision(settings: Train, device: torch.device, shape: ModelShape) -> Precision:
    if settings.precision != "auto":
        return settings.precision
    if not has_bf16_units(device):
        return "float32"
    return "bf16" if device.type == "cuda" else precision_by_shape(shape, amx=has_amx())


def precision_by_shape(shape: ModelShape, *, amx: bool) -> Precision:
    """Return the precision of a model on a CPU with bf16 units, which are those of AMX or others."""
    if amx and shape.width >= MIN_WIDTH_AMX:
        return "bf16"
    return "bf16_output" if shape.width >= MIN_WIDTH and shape.vocabulary >= MIN_VOCABULARY else "float32"


def has_bf16_units(device: torch.device) -> bool:
    """Return whether products of bf16 matrices are faster on this device than those of float32 matrices.

    On a CPU, they are with AMX and with AMD's AVX-512 BF16. Intel's AVX-512 BF16 has half the rate of its float32
    units.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    return has_amx() or bool(torch.cpu._is_avx512_bf16_supported() and cpu_vendor(_CPUINFO) == "AuthenticAMD")


def has_amx() -> bool:
    """Return whether the processor has AMX, units for products of bf16 matrices."""
    return bool(torch.cpu._is_amx_tile_supported())


def cpu_vendor(cpuinfo: Path) -> str | None:
    """Return the vendor of the processor in Linux's /proc/cpuinfo, None if there is no such file or entry."""
    if not cpuinfo.is_file():
        return None
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "vendor_id":
            return value.strip()
    return None


def read_arithmetic(run: Path) -> Arithmetic | None:
    """Return the stored precision and threads of a run, None if the run has not started.

    Raises:
        UserError: if the file is damaged.
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
