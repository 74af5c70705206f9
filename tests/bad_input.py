"""Commands that are refused: what they say, and that nothing was harmed."""

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
    """Every file below runs/ is afterwards what it was before, but for folders that are work in progress by name."""

    def hashes() -> dict[str, str]:
        return {name: sha for name, sha in hash_tree(Path("runs")).items() if not name.startswith(besides)}

    before = hashes()
    yield
    assert hashes() == before


def refused(*arguments: str, sets: tuple[str, ...] = ()) -> str:
    """The message of a command that is refused: the last line of what it says, and the only one of its kind."""
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
