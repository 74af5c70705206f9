"""The YAML document of a pipeline file, with overrides applied, before validation."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from kdmt.config.messages import LONGEST_MESSAGE, LONGEST_QUOTE, quote, shorten
from kdmt.config.yaml_text import read_yaml
from kdmt.errors import UserError
from kdmt.files import check_file
from kdmt.recognition import wrong_path

_NO_PIPELINE = "not a pipeline's YAML file"
_LARGEST_FILE = 1 << 20  # bytes


def read_document(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Read a pipeline file and apply overrides.

    Args:
        path: the YAML file.
        overrides: settings as `a.b=c`, with c read as YAML (`null`, `true`, `[1, 2]`, ...).

    Raises:
        UserError: if the path is not a file, the file is not YAML or not a mapping, or the path of an override does not
            exist.
        OSError: if the file cannot be read.
    """
    if path.is_dir():
        raise wrong_path(path, _NO_PIPELINE)
    check_file(path, missing="there is no such pipeline file")
    if path.stat().st_size > _LARGEST_FILE:
        raise wrong_path(path, f"{_NO_PIPELINE}, larger than {_LARGEST_FILE >> 20} MB")
    try:
        document = read_yaml(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise wrong_path(path, f"{_NO_PIPELINE}, not UTF-8 ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {shorten(' '.join(str(error).split()), LONGEST_MESSAGE)}") from None
    if not isinstance(document, dict):
        raise wrong_path(path, "expected a mapping of settings at the top level")
    for override in overrides:
        apply_override(document, override)
    return document


def apply_override(document: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys, shown = dotted.strip().split("."), f"--set {quote(override)}"
    if not equals or not all(keys):
        raise UserError(f"{shown}: expected a.b=value")
    try:
        value = read_yaml(text)
    except yaml.YAMLError:
        raise UserError(f"{shown}: {quote(text)} is not a YAML value") from None
    node: Any = document
    for depth, key in enumerate(keys):
        if isinstance(node, list):
            if not re.fullmatch(r"[0-9]{1,9}", key) or int(key) >= len(node):
                raise UserError(f"{shown}: {shorten('.'.join(keys[:depth]), LONGEST_QUOTE)} is a list of {len(node)}")
            key = int(key)  # type: ignore[assignment]
        elif not isinstance(node, dict):
            raise UserError(f"{shown}: {shorten('.'.join(keys[:depth]), LONGEST_QUOTE)} holds no further settings")
        if depth == len(keys) - 1:
            node[key] = value
        else:
            below = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
            if below is None:  # an empty mapping in the file, such as `clean:` without settings
                raise UserError(f"{shown}: {shorten('.'.join(keys[: depth + 1]), LONGEST_QUOTE)} is empty in the file")
            node[key] = copy.copy(below)  # the aliases of an anchor share one object, but only this path is to change
            node = node[key]
