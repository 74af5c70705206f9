"""Tests of writing new pipeline files: they are valid and complete, and existing files are kept."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tiny_pipeline import settings, to_yaml

from kdmt.commands.pipeline_file import write_pipeline_file
from kdmt.errors import UserError

TEXT = "# a comment that is kept\n" + to_yaml(settings())


def test_the_text_is_written_unchanged(tmp_path: Path) -> None:
    write_pipeline_file(tmp_path / "new" / "x.yaml", TEXT)
    assert (tmp_path / "new" / "x.yaml").read_text(encoding="utf-8") == TEXT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.yaml"]


def test_the_message_for_an_invalid_pipeline_does_not_name_the_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^nope: unknown setting") as caught:
        write_pipeline_file(tmp_path / "x.yaml", TEXT + "nope: 1\n")
    assert ".partial" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("has_links", [True, False])
def test_an_existing_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", _refuse_links)
    (tmp_path / "x.yaml").write_text("mine\n")
    with pytest.raises(UserError, match="exists already; nothing was written"):
        write_pipeline_file(tmp_path / "x.yaml", TEXT)
    assert (tmp_path / "x.yaml").read_text() == "mine\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_system_without_hard_links_is_supported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _refuse_links)
    write_pipeline_file(tmp_path / "x.yaml", TEXT)
    assert (tmp_path / "x.yaml").read_text(encoding="utf-8") == TEXT


def _refuse_links(*_: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")
