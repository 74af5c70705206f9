"""The distill stage of the tiny pipeline in the working folder: its commands, folders and outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bad_input import unharmed
from tiny_pipeline import Finished, kdmt, read_lines

from kdmt.decode.engines.pytorch import TorchEngine

TINY = Path("runs/tiny")
PREPARED, MADE, MBR, SCORED, IMPORTED = (TINY / name for name in ("prepare", "distill", "mbr", "scored", "imported"))
IMPORTING = ("students.theirs={data: imported}", "distill.imported=theirs.tsv")
NBEST = ("distill.decode={beam: 3, nbest: 3, max_len_a: 1.0, max_len_b: 5}", "distill.failures.max_ratio=0")


def distill(*arguments: str, sets: tuple[str, ...] = ()) -> Finished:
    """Run `kdmt distill` with flags and settings."""
    return kdmt("distill", "tiny.yaml", *arguments, *(part for setting in sets for part in ("--set", setting)))


def done(*sets: str) -> str:
    """Run `kdmt distill` with settings; it must succeed. Return its standard error."""
    result = distill(sets=sets)
    assert result.code == 0, result.err
    return result.err


def manifest(made: Path = MADE) -> dict[str, Any]:
    return json.loads((made / "manifest.json").read_text(encoding="utf-8"))


def usable(made: Path = MADE) -> dict[int, list[tuple[int, str]]]:
    """Return for each sentence its hypotheses without a failure, each with its line number in `nbest`."""
    found: dict[int, list[tuple[int, str]]] = {}
    for line, row in enumerate(read_lines(made / "nbest")):
        number, _, _, failure, words = row.split("\t")
        if failure == "-":
            found.setdefault(int(number), []).append((line, words))
    return found


def rejected(made: Path) -> list[tuple[int, str, str]]:
    """Return sentence index, failure and action for each line of `rejected`."""
    rows = (line.split("\t") for line in read_lines(made / "rejected") if line)
    return [(int(index), failure, what) for index, failure, what in rows]


def verified(*arguments: str, sets: tuple[str, ...] = ()) -> Finished:
    """Run `kdmt distill --verify` and check that it changes no file."""
    with unharmed():
        times = {path: path.stat().st_mtime_ns for path in TINY.rglob("*") if path.is_file() and path.suffix != ".log"}
        result = distill("--verify", *arguments, sets=sets)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    return result


def theirs(count: int = 80) -> list[str]:
    """Return the lines of a file with translations of another system."""
    return [f"{index}\tok  uk{index % 7} ilp" for index in range(count)]


def watch_decoding(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each call of the engine appends its number of sentences."""
    counts: list[int] = []
    decode = TorchEngine.decode

    def watch(engine: TorchEngine, sources: Any, *rest: Any, **more: Any) -> Any:
        counts.append(len(sources))
        return decode(engine, sources, *rest, **more)

    monkeypatch.setattr(TorchEngine, "decode", watch)
    return counts
