"""Tests of NTREX-128."""

from __future__ import annotations

from typing import Any

import pytest

from kdmt.corpus.datasets.ntrex import ntrex_names, resolve_ntrex
from kdmt.corpus.datasets.recorded_index import recorded_index
from kdmt.errors import UserError
from kdmt.languages import Direction


def file_names(source: str, target: str) -> list[str]:
    entry: Any = resolve_ntrex(Direction(source, target), recorded_index()).entry
    return [entry[side]["url"].rpartition("/")[2] for side in ("source", "target")]


@pytest.mark.parametrize(
    ("language", "name"),
    [
        ("de", "newstest2019-ref.deu.txt"),
        ("en_GB", "newstest2019-ref.eng-GB.txt"),
        ("zh", "newstest2019-ref.zho-CN.txt"),
        ("zh-TW", "newstest2019-ref.zho-TW.txt"),
        ("sr", "newstest2019-ref.srp-Cyrl.txt"),
        ("pt", "newstest2019-ref.por.txt"),
    ],
)
def test_the_file_of_a_language(language: str, name: str) -> None:
    assert file_names("en", language) == ["newstest2019-src.eng.txt", name]
    assert file_names(language, "en") == [name, "newstest2019-src.eng.txt"]


def test_it_has_128_varieties_and_1997_lines() -> None:
    assert len(ntrex_names(recorded_index())) == 128
    assert resolve_ntrex(Direction("en", "de"), recorded_index()).num_pairs == 1997


def test_the_files_are_those_of_one_commit() -> None:
    entry: Any = resolve_ntrex(Direction("en", "de"), recorded_index()).entry
    commit = entry["source"]["url"].split("/")[5]
    assert len(commit) == 40
    assert entry["target"]["url"].split("/")[5] == commit


def test_a_language_that_is_missing_is_refused() -> None:
    with pytest.raises(UserError, match="ntrex: no la; there is lao, lav"):
        resolve_ntrex(Direction("en", "la"), recorded_index())
