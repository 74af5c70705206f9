"""Tests of the record of a trimmed model, and of the files that it is made from."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from trimmed_models import write_text

from kdmt.corpus.vocabulary_choice import TokenLimits
from kdmt.errors import UserError
from kdmt.interop.trim_record import Size, TextCounts, TrimRecord, TrimSettings, checked_lines

SIZE = Size(10, 100, 400)


def record(settings: TrimSettings, source: Path = Path("model")) -> TrimRecord:
    return TrimRecord(settings.command(source, Path("out")), {}, SIZE, SIZE, TextCounts(1, 0, 0, 0), ("en",))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_first_lines_of_each_file_are_checked(tmp_path: Path) -> None:
    long = write_text(tmp_path / "long", [*(f"a{number}" for number in range(2000)), "not checked"])
    short = write_text(tmp_path / "short", ["b", "", "c"])
    assert checked_lines([long, short]) == [*(f"a{number}" for number in range(2000)), "b", "c"]


def test_files_with_the_same_name_have_a_checksum_each(tmp_path: Path) -> None:
    for name in ("en", "de", "fr"):
        (tmp_path / name).mkdir()
    english, german = write_text(tmp_path / "en" / "text", ["a"]), write_text(tmp_path / "de" / "text", ["b"])
    again = write_text(tmp_path / "fr" / "text", ["a"])
    settings = TrimSettings((english, german, english, again))
    record(settings).write(tmp_path, settings, tmp_path)
    found = json.loads((tmp_path / "trim.json").read_text(encoding="utf-8"))["texts"]
    assert found == {"text": sha256(english), "text (2)": sha256(german)}


def test_the_command_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrimSettings((Path("x/my text"),), TokenLimits(size=9), languages=("en", "de"))
    made = settings.command(Path("a model"), Path("y/out"))
    assert made == "kdmt trim 'a model' --text 'my text' --to out --vocab-size 9 --languages en,de"
    (tmp_path / "nllb" / "new").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "nllb" / "new")
    assert settings.command(Path(".."), Path("o")).startswith("kdmt trim nllb --text")
    assert settings.command(Path(), Path("o")).startswith("kdmt trim new --text")
    text = TrimSettings((write_text(tmp_path / "text", ["a"]),))
    record(text, Path("..")).write(Path(), text, Path(".."))
    assert Path("README.md").read_text(encoding="utf-8").startswith("# nllb, trimmed\n")


@pytest.mark.parametrize("name", ["texts", "keep_tokens"])
def test_pipes_and_missing_files_are_refused_before_they_are_read(tmp_path: Path, name: str) -> None:
    text = write_text(tmp_path / "text", ["a"])
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "pipe: a pipe, expected a file"), (tmp_path / "none", "no such file")):
        settings = TrimSettings((text, path)) if name == "texts" else TrimSettings((text,), keep_tokens=path)
        with pytest.raises(UserError, match=message):
            settings.check_files()
    TrimSettings((text,), keep_tokens=text).check_files()
