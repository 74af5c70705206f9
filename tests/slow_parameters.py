"""Parameters of tests of which `make test` tests some and `make test-slow` the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def some_of(values: Iterable[Any], number: int) -> list[Any]:
    """Mark all values as slow except `number` of them, which are spread over the whole list and include the first."""
    listed: Sequence[Any] = list(values)
    kept = {position * len(listed) // number for position in range(number)}
    return [value if place in kept else _slow(value) for place, value in enumerate(listed)]


def _slow(value: Any) -> Any:
    if hasattr(value, "marks"):  # pytest.param
        return pytest.param(*value.values, marks=[*value.marks, pytest.mark.slow], id=value.id)
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
