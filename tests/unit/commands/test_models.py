"""The choice of a model by languages."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdmt.commands.models import ModelTable, SearchOptions, paths_by_direction
from kdmt.errors import UserError
from kdmt.languages import Direction

EN_DE, EN_FR, DE_EN = Direction("en", "de"), Direction("en", "fr"), Direction("de", "en")
TABLE = ModelTable({each: Path(str(each)) for each in (EN_DE, EN_FR, DE_EN)}, SearchOptions())


@pytest.mark.parametrize(
    ("source", "target", "found"),
    [("en", "de", EN_DE), (None, "fr", EN_FR), ("deu", None, DE_EN), ("EN", "fra", EN_FR)],
)
def test_the_only_model_for_the_languages_is_found(source: str | None, target: str | None, found: Direction) -> None:
    assert TABLE.find(source, target) == found


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("en", None, "several models translate from 'en': choose from en-de, en-fr"),
        (None, None, "several models translate: choose from en-de, en-fr, de-en"),
        ("cs", "en", "no model translates from 'cs' to 'en': choose from en-de, en-fr, de-en"),
        (None, "\ud800", "no model translates to '\\ud800': choose from en-de, en-fr, de-en"),
    ],
)
def test_no_model_or_several_are_refused(source: str | None, target: str | None, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        TABLE.find(source, target)


def test_a_model_is_opened_once_and_only_if_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    translator = SimpleNamespace(codec=SimpleNamespace(text=SimpleNamespace(directions=())))
    monkeypatch.setattr(
        "kdmt.commands.models.open_translator", lambda path, _: opened.append(path) or (translator, None)
    )
    table = ModelTable(TABLE.paths, SearchOptions())
    assert table.open(EN_FR) is table.open(EN_FR)
    assert opened == [Path("en-fr")]


def test_two_models_with_the_same_languages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdmt.commands.models.find_engine", lambda path: (None, path))
    monkeypatch.setattr(
        "kdmt.commands.models.load_text_processor",
        lambda path: SimpleNamespace(direction=Direction(*path.parent.name.split("-")), directions=()),
    )
    paths = [Path("a/en-de"), Path("b/de-en"), Path("c/eng-deu")]
    assert paths_by_direction(paths[:2]) == {EN_DE: paths[0], DE_EN: paths[1]}
    with pytest.raises(UserError, match=r"^a/en-de and c/eng-deu both translate eng-deu$"):
        paths_by_direction(paths)
