"""The models of a server by language pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdmt.languages import Direction, language_name, matching_directions
from kdmt.serve.requests import RequestError

_LONGEST_CODE = 64


@dataclass(frozen=True)
class ServedModel:
    """A model: its languages, and the function that translates sentences of any length.

    Attributes:
        direction: source and target language.
        translate: function that translates sentences.
        alike: value that is equal for directions of one model that translate a sentence in the same way; None if the
            model has no such directions.
        shared: value that is equal for directions that one model translates, which have one queue; None for a model
            with one direction.
        add_context: function that returns the sentences of a document as `translate` reads them: with their context, if
            the model translates with one.
    """

    direction: Direction
    translate: Callable[[list[str]], list[str]]
    alike: object = None
    shared: object = None
    add_context: Callable[[Sequence[str]], list[str]] = list


def find_directions(directions: Sequence[Direction], source: str, target: str) -> list[Direction]:
    """Return the directions of a request among those of the models: several only if the source language is `auto`.

    Raises:
        RequestError: if there is none.
    """
    to_target = matching_directions(directions, None, target)
    if not to_target:
        raise RequestError(400, f"{target[:_LONGEST_CODE]} is not supported as target language")
    found = to_target if source == "auto" else matching_directions(to_target, source, None)
    if not found:
        raise RequestError(400, f"{source[:_LONGEST_CODE]} to {target[:_LONGEST_CODE]} is not supported")
    return found


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
