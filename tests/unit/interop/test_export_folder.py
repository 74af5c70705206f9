"""Tests that folders of exported models are written completely, with all checksums, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdmt.checksum import file_sha256
from kdmt.errors import UserError
from kdmt.interop.export_folder import check_new, described_folder, record_file

DESCRIPTION = {"family": "transformer", "src_vocab_size": 5}


def test_folder_contains_description_companions_and_checksums(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "model").write_text("pieces", encoding="utf-8")
    (tmp_path / "text.json").write_text("{}", encoding="utf-8")
    out = tmp_path / "a" / "out"
    companions = [tmp_path / "tokenizer", tmp_path / "text.json"]
    with described_folder(out, DESCRIPTION, companions) as aside:
        (aside / "model.bin").write_bytes(b"weights")
        assert not out.exists()
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {"model.bin", "model.json", "checksums.json", "text.json", "tokenizer/model"}
    assert json.loads((out / "model.json").read_text(encoding="utf-8")) == DESCRIPTION
    sums = json.loads((out / "checksums.json").read_text(encoding="utf-8"))
    assert sums == {name: file_sha256(out / name) for name in files - {"checksums.json"}}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with described_folder(tmp_path / "out", DESCRIPTION) as aside:
            (aside / "model.bin").write_bytes(b"weights")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_existing_path_is_refused(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    {"file": out.touch, "folder": out.mkdir, "link": lambda: out.symlink_to("nowhere")}[kind]()
    with pytest.raises(UserError, match="out: exists already; nothing was written"):
        check_new(out)
    with pytest.raises(UserError, match="exists already"), described_folder(out, DESCRIPTION):
        pass
    check_new(tmp_path / "other")


def test_checksum_of_a_file_that_is_added_later(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with described_folder(out, DESCRIPTION) as aside:
        (aside / "model.bin").write_bytes(b"weights")
    before = json.loads((out / "checksums.json").read_text(encoding="utf-8"))
    (out / "vmap.txt").write_text("list", encoding="utf-8")
    record_file(out, out / "vmap.txt")
    after = json.loads((out / "checksums.json").read_text(encoding="utf-8"))
    assert after == {**before, "vmap.txt": file_sha256(out / "vmap.txt")}
