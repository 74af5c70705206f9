"""Validation of values from other sources than a pipeline file, with the same strictness."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from kdmt.config.messages import LONGEST_QUOTE, describe_problems, shorten
from kdmt.config.section import Section
from kdmt.errors import UserError

_Record = TypeVar("_Record")


def read_record(kind: type[_Record], values: object, where: str) -> _Record:
    """Return a dataclass from the JSON values as which it was stored.

    Args:
        where: beginning of the error message, usually the path of the file.

    Raises:
        UserError: if a value is missing, unknown or of another type.
    """
    known = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    if known and isinstance(values, dict) and (unknown := sorted(values.keys() - known)):
        raise UserError(f"{where}: {shorten(unknown[0], LONGEST_QUOTE)}: unknown")
    try:
        adapter: TypeAdapter[_Record] = _adapter(kind)  # type: ignore[arg-type]  # every class is hashable
        return adapter.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_problems(error)}") from None


@cache  # building an adapter takes milliseconds
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


_Kind = TypeVar("_Kind", bound=Section)


def checked(kind: type[_Kind], where: str, **values: Any) -> _Kind:
    """Return a section with values that are not from a pipeline file, such as options of a command.

    Args:
        where: beginning of the error message.

    Raises:
        UserError: if a value is not valid; the message has `where` and the name of each such value.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_problems(error, kind)}") from None
