"""Messages about settings that are not valid, each with its YAML path."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from kdmt.config.distill import CHECKPOINT_BRANCH, FOREIGN_BRANCH
from kdmt.config.objectives import PAIRS_BRANCH, RULE_BRANCH
from kdmt.config.prepare import NONE_BRANCH, RULES_BRANCH

LONGEST_QUOTE = 200  # characters of a value that a message quotes
LONGEST_MESSAGE = 600
_MOST_PROBLEMS = 20
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
_BRANCHES = (RULES_BRANCH, NONE_BRANCH, RULE_BRANCH, PAIRS_BRANCH, CHECKPOINT_BRANCH, FOREIGN_BRANCH, "[key]")
_LONG_QUOTE = re.compile(rf"(['\"])(.{{{LONGEST_QUOTE}}}).+?\1", re.DOTALL)  # of a value in the message of a rule


def describe_problems(error: ValidationError) -> str:
    """Return all problems on one line, each with its YAML path."""
    problems = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"] if part not in _BRANCHES)
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
        if problem["type"] in _MESSAGES:
            message = _MESSAGES[problem["type"]].format(**problem.get("ctx", {}))
        message = _LONG_QUOTE.sub(r"\1\2...\1", message)
        if problem["type"] not in ("extra_forbidden", "missing", "unexpected_keyword_argument") and not isinstance(
            problem["input"], (dict, BaseModel)
        ):
            message += f" (it is {quote(problem['input'])})"
        problems.append(f"{shorten(where, LONGEST_QUOTE)}: {message}" if where else message)
    distinct = list(dict.fromkeys(problems))
    more = [f"and {len(distinct) - _MOST_PROBLEMS:,} more"] if len(distinct) > _MOST_PROBLEMS else []
    return "; ".join(distinct[:_MOST_PROBLEMS] + more)


def quote(value: Any) -> str:
    """A value as a message shows it: never more than 200 characters of it."""
    if isinstance(value, str):
        return repr(shorten(value, LONGEST_QUOTE))
    try:
        return shorten(repr(value), LONGEST_QUOTE)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists within lists
        return f"a value of type {type(value).__name__}"


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
