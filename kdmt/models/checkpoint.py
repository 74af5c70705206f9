"""Content of a checkpoint and functions to read and write it: weights, training state and the files that belong to it.

checkpoint_<update>/
    model.safetensors, model.json               weights; shape of the model
    tokenizer/, text.json, dict.<lang>.txt      files that convert text to ids and back
    training_state.safetensors, .json           optimiser, random state; position, scores
    checksums.json                              SHA-256 of each of the files above
best, last                                      pointer files with the name of a folder
average/                                        checkpoint folder without training state
"""

from __future__ import annotations

import math
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdmt.checksum import file_sha256, verify_checkpoint
from kdmt.errors import UserError
from kdmt.files import (
    PARTIAL,
    check_file,
    explain_number,
    naming,
    partial_path,
    read_json_object,
    sync_to_disk,
    write_json,
)
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_model, count_stored, describe_model
from kdmt.models.description import read_description
from kdmt.models.transformer import Transformer

_SHOWN = 80  # most characters of the name of a weight in a message
_LONGEST_REASON = 300


@dataclass(frozen=True)
class TrainingState:
    """State that training needs in addition to the model in order to continue: named tensors, and JSON values."""

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
    """Write a checkpoint to a temporary folder, verify it, and rename the folder.

    Args:
        folder: final path of the checkpoint. A folder of this name is replaced after the new one has been verified.
        model: model whose weights are stored; shared weights are stored once.
        weights: other weights of the same shapes, stored in place of the model's own; None for the model's own.
        companions: files and folders to copy into the checkpoint (tokenizer, dictionaries, text settings).
        state: state for resuming; None for a checkpoint that is not for resuming.
    """
    aside = partial_path(folder)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _save_tensors(aside / "model.safetensors", _weights(model) if weights is None else weights)
    write_json(aside / "model.json", describe_model(model))
    for companion in companions:
        if companion.is_dir():
            with naming(aside / companion.name):
                shutil.copytree(companion, aside / companion.name)
        else:
            shutil.copy2(companion, aside / companion.name)
    if state is not None:
        _save_tensors(aside / "training_state.safetensors", state.tensors)
        write_json(aside / "training_state.json", state.values)
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    write_json(aside / "checksums.json", {str(path.relative_to(aside)): file_sha256(path) for path in files})
    for path in [*files, aside / "checksums.json"]:
        sync_to_disk(path)
    verify_checkpoint(aside)
    replaced = folder.with_name(f"{PARTIAL}replaced-{folder.name}")
    if replaced.exists():
        shutil.rmtree(replaced)
    if folder.exists():  # renamed first, since a kill during deletion would leave an incomplete checkpoint
        folder.rename(replaced)
    aside.rename(folder)
    sync_to_disk(folder.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def load_model(folder: Path) -> Transformer:
    """Return the model of a checkpoint, built from its description, in evaluation mode on the CPU.

    Raises:
        UserError: if the folder is damaged or its weights do not fit its description.
    """
    verify_checkpoint(folder)
    description = read_description(folder)
    _check_fits(description, folder / "model.safetensors")
    model = build_model(description)
    load_weights(model, folder)
    return model.eval()


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy the weights of a checkpoint into a model.

    The checkpoint stores shared tensors once; in the model they are tied already.

    Raises:
        UserError: if the weights do not fit the model, or are not finite floating-point numbers.
    """
    path = folder / "model.safetensors"
    weights = _load_tensors(path)
    expected = _weights(model)
    if mismatched := sorted(set(expected) ^ set(weights)):
        raise UserError(f"{path}: does not fit the model: {mismatched[0][:_SHOWN]} is in one of the two only")
    for name, tensor in expected.items():
        if tensor.shape != weights[name].shape:
            raise UserError(f"{path}: {name} is {list(weights[name].shape)}, the model has {list(tensor.shape)}")
        check_finite(weights[name], name, path)
        with torch.no_grad():
            tensor.copy_(weights[name])


def num_parameters(folder: Path) -> int:
    """Return the number of parameters of a checkpoint, shared ones counted once, without reading their values."""
    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118  (it is no mapping)


def load_state(folder: Path) -> TrainingState:
    """Return the training state of a verified checkpoint."""
    values_file = folder / "training_state.json"
    if not values_file.is_file():
        raise UserError(f"{folder}: holds no training state; only 'checkpoint_<update>' folders do")
    return TrainingState(_load_tensors(folder / "training_state.safetensors"), read_json_object(values_file))


def average_weights(folders: Sequence[Path]) -> dict[str, Tensor]:
    """Return the mean of the weights of some checkpoints, summed in float64 and converted to their stored type."""
    totals: dict[str, Tensor] = {}
    types: dict[str, torch.dtype] = {}
    for folder in folders:
        path = folder / "model.safetensors"
        for name, tensor in _load_tensors(path).items():
            if totals and (name not in totals or totals[name].shape != tensor.shape) and folder != folders[0]:
                raise UserError(f"{path}: {name[:_SHOWN]} is not as in {folders[0]}: they are of different models")
            totals[name] = totals.get(name, 0.0) + tensor.double()
            types[name] = tensor.dtype
    return {name: (total / len(folders)).to(types[name]) for name, total in totals.items()}


def check_finite(tensor: Tensor, name: str, path: Path) -> None:
    """Check that a weight consists of finite floating-point numbers.

    Raises:
        UserError: if it does not; the message names the file and the weight.
    """
    if not tensor.is_floating_point():
        raise UserError(f"{path}: {name[:_SHOWN]} is of type {tensor.dtype}, expected floating-point numbers")
    if not tensor.isfinite().all():
        raise UserError(f"{path}: {name[:_SHOWN]} has weights that are NaN or infinite")


def _check_fits(description: Mapping[str, Any], path: Path) -> None:
    """Check, before a model is built, that its description is not larger than the file of its weights.

    Raises:
        UserError: if the file is too small for the number of weights.
    """
    check_file(path)
    there = path.stat().st_size
    described = count_stored(
        TransformerConfig(**description["config"]), description["src_vocab_size"], description["tgt_vocab_size"]
    )
    if described > there:  # a weight needs at least one byte
        raise UserError(
            f"{path}: does not fit the model: model.json describes at least {described:,} weights, "
            f"and the file has {there:,} bytes"
        )


def _load_tensors(path: Path) -> dict[str, Tensor]:
    check_file(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not readable: {' '.join(str(error).split())[:_LONGEST_REASON]}") from None


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by name, a shared one under its first name only, since safetensors refuses aliases."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: dict[str, str] | None = None) -> None:
    """Write a file of safetensors with the permissions of any other new file.

    safetensors 0.8 writes a temporary file that only its owner may read, and renames it.
    """
    path.touch()
    permissions = stat.S_IMODE(path.stat().st_mode)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    path.chmod(permissions)


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        write_tensors(path, tensors)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        reason = explain_number(int(number[1])) if number else str(error)
        raise UserError(f"{path}: could not be written: {reason}; earlier checkpoints are kept") from None
