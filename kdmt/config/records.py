"""Values that come from elsewhere than a pipeline file, checked as strictly."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from kdmt.config.messages import LONGEST_QUOTE, describe_problems, shorten
from kdmt.config.section import Section
from kdmt.errors import UserError

_Record = TypeVar("_Record")


def read_record(kind: type[_Record], values: object, where: str) -> _Record:
    """Return a dataclass from the JSON values that it was written as.

    Args:
        where: begins the message.

    Raises:
        UserError: a value is missing, unknown or of another type.
    """
    known = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    if known and isinstance(values, dict) and (unknown := sorted(values.keys() - known)):
        raise UserError(f"{where}: {shorten(unknown[0], LONGEST_QUOTE)}: unknown")
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_problems(error)}") from None


_Kind = TypeVar("_Kind", bound=Section)


def checked(kind: type[_Kind], where: str, **values: Any) -> _Kind:
    """Return a section with values that come from elsewhere than a pipeline: options of a command, another file.

    Raises:
        UserError: `where`, and each value that is not valid by its name.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_problems(error, kind)}") from None
