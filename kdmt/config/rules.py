"""Settings of the cleaning rules that look at one pair at a time: `prepare.clean.rules`, and changes for one corpus.

The settings of a rule are a section; `Rules` has one field for each rule, which is null if the rule is not applied.
A file may write the rules as a name of a list (`default`), as a list of names and mappings, or as a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kdmt.config.section import Section, later


class LongestWord(Section):
    """Drop pairs with a very long word on a side with spaces between words: base64, DNA, joined lines."""

    max: int = Field(150, ge=1, description="Maximum number of characters of a word")


class Numbers(Section):
    """Drop pairs whose sides have different numbers.

    The numbers of both sides are compared as sets of digits, without separators and leading zeros, and with the digits
    of all scripts. With c common and d differing numbers, (c + 1) / (d + 1) is at least `min`.
    """

    min: float = Field(1.0, gt=0.0, description="Minimum of (common + 1) / (differing + 1)")


class Rules(Section):
    """Cleaning rules that look at one pair at a time, in the order in which they are applied; null: not applied."""

    longest_word: LongestWord | None = later(None, description="Maximum length of a word")
    numbers: Numbers | None = later(None, description="Agreement of the numbers of both sides")


# name of a list -> rule -> settings that differ from the defaults of the rule
LISTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "default": {"longest_word": {}, "numbers": {}},
}


def _merge(rules: dict[str, Any], name: object, settings: object) -> None:
    """Add, change or remove one rule in a mapping from rule to settings."""
    if not isinstance(name, str) or name not in Rules.model_fields:
        raise ValueError(f"{str(name)[:60]!r} is no rule; the rules are {', '.join(Rules.model_fields)}")
    if settings is False:
        rules.pop(name, None)
    elif settings is None or settings is True:
        rules.setdefault(name, {})
    elif isinstance(settings, Mapping):
        rules[name] = {**rules.get(name, {}), **settings}
    else:
        rules[name] = settings  # refused by the section of the rule, with its path


def _from_items(items: Sequence[object]) -> dict[str, Any]:
    """Return the rules of a list of names and mappings; a later item changes the rules of earlier ones."""
    rules: dict[str, Any] = {}
    for item in items:
        if isinstance(item, str) and item in LISTS:
            for name, settings in LISTS[item].items():
                _merge(rules, name, settings)
        elif isinstance(item, Mapping):
            for name, settings in item.items():
                _merge(rules, name, settings)
        else:
            _merge(rules, item, None)
    return rules


def _rules_from_yaml(value: object) -> object:
    """Return the value of `rules` as a mapping from rule to settings; null and sections are unchanged."""
    if isinstance(value, str):
        if value not in LISTS:
            raise ValueError(f"should be {' or '.join(map(repr, LISTS))}, or a list of rules")
        return _from_items([value])
    if isinstance(value, list):
        return _from_items(value)
    if isinstance(value, Mapping):
        return _from_items([{name: False if settings is None else settings for name, settings in value.items()}])
    return value


_AsInput = None | Literal["default"] | list[str | dict[str, Any]] | Rules
RulesOrNone = Annotated[Rules | None, BeforeValidator(_rules_from_yaml, json_schema_input_type=_AsInput)]


def change_rules(rules: Rules | None, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return rules with changes by name, as a mapping for validation; None if no rule is left and there was none."""
    found = {} if rules is None else {name: value for name, value in rules.model_dump().items() if value is not None}
    for name, settings in changes.items():
        if settings is False and name not in found:
            raise ValueError(f"'{name}: false' has no effect: the rule is not in 'prepare.clean.rules'")
        _merge(found, name, settings)
    return found if found or rules is not None else None
