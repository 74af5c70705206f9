"""The models of a server by language pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdmt.languages import Direction, language_name, same_language
from kdmt.serve.requests import RequestError

_LONGEST_CODE = 64


@dataclass(frozen=True)
class ServedModel:
    """A model: its languages, and the function that translates sentences of any length."""

    direction: Direction
    translate: Callable[[list[str]], list[str]]


def find_direction(directions: Sequence[Direction], source: str, target: str) -> Direction:
    """Return the direction of a request among those of the models. `auto` is the only source language of a target.

    Raises:
        RequestError: if there is none, or if `auto` could be several.
    """
    to_target = [each for each in directions if same_language(each.target, target)]
    if not to_target:
        raise RequestError(400, f"{target[:_LONGEST_CODE]} is not supported as target language")
    if source == "auto":
        if len(to_target) > 1:
            known = ", ".join(each.source for each in to_target)
            raise RequestError(400, f"the source language is not detected: give one of {known}")
        return to_target[0]
    found = [each for each in to_target if same_language(each.source, source)]
    if not found:
        raise RequestError(400, f"{source[:_LONGEST_CODE]} to {target[:_LONGEST_CODE]} is not supported")
    return found[0]


def list_languages(directions: Sequence[Direction]) -> list[dict[str, object]]:
    """Return the answer to GET /languages: every language that is a source, with its targets, sorted by name."""
    targets: dict[str, list[str]] = {}
    for direction in directions:
        targets.setdefault(direction.source, []).append(direction.target)
        targets.setdefault(direction.target, [])
    rows: list[dict[str, object]] = [
        {"code": code, "name": language_name(code), "targets": sorted(found)} for code, found in targets.items()
    ]
    return sorted(rows, key=lambda row: str(row["name"]))
