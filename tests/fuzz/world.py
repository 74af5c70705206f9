"""The files to damage: made once, copied for every input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tiny_pipeline

from fuzz.server import Entry, run_command

GOLDEN = Path(__file__).parents[1] / "golden"
STAGES = ("prepare", "teacher", "distill", "knowledge", "student", "score")
UPDATES = 20  # of the teacher, which need not be good
TEACHER, CTC = "runs/tiny/teacher", "runs/tiny/students/ctc/seed_1"


class World:
    """A folder with parts that are made when they are first needed.

    Parts: `pipeline` (tiny.yaml, text/ and runs/ with all stages done), `data-bin` (fairseq's, with the same text),
    `fairseq` (checkpoints that fairseq wrote, and dictionaries), `ct2`, `onnx` (exported models), `hub` (Marian and
    M2M-100 folders).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: set[str] = set()

    def copy(self, parts: Iterable[str], to: Path) -> None:
        """Copy parts to a new folder."""
        for part in parts:
            self.need(part)
            for name in _FILES[part]:
                path = self.folder / name
                copy = shutil.copytree if path.is_dir() else shutil.copy2
                copy(path, to / name, **({"symlinks": True, "dirs_exist_ok": True} if path.is_dir() else {}))

    def need(self, part: str) -> None:
        if part not in self._made:
            _MAKERS[part](self)
            self._made.add(part)


def document() -> dict[str, Any]:
    """Return the tiny pipeline with a student of each kind that reads files of its own."""
    changed = tiny_pipeline.settings()
    raw = changed["students"]["raw"]
    ctc_model = {name: value for name, value in raw["model"].items() if name != "decoder_layers"}
    more = {
        "ctc": {**raw, "model": ctc_model, "nat": {"family": "ctc"}},
        "cached": {**raw, "word_kd": {"source": "cache"}},
    }
    changed["students"] |= more
    intervals = ("validate_interval_updates", "save_interval_updates", "log_interval_updates")
    changed["teacher"]["train"] |= {"max_updates": UPDATES, **dict.fromkeys(intervals, UPDATES // 2)}
    changed["knowledge"] = {"k": 4, "block_size": 30, "threads": 1}
    return json.loads(json.dumps(changed))  # no mapping twice, because YAML would write it as an alias


def _make(folder: Path, *arguments: str, entry: Entry | None = None) -> None:
    ended = run_command(arguments, folder, limit_seconds=600.0, entry=entry)
    if ended.code != 0:
        raise RuntimeError(
            f"the undamaged kdmt {' '.join(arguments)} failed: {ended.err.decode(errors='replace')[-2000:]}"
        )


def _make_pipeline(world: World) -> None:
    tiny_pipeline.write_pipeline(world.folder, document())
    for stage in STAGES:
        _make(world.folder, stage, "tiny.yaml")


def _make_data_bin(world: World) -> None:
    world.need("pipeline")
    shutil.copytree(world.folder / "runs/tiny/prepare/data-bin", world.folder / "data-bin")


def _make_fairseq(world: World) -> None:
    shutil.copytree(GOLDEN / "fairseq", world.folder / "fairseq", ignore=shutil.ignore_patterns("*.npz", "*.json"))
    shutil.copytree(GOLDEN / "generate" / "data-bin", world.folder / "fairseq" / "data-bin")


def _make_ct2(world: World) -> None:
    world.need("pipeline")
    _make(world.folder, "export", "--to", "ctranslate2", TEACHER, "ct2")


def _make_onnx(world: World) -> None:
    world.need("pipeline")
    _make(world.folder, "export", "--to", "onnx", CTC, "onnx")


def _make_hub(world: World) -> None:
    def save() -> None:
        from huggingface_models import save_model

        for name in ("marian", "m2m100"):
            save_model(name, Path("hub") / name)

    _make(world.folder, "models of the hub", entry=save)


_MAKERS: dict[str, Callable[[World], None]] = {
    "pipeline": _make_pipeline,
    "data-bin": _make_data_bin,
    "fairseq": _make_fairseq,
    "ct2": _make_ct2,
    "onnx": _make_onnx,
    "hub": _make_hub,
}
_FILES = {
    "pipeline": ("tiny.yaml", "text", "runs"),
    "data-bin": ("data-bin",),
    "fairseq": ("fairseq",),
    "ct2": ("ct2",),
    "onnx": ("onnx",),
    "hub": ("hub",),
}
