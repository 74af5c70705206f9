"""Checkpoints: folders that appear whole or not at all.

checkpoint_<update>/
    model.safetensors, model.json               weights; the shape to rebuild the model from
    tokenizer/, text.json, dict.<lang>.txt      what turns text into ids and back
    training_state.safetensors, .json           optimiser, random state; position, scores
    checksums.json                              sha256 of each of the files above
best, last                                      pointer files: the name of a folder
average/                                        a folder without training state
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdmt.checksum import file_sha256, verify_checkpoint
from kdmt.errors import UserError
from kdmt.models.build import build_model, describe_model
from kdmt.models.transformer import Transformer

PREFIX = "checkpoint_"
_ASIDE = ".partial-"


@dataclass(frozen=True)
class TrainingState:
    """What training needs besides the model to go on: named tensors, and plain JSON values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save_checkpoint(
    folder: Path,
    model: Transformer,
    *,
    weights: Mapping[str, Tensor] | None = None,
    companions: Sequence[Path] = (),
    state: TrainingState | None = None,
) -> None:
    """Write a checkpoint folder aside, read it back, and rename it into place.

    Args:
        folder: the final name; if it exists, it is replaced once the new one is verified.
        model: its weights are stored once where they are shared.
        weights: other weights of the same shapes, stored instead of the model's own.
        companions: files and folders copied into the checkpoint (tokenizer, dictionaries, text settings).
        state: for resuming; absent from a folder that is only for use.
    """
    aside = folder.parent / f"{_ASIDE}{folder.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _save_tensors(aside / "model.safetensors", _weights(model) if weights is None else weights)
    _write_json(aside / "model.json", describe_model(model))
    for companion in companions:
        if companion.is_dir():
            shutil.copytree(companion, aside / companion.name)
        else:
            shutil.copy2(companion, aside / companion.name)
    if state is not None:
        _save_tensors(aside / "training_state.safetensors", state.tensors)
        _write_json(aside / "training_state.json", state.values)
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    _write_json(aside / "checksums.json", {str(path.relative_to(aside)): file_sha256(path) for path in files})
    for path in [*files, aside / "checksums.json"]:
        _sync(path)
    verify_checkpoint(aside)
    replaced = folder.with_name(f"{_ASIDE}replaced-{folder.name}")
    if replaced.exists():
        shutil.rmtree(replaced)
    if folder.exists():  # moved, since a kill while it is being deleted would leave half a checkpoint
        folder.rename(replaced)
    aside.rename(folder)
    _sync(folder.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def load_model(folder: Path) -> Transformer:
    """The model of a checkpoint, rebuilt from what the checkpoint says, in evaluation mode on the CPU.

    Raises:
        UserError: the folder is damaged or its weights do not fit its description.
    """
    verify_checkpoint(folder)
    model = build_model(json.loads((folder / "model.json").read_text()))
    load_weights(model, folder)
    return model.eval()


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill a model from a checkpoint; aliases of shared tensors, which are stored once, are tied already."""
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not readable: {error}") from None
    expected = _weights(model)
    if mismatched := sorted(set(expected) ^ set(weights)):
        raise UserError(f"{path}: does not fit the model: {mismatched[0]} is in one of the two only")
    for name, tensor in expected.items():
        if tensor.shape != weights[name].shape:
            raise UserError(f"{path}: {name} is {list(weights[name].shape)}, the model has {list(tensor.shape)}")
        with torch.no_grad():
            tensor.copy_(weights[name])


def load_state(folder: Path) -> TrainingState:
    """The training state of a verified checkpoint."""
    values_file = folder / "training_state.json"
    if not values_file.is_file():
        raise UserError(f"{folder}: holds no training state; only 'checkpoint_<update>' folders do")
    return TrainingState(load_file(folder / "training_state.safetensors"), json.loads(values_file.read_text()))


def point(pointer: Path, folder: Path) -> None:
    """Make a pointer file (`best`, `last`) name a checkpoint folder beside it."""
    aside = pointer.with_name(f"{_ASIDE}{pointer.name}")
    aside.write_text(f"{folder.name}\n")
    _sync(aside)
    aside.replace(pointer)


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint folder that `path` is, points to, or (a training run) holds: average, else best, else last.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return resolve_checkpoint(path.parent / path.read_text().strip())
    if (path / "model.safetensors").is_file():
        return path
    for name in ("average", "best", "last"):
        if (path / name).exists():
            return resolve_checkpoint(path / name)
    raise UserError(f"{path}: neither a checkpoint folder nor a run that has one")


def list_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    folders = [path for path in run.glob(f"{PREFIX}*") if path.is_dir() and path.name.removeprefix(PREFIX).isdigit()]
    return sorted(folders, key=checkpoint_update)


def checkpoint_update(folder: Path) -> int:
    """The update that a checkpoint was written at."""
    return int(folder.name.removeprefix(PREFIX))


def newest_valid_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that passes verification, and what was wrong with newer ones."""
    problems = []
    for folder in reversed(list_checkpoints(run)):
        try:
            verify_checkpoint(folder)
        except UserError as error:
            problems.append(str(error))
        else:
            return folder, problems
    return None, problems


def remove_unfinished(run: Path) -> None:
    """Remove what a killed process was writing; a checkpoint that was being replaced comes back."""
    for replaced in run.glob(f"{_ASIDE}replaced-*"):
        folder = run / replaced.name.removeprefix(f"{_ASIDE}replaced-")
        if not folder.exists():
            replaced.rename(folder)
    for path in run.glob(f"{_ASIDE}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def average_weights(folders: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of some checkpoints' weights, summed in float64, in the type that they are stored in."""
    totals: dict[str, Tensor] = {}
    types: dict[str, torch.dtype] = {}
    for folder in folders:
        for name, tensor in load_file(folder / "model.safetensors").items():
            totals[name] = totals.get(name, 0.0) + tensor.double()
            types[name] = tensor.dtype
    return {name: (total / len(folders)).to(types[name]) for name, total in totals.items()}


def checkpoint_sha256(folder: Path) -> str:
    """The identity of a checkpoint: the sha256 of its weights."""
    try:
        checksums: Mapping[str, str] = json.loads((folder / "checksums.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: not a checkpoint: it has no checksums.json") from None
    return checksums["model.safetensors"]


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name, a shared one under its first name alone (safetensors refuses aliases)."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise UserError(f"{path}: could not be written: {error}; earlier checkpoints are kept") from None


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
