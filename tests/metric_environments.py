"""Environments of external scorers of `make metrics-env NAME=...`; tests of their adapters need them."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / ".metrics-env"


def needs(name: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test without an environment."""
    return pytest.mark.skipif(not (FOLDER / name / "complete").exists(), reason=f"make metrics-env NAME={name}")
