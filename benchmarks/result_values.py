"""Values of the committed results, for the templates of the documentation in `benchmarks/pages/`.

A figure is named `BENCH.FIGURE`: `students.bleu_ctc` is the figure `bleu_ctc` of `benchmarks/results/students.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from figures import REPOSITORY, RESULTS

Result = dict[str, Any]
PUBLISHED = REPOSITORY / "benchmarks" / "published.yaml"
_INSTRUCTION_SETS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 BF16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}  # the widest one is shown


def load(bench: str) -> Result:
    """Return the results of a benchmark."""
    return _load(RESULTS / f"{bench}.json")


@cache
def _load(path: Path) -> Result:
    loaded: Result = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def has(bench: str) -> bool:
    """Return whether there are results of a benchmark."""
    return (RESULTS / f"{bench}.json").is_file()


def figure(name: str) -> float:
    """Return the value of a figure.

    Raises:
        KeyError: if the benchmark has no figure of this name.
    """
    bench, _, wanted = name.partition(".")
    values = {each["name"]: each["value"] for each in load(bench)["figures"]}
    if wanted not in values:
        raise KeyError(f"benchmarks/results/{bench}.json has no figure '{wanted}'")
    return float(values[wanted])


def mean_if_measured(name: str, digits: int = 2) -> str:
    """Return `mean` of a figure, a dash if the benchmark has no such figure."""
    bench, _, wanted = name.partition(".")
    return mean(name, digits) if any(each["name"] == wanted for each in load(bench)["figures"]) else "–"


def number(name: str, digits: int = 2) -> str:
    """Return a figure with a number of digits after the point, and commas between thousands."""
    return format_number(figure(name), digits)


def general(name: str) -> str:
    """Return a figure with at most three significant digits, and none after the point where they are zeros."""
    return f"{figure(name):.3g}"


def ratio(numerator: str, denominator: str, digits: int = 1) -> str:
    """Return the ratio of two figures."""
    return format_number(figure(numerator) / figure(denominator), digits)


def mean(name: str, digits: int = 2) -> str:
    """Return a figure, as `mean ± standard deviation` over the seeds if the benchmark has its deviation."""
    bench, _, wanted = name.partition(".")
    if any(each["name"] == f"{wanted}_sd" for each in load(bench)["figures"]):
        return f"{number(name, digits)} ± {number(f'{name}_sd', digits)}"
    return number(name, digits)


def format_number(value: float, digits: int = 0) -> str:
    """Return a number with commas between thousands."""
    return f"{value:,.{digits}f}"


def made_by(bench: str) -> str:
    """Return the command, the commit and the machine of a benchmark, with a link to all its figures."""
    result = load(bench)
    return f"{command_of(result)}; [all figures](../benchmarks/results/{bench}.json)"


def command_of(result: Result) -> str:
    """Return command, commit and machine of a result."""
    return f"`{result['command']}`, commit {commit_of(result)}, {machine_of(result)}"


def commit_of(result: Result) -> str:
    """Return the short form of a commit, with `-dirty` if files differed from it."""
    commit, dirty, _ = str(result["commit"]).partition("-dirty")
    return f"{commit[:7]}{dirty}"


def machine_of(result: Result) -> str:
    """Return the number of cores, the processor and its widest vector instructions."""
    machine = result["machine"]
    widest = next((label for flag, label in _INSTRUCTION_SETS.items() if flag in machine["instruction_sets"]), None)
    cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    processor = str(machine["cpu"]).replace("(R)", "")
    return f"{cores} of {processor}" + (f" ({widest})" if widest else "")


def signature(bench: str, metric: str = "bleu") -> str:
    """Return the one sacreBLEU signature that all scores of a benchmark have."""
    found = {row[f"{metric}_signature"] for row in load(bench)["settings"]["scores"]}
    (only,) = found
    return f"`{only}`"


def parameters(bench: str, system: str) -> int:
    """Return the number of parameters of a system."""
    return next(int(row["parameters"]) for row in load(bench)["settings"]["scores"] if row["system"] == system)


def p_values(bench: str, system: str, test_set: str, **search: int) -> str:
    """Return the p-values of a system against its baseline, one for each seed."""
    rows = [
        row
        for row in load(bench)["settings"]["significance"]
        if (row["system"], row["test_set"]) == (system, test_set) and all(row[key] == search[key] for key in search)
    ]
    return ", ".join(f"{row['bleu_p_value']:.3f}" for row in rows)


@cache
def _published() -> Mapping[str, Mapping[str, Any]]:
    loaded: Mapping[str, Mapping[str, Any]] = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return loaded


def published(name: str) -> Any:
    """Return a published value by its name in `benchmarks/published.yaml`: `TABLE.VALUE`.

    Raises:
        KeyError: if there is no value of this name.
    """
    table, _, value = name.partition(".")
    return _published()[table]["values"][value]


def published_source(table: str) -> str:
    """Return the source of a table of published values."""
    return str(_published()[table]["source"]).strip()


def published_pair(table: str, system: str) -> str:
    """Return the published values of a system on raw and on distilled text, with a dash for one that is missing."""
    values = _published()[table]["values"]
    found = [values.get(f"{system}_{text}") for text in ("raw", "distilled")]
    if found == [None, None]:
        return "–"
    return " → ".join("–" if value is None else f"{value:.2f}" for value in found)


# the names that a template may use
NAMES = (
    *(figure, format_number, general, has, load, made_by, mean, mean_if_measured, number, p_values, parameters),
    *(published, published_pair, published_source, ratio, signature),
)
