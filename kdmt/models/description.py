"""`model.json`: the shape of a model, read and checked before a model is built. This module does not load PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from kdmt.config import check_bounds, read_record
from kdmt.errors import UserError
from kdmt.files import read_json_object
from kdmt.models.architecture import NATConfig, TransformerConfig

FILE = "model.json"
_Config = TypeVar("_Config", TransformerConfig, NATConfig)
_FAMILIES = ("transformer", "nonautoregressive")


def read_description(folder: Path) -> dict[str, Any]:
    """Return the content of the `model.json` of a kdmt model after checking every value.

    Raises:
        UserError: if the file or a value is missing, or a value is unknown or out of range. The message names the file
            and the value.
    """
    path = folder / FILE
    values = read_json_object(path, missing=f"there is no such file: {folder} is not a checkpoint")
    try:
        check_description(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return values


def is_right_to_left(folder: Path) -> bool:
    """Return whether a model predicts targets from right to left."""
    return read_description(folder)["config"].get("right_to_left", False) is True


def takes_target_from_source(folder: Path) -> bool:
    """Return whether the decoder of a model begins with the first token of the source."""
    return read_description(folder)["config"].get("target_from_source", False) is True


def check_description(values: Mapping[str, Any]) -> None:
    """Check that a model can be built from a description.

    Raises:
        UserError: if a value is missing, unknown or out of range. The message names the value.
    """
    family = values.get("family")
    if family not in _FAMILIES:
        raise UserError(f"model family {str(family)[:80]!r} is none of {', '.join(_FAMILIES)}")
    sizes = {name: check_size(values, name) for name in ("src_vocab_size", "tgt_vocab_size")}
    config = read_config(TransformerConfig, values.get("config"), "config")
    for side, size in zip(("source", "target"), sizes.values(), strict=True):
        token = getattr(config, f"{side}_token")
        if token is not None and not 0 <= token < size:
            raise UserError(f"config.{side}_token: {token} is no token of {size}")
    if family == "nonautoregressive":
        read_config(NATConfig, values.get("nat"), "nat")
        if config.unidirectional_encoder:
            raise UserError("config.unidirectional_encoder: only autoregressive models have it")
        if config.target_from_source:
            raise UserError("config.target_from_source: a non-autoregressive model has no first decoder input")
        if config.right_to_left:
            raise UserError("config.right_to_left: a non-autoregressive model has no order of tokens")


def check_size(values: Mapping[str, Any], name: str) -> int:
    """Return a size of a description after checking that it is a whole number from 1 to the bound of its name.

    Raises:
        UserError: if it is not.
    """
    value = values.get(name)
    if type(value) is not int or value < 1:
        raise UserError(f"{name}: {str(value)[:80]!r}, expected a whole number from 1 on")
    try:
        check_bounds(name, value)
    except ValueError as error:
        raise UserError(f"{name}: {error} (it is {value})") from None
    return value


def read_config(kind: type[_Config], values: Any, where: str) -> _Config:
    """Return a part of a description as a record of type `kind`.

    Raises:
        UserError: if a value is unknown, of another type or out of range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected an object")
    config = read_record(kind, values, where)
    check_numbers(config, where)
    return config


def check_numbers(config: TransformerConfig | NATConfig, where: str) -> None:
    """Check that no number is too small or too large.

    Raises:
        UserError: if one is. The message names the first one.
    """
    for name, value in vars(config).items():
        _check_number(f"{where}.{name}", name, value)


_SMALLEST = {  # for all others 1
    **dict.fromkeys(("encoder_layers", "decoder_layers", "source_token", "target_token", "streaming"), 0),
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0),
}


def _check_number(where: str, name: str, value: Any) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        smallest = _SMALLEST.get(name, 1)
        try:
            check_bounds(name, number)
            if isinstance(number, float) and not smallest <= number < 1.0:
                raise ValueError("should be at least 0 and less than 1")
            if number < smallest:
                raise ValueError(f"should be at least {smallest}")
        except ValueError as error:
            raise UserError(f"{where}: {error} (it is {number})") from None
