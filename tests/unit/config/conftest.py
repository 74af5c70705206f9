"""Fixtures for tests of pipeline files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_pipeline

from kdmt.config import Pipeline, load_pipeline
from kdmt.errors import UserError

# terms of pydantic and Python that a reader who edits YAML does not know
LONGEST_MESSAGE = 1000
JARGON = re.compile(
    r"pydantic|function-after|instance of|\bextra|valid dict|NoneType|literal\[|\[key\]|type=|Value error"
)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Pipeline]:
    """Return a function that loads a small valid pipeline with overrides, or a given text."""
    path = tmp_path / "p.yaml"

    def load(*overrides: str, text: str | bytes | None = None) -> Pipeline:
        given = tiny_pipeline.default_yaml() if text is None else text
        path.write_bytes(given if isinstance(given, bytes) else given.encode())
        return load_pipeline(path, overrides)

    return load


@pytest.fixture
def refusal(load: Callable[..., Pipeline]) -> Callable[..., str]:
    """Return a function that loads an invalid pipeline and returns the error message, one line without jargon."""

    def refusal(*overrides: str, text: str | bytes | None = None) -> str:
        with pytest.raises(UserError) as caught:
            load(*overrides, text=text)
        message = str(caught.value)
        assert not JARGON.search(message), message
        assert "\n" not in message
        assert len(message) < LONGEST_MESSAGE
        return message

    return refusal


@pytest.fixture
def problem(refusal: Callable[..., str], tmp_path: Path) -> Callable[..., str]:
    """Return a function like `refusal` that removes the name of the file from the message."""
    return lambda *overrides, text=None: refusal(*overrides, text=text).removeprefix(f"{tmp_path / 'p.yaml'}: ")
