"""The choice of a model by languages."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdmt import languages
from kdmt.commands.models import ModelTable, SearchOptions, paths_by_direction, without_effect
from kdmt.config import Text
from kdmt.corpus.text import TextProcessor
from kdmt.decode.engines.table import ENGINES
from kdmt.decode.engines.translator import Translator
from kdmt.errors import UserError
from kdmt.languages import Direction

EN_DE, EN_FR, DE_EN = Direction("en", "de"), Direction("en", "fr"), Direction("de", "en")
FR_DE = Direction("fr", "de")
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
    codec = SimpleNamespace(text=TextProcessor(Text(), "en", "fr"))
    translator = Translator(SimpleNamespace(), codec)
    monkeypatch.setattr(
        "kdmt.commands.models.open_translator", lambda path, _: opened.append(path) or (translator, None)
    )
    table = ModelTable(TABLE.paths, SearchOptions())
    assert table.open(EN_FR) is table.open(EN_FR)
    assert opened == [Path("en-fr")]


def test_text_of_a_model_is_read_once_for_all_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    text = TextProcessor(Text(), "src", "tgt", directions=(EN_DE, FR_DE))
    monkeypatch.setattr("kdmt.commands.models._text_of", lambda path: read.append(path) or text)
    table = ModelTable(dict.fromkeys((EN_DE, FR_DE), Path("both")), SearchOptions())
    assert [table.find(None, "de") for _ in range(3)] == [EN_DE] * 3
    assert read == [Path("both")]


def test_sentences_are_split_by_the_rules_of_a_source_language_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    text = TextProcessor(Text(), "src", "tgt", directions=(EN_DE, FR_DE, DE_EN))
    monkeypatch.setattr("kdmt.commands.models._text_of", lambda _: text)
    table = ModelTable(dict.fromkeys(text.directions, Path("all")), SearchOptions())
    assert table.find(None, "de") == EN_DE
    with pytest.raises(UserError, match=r"^the model translates to 'de' in several directions: choose one of en-de, f"):
        table.find(None, "de", splits_sentences=True)
    assert table.find("fr", "de", splits_sentences=True) == FR_DE
    assert table.find(None, "en", splits_sentences=True) == DE_EN


def test_two_models_with_the_same_languages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdmt.commands.models.find_engine", lambda path: (None, path))
    monkeypatch.setattr(
        "kdmt.commands.models.load_text_processor",
        lambda path: TextProcessor(Text(), *path.parent.name.split("-")),
    )
    paths = [Path("a/en-de"), Path("b/de-en"), Path("c/eng-deu")]
    assert paths_by_direction(paths[:2]) == {EN_DE: paths[0], DE_EN: paths[1]}
    with pytest.raises(UserError, match=r"^a/en-de and c/eng-deu both translate eng-deu$"):
        paths_by_direction(paths)


def test_directions_of_many_languages_are_compared_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count comparisons of languages: one of each pair of directions takes minutes with a hundred languages."""
    codes = ("cs", "da", "de", "en", "es", "fi", "fr", "hu", "it", "nl", "pl", "pt")
    directions = tuple(Direction(*pair) for pair in itertools.permutations(codes, 2))
    text = TextProcessor(Text(), "src", "tgt", directions=directions)
    monkeypatch.setattr("kdmt.commands.models._text_of", lambda _: text)
    compared, identity = [], languages._identity
    monkeypatch.setattr(languages, "_identity", lambda code: compared.append(code) or identity(code))
    assert list(paths_by_direction([Path("all")])) == list(directions)
    assert len(compared) <= 4 * len(directions)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("nat", {"beam": 4, "lenpen": 1.0, "iterations": 3}, ["--beam", "--lenpen"]),
        ("nat", {"length_beam": 3}, []),
        ("pytorch", {"beam": 4, "iterations": 3, "length_beam": 2}, ["--iterations", "--length-beam"]),
        ("pytorch", {"device": "cuda"}, []),
        ("onnx", {"device": "cuda:1"}, ["--device cuda"]),
    ],
)
def test_options_that_the_engine_does_not_use_are_named(
    monkeypatch: pytest.MonkeyPatch, kind: str, options: dict[str, Any], expected: list[str]
) -> None:
    monkeypatch.setattr("kdmt.commands.models.find_engine", lambda path: (ENGINES[kind], path))
    found = [name for name, _ in without_effect(Path("model"), SearchOptions(**options))]
    assert found == expected
