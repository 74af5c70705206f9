"""Decoded test sets are found again by their inputs, completely or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdmt.score.translations import Decoded, Translations

DECODED = Decoded(["ein Haus", "", "жук \u2028 x"], 1.5, 12.5, 100.25)
MADE_FROM: dict[str, Any] = {"checkpoint": "0" * 64, "decode": {"beam": 5, "lenpen": 1.0}, "points": (1, 2)}


def translations(folder: Path, *earlier: Path) -> Translations:
    return Translations(folder, earlier, "de")


def test_stored_translations_are_found_by_their_inputs(tmp_path: Path) -> None:
    kept = translations(tmp_path / "new")
    kept.keep("a.test.beam5", MADE_FROM, DECODED)
    assert kept.find("a.test.beam5", MADE_FROM) == DECODED
    assert kept.find("a.test.beam5", {**MADE_FROM, "decode": {"beam": 5, "lenpen": 0.9}}) is None
    assert kept.find("a.test.beam5", {**MADE_FROM, "more": 1}) is None
    assert kept.find("a.test.beam4", MADE_FROM) is None
    assert sorted(kept.files("a.test.beam5")) == sorted((tmp_path / "new").iterdir())


def test_translations_of_an_earlier_folder_are_taken_over(tmp_path: Path) -> None:
    translations(tmp_path / "old").keep("a", MADE_FROM, DECODED)
    found = translations(tmp_path / "new", tmp_path / "gone", tmp_path / "old")
    assert found.find("a", MADE_FROM) == DECODED
    assert translations(tmp_path / "new").find("a", MADE_FROM) == DECODED


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"made_from": 1}', b"\xff"])
def test_a_damaged_record_is_ignored(tmp_path: Path, content: bytes) -> None:
    kept = translations(tmp_path)
    kept.keep("a", MADE_FROM, DECODED)
    (tmp_path / "a.json").write_bytes(content)
    assert kept.find("a", MADE_FROM) is None


def test_changed_text_is_ignored(tmp_path: Path) -> None:
    kept = translations(tmp_path)
    kept.keep("a", MADE_FROM, DECODED)
    (tmp_path / "a.de").write_text("ein Haus\n\nжук\n", encoding="utf-8")
    assert kept.find("a", MADE_FROM) is None
    (tmp_path / "a.de").unlink()
    assert kept.find("a", MADE_FROM) is None


def test_a_line_feed_in_a_translation_shifts_no_line(tmp_path: Path) -> None:
    kept = translations(tmp_path)
    kept.keep("a", MADE_FROM, Decoded(["one\ntwo", "three"], 1.0, 1.0, 1.0))
    assert kept.find("a", MADE_FROM) is None  # it is decoded again instead of read as three sentences
