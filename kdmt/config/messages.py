"""Messages about settings that are not valid, each with its YAML path."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kdmt.config.distill import LANGUAGES_BRANCH, PATH_BRANCH, SCORER_BRANCH, SCRIPTS_BRANCH
from kdmt.config.mixture import MIXTURE_BRANCH, NAME_BRANCH
from kdmt.config.prepare import (
    AUTO_BRANCH,
    COVERAGE_BRANCH,
    NONE_BRANCH,
    ONE_TEXT_BRANCH,
    OVERLAP_BRANCH,
    RULES_BRANCH,
    SIZE_BRANCH,
    SWITCH_BRANCH,
    TEXTS_BRANCH,
)
from kdmt.config.section import Section, sections_in
from kdmt.config.simultaneous import LIST_BRANCH, NUMBER_BRANCH, RANGE_BRANCH
from kdmt.config.student import PAIRS_BRANCH, RULE_BRANCH
from kdmt.config.teacher_entries import DIRECTION_BRANCHES, TEACHER_BRANCHES

LONGEST_QUOTE = 200  # maximum number of characters of a value in a message
LONGEST_MESSAGE = 600
_MOST_PROBLEMS = 20
_MOST_DESCRIPTIONS = 3  # number of problems with descriptions; more descriptions would hide the problems
_MESSAGES = {
    "extra_forbidden": "unknown setting",
    "missing": "missing",
    "unexpected_keyword_argument": "unknown",
    "model_type": "expected a mapping of settings",
    "dict_type": "expected a mapping",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "too_short": "the list is too short",
    "string_pattern_mismatch": "not in the form {pattern}",
}
# tags of unions, which pydantic puts into the location of an error, and what it appends for a key of a mapping
_BRANCHES = (
    *(
        RULES_BRANCH,
        NONE_BRANCH,
        SIZE_BRANCH,
        COVERAGE_BRANCH,
        AUTO_BRANCH,
        OVERLAP_BRANCH,
        SWITCH_BRANCH,
        RULE_BRANCH,
        PAIRS_BRANCH,
    ),
    *(NAME_BRANCH, MIXTURE_BRANCH, PATH_BRANCH, SCORER_BRANCH, ONE_TEXT_BRANCH, TEXTS_BRANCH),
    *(SCRIPTS_BRANCH, LANGUAGES_BRANCH),
    *TEACHER_BRANCHES,
    *DIRECTION_BRANCHES,
    *(NUMBER_BRANCH, LIST_BRANCH, RANGE_BRANCH),
    "[key]",
)
_LONG_QUOTE = re.compile(rf"(['\"])(.{{{LONGEST_QUOTE}}}).+?\1", re.DOTALL)  # of a value in the message of a rule


def describe_problems(error: ValidationError, model: type[Section] | None = None) -> str:
    """Return all problems on one line, each with its YAML path.

    Args:
        model: the section that was validated; a problem with a setting of it ends with the setting's description.
    """
    problems = list(dict.fromkeys(_locate(problem, model) for problem in error.errors(include_url=False)))
    shown = [
        f"{text} [{description}]" if description and len(problems) <= _MOST_DESCRIPTIONS else text
        for text, description in problems[:_MOST_PROBLEMS]
    ]
    more = [f"and {len(problems) - _MOST_PROBLEMS:,} more"] if len(problems) > _MOST_PROBLEMS else []
    return "; ".join(shown + more)


def _locate(problem: ErrorDetails, model: type[Section] | None) -> tuple[str, str | None]:
    """Return the message of a problem with its path, and the description of the setting."""
    location = [part for part in problem["loc"] if part not in _BRANCHES]
    described = _without_stage(location)
    if len(described) < len(location) and location[4:5] == ["train"]:
        del location[4]  # a stage has the settings of `train` directly
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    if problem["type"] in _MESSAGES:
        message = _MESSAGES[problem["type"]].format(**problem.get("ctx", {}))
    message = _LONG_QUOTE.sub(r"\1\2...\1", message)
    if problem["type"] not in ("extra_forbidden", "missing", "unexpected_keyword_argument") and not isinstance(
        problem["input"], (dict, BaseModel)
    ):
        message += f" (it is {quote(problem['input'])})"
    where = shorten(".".join(map(str, location)), LONGEST_QUOTE)
    description = None if model is None else describe_setting(model, described)
    return f"{where}: {message}" if where else message, description


def _without_stage(location: list[str | int]) -> list[str | int]:
    """Return the path of a setting of a stage as a setting of its student; another path as it is."""
    is_of_stage = location[:1] == ["students"] and location[2:3] == ["stages"] and len(location) > 3
    return location[:2] + location[4:] if is_of_stage else location


def describe_setting(model: type[Section], location: Sequence[str | int]) -> str | None:
    """Return the description of the setting at a path within a section, None if the path leads to no single setting.

    Args:
        location: names of settings, keys of mappings and indices of lists.
    """
    sections, keys = [model], 0  # keys: number of names and indices before the next setting
    description = None
    for part in location:
        if keys:
            keys -= 1
            continue
        field = next((section.model_fields[part] for section in sections if part in section.model_fields), None)
        if field is None:
            continue
        found = sections_in(field.annotation)
        sections, keys = [section for section, _ in found], max((path.count(".") for _, path in found), default=0)
        description = None if sections else field.description
    return description


def quote(value: object) -> str:
    """Return a value as a message shows it: at most 200 characters of it."""
    if isinstance(value, str):
        return repr(shorten(value, LONGEST_QUOTE))
    try:
        return shorten(repr(value), LONGEST_QUOTE)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists within lists
        return f"a value of type {type(value).__name__}"


def shorten(text: str, length: int) -> str:
    """Return the first `length` characters of a text, with an ellipsis if it is longer."""
    return text if len(text) <= length else f"{text[:length]}..."
