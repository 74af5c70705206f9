"""Invalid manifests, plans, training states and logs: each is refused with one line, and no file is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_input import message_of
from safetensors.torch import load_file, save_file
from tiny_pipeline import kdmt

from kdmt.checksum import file_sha256
from kdmt.models.checkpoint_folder import list_checkpoints
from kdmt.train.run_log import Progress

TEACHER = Path("runs/tiny/teacher")
LONGER = ("--set", "teacher.train.max_updates=62")


def refused(*arguments: str) -> str:
    return message_of(kdmt(*arguments))


@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{}", "not the record of a stage: the key 'settings' is missing"),
        (
            '{"settings": [], "extend": {}, "inputs": {}}',
            "not the record of a stage: 'settings' is [], expected an object",
        ),
        ('{"settings": {}, "extend": {}}', "not the record of a stage: the key 'inputs' is missing"),
        (
            '{"settings": {}, "extend": {}, "inputs": {"a": 1}}',
            "not the record of a stage: 'inputs' are not all sha256",
        ),
        ('{"settings": {}, "settings": {}}', "not valid JSON: the key 'settings' is given twice"),
        ('{"settings": NaN}', "not valid JSON: NaN is no number"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "not valid JSON: nested too deeply"),
    ],
    ids=lambda text: text[:30],
)
@pytest.mark.usefixtures("finished")
def test_invalid_records_are_refused(name: str, content: str, problem: str) -> None:
    (TEACHER / "manifest.json").unlink()
    path = TEACHER / name
    path.write_text(content, encoding="utf-8")
    before = list_checkpoints(TEACHER)
    assert refused("teacher", "tiny.yaml") == f"{path}: {problem}"
    assert list_checkpoints(TEACHER) == before
    assert path.read_text(encoding="utf-8") == content


def change_state(edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the training state of the newest checkpoint and update its checksums."""
    folder = list_checkpoints(TEACHER)[-1]
    path = folder / "training_state.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    sign(path, folder)
    return path


def sign(path: Path, folder: Path) -> None:
    sums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
    (folder / "checksums.json").write_text(json.dumps(sums | {path.name: file_sha256(path)}), encoding="utf-8")


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda values: values.update(update="60"), "update: should be a valid integer (it is '60')"),
        (lambda values: values.update(best_score=[]), "best_score: should be a valid number"),
        (lambda values: values.update(loss_sums=None), "loss_sums: "),
        (lambda values: values.update(unheard_of=1), "unheard_of: unknown"),
    ],
)
@pytest.mark.usefixtures("finished")
def test_invalid_training_positions_are_refused(edit: Callable[[dict[str, Any]], Any], problem: str) -> None:
    path = change_state(edit)
    message = refused("teacher", "tiny.yaml", *LONGER)
    assert message.startswith(f"{path}: ")
    assert problem in message


@pytest.mark.parametrize("change", ["missing", "shape"])
@pytest.mark.usefixtures("finished")
def test_states_of_another_optimiser_are_refused(change: str) -> None:
    folder = list_checkpoints(TEACHER)[-1]
    path = folder / "training_state.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("exp_avg."))
    if change == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(3)
    save_file(tensors, path)
    sign(path, folder)
    assert refused("teacher", "tiny.yaml", *LONGER) == f"{path}: {name} is missing or of another shape"


@pytest.mark.usefixtures("finished")
def test_a_log_with_invalid_lines_is_refused() -> None:
    path = TEACHER / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    odd = ["", "[]", "7", '{"update": "x"}', '{"kind": "train"}', "[" * 10_000, "\0\0", '{"update": true}']
    path.write_bytes("\n".join([lines[0], *odd, *lines[1:]]).encode() + b"\n\xff\n" + b'{"kind": "tra')
    result = kdmt("teacher", "tiny.yaml", *LONGER)
    assert result.code == 0, result.err
    assert f"{path}: {len(odd) + 1} lines are no records of training and were dropped" in result.err
    kept = path.read_text(encoding="utf-8").splitlines()
    assert kept[: len(lines)] == lines
    assert all(isinstance(json.loads(line), dict) for line in kept)


def test_a_line_truncated_by_a_kill_is_dropped_silently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"update": 1}\n{"update": 2}\n{"upd')
    Progress(path, name="x").cut_back(1)
    assert path.read_text() == '{"update": 1}\n'
    assert capsys.readouterr().err == ""
