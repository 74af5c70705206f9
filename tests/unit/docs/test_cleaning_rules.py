"""The table of cleaning rules in docs/how-to/clean-corpora.md agrees with the rules and their settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from kdmt.config import Clean
from kdmt.config.rules import LISTS, Rules
from kdmt.config.section import sections_in

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "clean-corpora.md").read_text(encoding="utf-8")


def cells(cell: str) -> dict[str, Any]:
    """Return the settings in a cell of the table."""
    return dict(pair for text in re.findall(r"`([^`]*)`", cell) for pair in yaml.safe_load(text).items())


def rows(first: str = "settings") -> list[list[str]]:
    """Return the rows of the table whose second column has this title."""
    table = PAGE.split(f"| rule | {first} |")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_every_rule_is_in_a_table_in_its_order() -> None:
    found = [row[0].strip("`") for row in (*rows(), *rows("what it does"))]
    assert found == list(Rules.model_fields)


def test_rules_in_no_list_are_those_of_the_second_table() -> None:
    listed = {name for rules in LISTS.values() for name in rules}
    assert not listed & {row[0].strip("`") for row in rows("what it does")}


def test_settings_and_defaults_of_the_table_are_those_of_the_rules() -> None:
    for name, settings, *_ in rows():
        ((section, _),) = sections_in(Rules.model_fields[name.strip("`")].annotation)
        assert cells(settings) == {key: field.default for key, field in section.model_fields.items()}


def test_the_lists_of_the_table_are_those_of_the_settings() -> None:
    for name, _, _, *columns in rows():
        for list_name, cell in zip(LISTS, columns, strict=True):
            rules = Clean.model_validate({"rules": list_name}).rules
            chosen = getattr(rules, name.strip("`"))
            if cell == "no":
                assert chosen is None
            else:
                expected = {} if cell == "yes" else cells(cell)
                assert chosen == type(chosen)(**expected), (name, list_name)
