"""Helpers for commands that must be refused: read their error message and check that no output was changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny_pipeline import Finished, hash_tree, kdmt, settings, to_yaml


def change(edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit ./tiny.yaml."""
    document = settings()
    edit(document)
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")


@contextmanager
def unharmed(*besides: str) -> Iterator[None]:
    """Check that every file below runs/ is unchanged at the end, except those whose paths begin with `besides`."""

    def hashes() -> dict[str, str]:
        return {name: sha for name, sha in hash_tree(Path("runs")).items() if not name.startswith(besides)}

    before = hashes()
    yield
    assert hashes() == before


def refused(*arguments: str, sets: tuple[str, ...] = ()) -> str:
    """Run a command that must be refused and return its error message, the last line of its output."""
    result = kdmt(*arguments, *(part for setting in sets for part in ("--set", setting)))
    return message_of(result)


def message_of(result: Finished) -> str:
    assert result.code == 2, result.err
    assert "Traceback" not in result.err
    assert result.out == ""
    *before, last = result.err.removesuffix("\n").split("\n")
    assert last.startswith("kdmt: error: ")
    assert not any("error" in line for line in before)
    return last.removeprefix("kdmt: error: ")
