"""Output of the benchmarks: one line per figure, `figure: NAME VALUE UNIT`, and the same figures as JSON.

A benchmark is a script `benchmarks/bench_<bench>.py`, which `make bench-<bench>` runs. At its end it calls
`report_figures`, which writes `benchmarks/results/<bench>.json` with everything that is needed to repeat the
measurement: the command, the commit, the settings and the machine, without the name of the machine and without paths.
"""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from kdmt.files import write_json
from kdmt.runtime import cores

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
LIBRARIES = ("torch", "numpy", "sentencepiece", "sacrebleu", "ctranslate2")
INSTRUCTION_SETS = (
    *("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "sve", "sve2", "i8mm", "bf16"),
)


@dataclass(frozen=True)
class Figure:
    """A measured value, for example `Figure("help_seconds", 0.31, "s")`."""

    name: str  # lower-case letters, digits and underscores
    value: float
    unit: str  # a single word; `ratio` for values without a unit

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or not re.fullmatch(r"\S+", self.unit):
            raise ValueError(
                f"figure {self.name!r} in {self.unit!r}: expected a lower-case name and a unit of one word"
            )
        if not math.isfinite(self.value):
            raise ValueError(f"figure {self.name} is {self.value}: nothing was measured")

    def __str__(self) -> str:
        value = f"{self.value:.6g}" if abs(self.value) < 1e6 else f"{self.value:.0f}"
        return f"figure: {self.name} {value} {self.unit}"


def report_figures(
    bench: str,
    figures: Sequence[Figure],
    *,
    settings: Mapping[str, Any],
    command: str | None = None,
    results_dir: Path = RESULTS,
) -> None:
    """Write the figures, then print them as the last lines of the output of the benchmark. See `write_figures`."""
    write_figures(bench, figures, settings=settings, command=command, results_dir=results_dir)
    for figure in figures:
        print(figure, flush=True)


def write_figures(
    bench: str,
    figures: Sequence[Figure],
    *,
    settings: Mapping[str, Any],
    command: str | None = None,
    results_dir: Path = RESULTS,
) -> None:
    """Write `<results_dir>/<bench>.json`.

    Args:
        bench: name of the benchmark and of the file.
        figures: measured values with distinct names.
        settings: settings and data of the measurement, without absolute paths.
        command: command that repeats the measurement from the root of the repository (default: `make bench-<bench>`).
        results_dir: folder of the results, which is created if it does not exist.

    Raises:
        ValueError: if there are no figures, a name occurs twice, or a value is an absolute path.
    """
    names = [figure.name for figure in figures]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{bench}: expected at least one figure and each name once, got {names}")
    result = {
        "bench": bench,
        "command": command or f"make bench-{bench}",
        "commit": describe_commit(),
        "settings": dict(settings),
        "machine": describe_machine(),
        "figures": [asdict(figure) for figure in figures],
    }
    _refuse_absolute_paths(result)
    results_dir.mkdir(parents=True, exist_ok=True)
    path = results_dir / f"{bench}.json"
    write_json(path, result, indent=2)


def describe_commit(repository: Path = REPOSITORY) -> str | None:
    """Return the current commit, followed by `-dirty` if files differ from it; benchmark results are ignored."""
    commit = _output_of("git", "-C", str(repository), "rev-parse", "--verify", "HEAD")
    changes = _output_of("git", "-C", str(repository), "status", "--porcelain", "--", ".", ":!benchmarks/results")
    return f"{commit}-dirty" if commit and changes else commit


def describe_machine() -> dict[str, Any]:
    """Return the properties of the machine that figures depend on: processor, memory, GPUs, versions."""
    cpu_info = _cpu_info()
    flags = set((cpu_info.get("flags") or cpu_info.get("Features") or "").split())
    gpus = _output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_info.get("model name") or platform.processor() or None,
        "cores": cores(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "memory_gb": _memory_gb(),
        "gpus": gpus.splitlines() if gpus else [],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
    }


def _cpu_info() -> dict[str, str]:
    """Return the entries of the first processor in /proc/cpuinfo, or an empty dictionary if there is no such file."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory_gb() -> float | None:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def _version(library: str) -> str | None:
    """Return the version in the metadata of an installed library; importing torch would take seconds."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _output_of(*command: str) -> str | None:
    """Return the output of a command, or None if it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _refuse_absolute_paths(value: Any) -> None:
    """Raise an error if a value is an absolute path: results are published, and paths on one machine are private."""
    if isinstance(value, Mapping):
        for item in value.values():
            _refuse_absolute_paths(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_absolute_paths(item)
    elif isinstance(value, Path) or (isinstance(value, str) and re.search(r"(^|[\s=:'\"])(/|~/)\w", value)):
        raise ValueError(f"{str(value)!r} in the results: give paths relative to the repository, as text")
