"""Recipes: named blocks of settings for the teacher and for students, in `recipes.yaml`.

A section with `recipe: NAME` has the settings of the recipe wherever its own mapping has none. The settings are merged
before they are validated, so that a pipeline, its manifests and the configuration saved with a run hold their values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from kdmt.choices import RecipeName, names

_FILE = Path(__file__).with_name("recipes.yaml")
_ENTRY = re.compile(r"^((?:# .*\n)+)(\w+):\n((?:  .*\n)+)", re.MULTILINE)  # comment, name and settings of a recipe


@cache
def recipes() -> Mapping[str, Mapping[str, Any]]:
    """Return the settings of all recipes by name."""
    return yaml.safe_load(_FILE.read_text(encoding="utf-8"))


def with_recipe(section: Any, *, is_student: bool) -> Any:
    """Return the mapping of a teacher or a student with the settings of its recipe wherever it has none.

    A value that is not a mapping, or whose recipe is unknown, is returned as it is; its validation then fails.

    Raises:
        ValueError: if the recipe is for students, and the section is not one.
    """
    name = section.get("recipe") if isinstance(section, dict) else None
    if not isinstance(name, str) or name not in names(RecipeName):
        return section
    settings = recipes()[name]
    if "nat" in settings and not is_student:
        raise ValueError(f"'recipe: {name}' is for students: it has a non-autoregressive decoder ('nat')")
    return merge_settings(settings, section)


def merge_settings(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `over`, and below them those of `under`, mapping by mapping."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        given = value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        merged[key] = merge_settings(below, given) if isinstance(below, dict) and isinstance(given, dict) else value
    return merged


def recipes_markdown() -> str:
    """Return a section with source and settings of each recipe, as Markdown."""
    found = _ENTRY.findall(_FILE.read_text(encoding="utf-8"))
    return "\n".join(_recipe_markdown(*parts) for parts in found)


def _recipe_markdown(comment: str, name: str, settings: str) -> str:
    text = re.sub(r"^# ", "", comment, flags=re.MULTILINE)
    text = re.sub(r"(?<!\w)'([^']+)'(?!\w)", r"`\1`", text)  # settings
    return f"## {name}\n\n{text}\n```yaml\n{re.sub(r'^  ', '', settings, flags=re.MULTILINE)}```\n"
