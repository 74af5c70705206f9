"""Tests of finding the languages of a data-bin by the names of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmt.errors import UserError
from kdmt.interop.fairseq.data_bin import DataBin, choose_direction
from kdmt.languages import Direction


def make(folder: Path, *pairs: tuple[str, str]) -> Path:
    """Make empty files with the names that fairseq-preprocess uses, and dictionaries of one word."""
    folder.mkdir()
    for source, target in pairs:
        for lang in (source, target):
            (folder / f"dict.{lang}.txt").write_text("word 1\n")
            for ending in ("bin", "idx"):
                (folder / f"test.{source}-{target}.{lang}.{ending}").touch()
    return folder


@pytest.mark.parametrize("split", ["test1", "newstest2014", "flores200-dev", "2016.flickr", "a.b-c"])
def test_split_can_have_any_name(tmp_path: Path, split: str) -> None:
    folder = make(tmp_path / "data", ("pt-BR", "zh-CN"), ("en", "de"))
    for path in list(folder.glob("test.*")):
        path.rename(path.with_name(path.name.replace("test", split, 1)))
    assert choose_direction(folder, "pt-BR", "zh-CN") == Direction("pt-BR", "zh-CN")
    assert choose_direction(folder, "de", None) == Direction("de", "en")
    with pytest.raises(UserError, match=rf"no split 'other' of en-de: there is {split}$"):
        DataBin.open(folder, "en", "de").split("other")


@pytest.mark.parametrize(
    ("pair", "given", "langs"),
    [
        (("en", "de"), (None, None), ("en", "de")),
        (("en", "de"), ("de", None), ("de", "en")),
        (("en", "de"), (None, "en"), ("de", "en")),
        (("en", "de"), ("de", "en"), ("de", "en")),
        (("en", "zh-CN"), ("en", "zh-CN"), ("en", "zh-CN")),
        (("en", "zh-CN"), ("zh-CN", "en"), ("zh-CN", "en")),
        (("pt-BR", "zh-CN"), ("pt-BR", "zh-CN"), ("pt-BR", "zh-CN")),
    ],
)
def test_languages_are_found(
    tmp_path: Path, pair: tuple[str, str], given: tuple[str | None, str | None], langs: tuple[str, str]
) -> None:
    data = DataBin.open(make(tmp_path / "data", pair), *given)
    assert data.direction == Direction(*langs)
    assert data.names("test") == ["test"]


@pytest.mark.parametrize(
    ("pairs", "given", "message"),
    [
        ([], (None, None), "not a data-bin"),
        ([], ("en", "de"), "not a data-bin"),
        ([("en", "de")], ("en", "fr"), "a data-bin of en-de, not of en-fr"),
        ([("en", "de")], (None, "fr"), r"a data-bin of en-de, not of \.\.\.-fr"),
        ([("en", "zh-CN")], (None, None), "has en-zh-CN: give the source and the target language"),
        ([("en", "zh-CN")], (None, "zh-CN"), "has en-zh-CN: give the source and the target language"),
        ([("en", "zh-CN")], ("en", "zh"), "a data-bin of en-zh-CN, not of en-zh"),
        ([("en", "de"), ("en", "fr")], (None, None), "has en-de, en-fr: give the source"),
        ([("en", "de"), ("en", "fr")], ("en", None), "has en-de, en-fr: give the source"),
        ([("en", "de"), ("de", "en")], (None, None), "has de-en, en-de: give the source"),
    ],
)
def test_ambiguous_or_missing_languages_are_refused(
    tmp_path: Path, pairs: list[tuple[str, str]], given: tuple[str | None, str | None], message: str
) -> None:
    folder = make(tmp_path / "data", *pairs)
    (folder / "dict.zh-CN.txt").touch()  # has a hyphen, but is not a split
    with pytest.raises(UserError, match=message):
        choose_direction(folder, *given)


def test_pair_without_hyphens_in_its_languages_is_preferred_as_in_fairseq(tmp_path: Path) -> None:
    assert choose_direction(make(tmp_path / "data", ("en", "zh-CN"), ("en", "de"))) == Direction("en", "de")
