"""Checksums of files, and of the files of a checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kdmt import checksum
from kdmt.checksum import file_sha256, is_below, known_sha256, read_checksums, verify_checkpoint
from kdmt.errors import UserError

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_sha256_of_known_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content, sha256 in ((b"", EMPTY), (b"abc", ABC), (os.urandom(3 << 20), None)):
        path.write_bytes(content)
        assert file_sha256(path) == (sha256 or hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("function", [file_sha256, known_sha256])
def test_a_missing_file_is_refused(tmp_path: Path, function: Callable[[Path], str]) -> None:
    with pytest.raises(UserError, match="a: there is no such file"):
        function(tmp_path / "a")


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(checksum, "file_sha256", lambda path: read.append(path) or file_sha256(path))
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a")
    assert known_sha256(path) == known_sha256(path) == known_sha256(tmp_path / "link") == ABC
    assert read == [path]
    path.write_bytes(b"abcd")
    assert known_sha256(path) == hashlib.sha256(b"abcd").hexdigest()
    os.utime(path, ns=(0, 0))  # touched
    assert known_sha256(path) == hashlib.sha256(b"abcd").hexdigest()
    assert len(read) == 3


@pytest.mark.parametrize(
    ("name", "below"),
    [
        *(("a", True), ("tokenizer/joint.model", True), (".hidden", True), ("a/../b", False), ("../a", False)),
        *(("/a", False), ("", False), (".", False), ("a\nb", False), ("..", False)),
    ],
)
def test_is_below_accepts_only_paths_inside_the_folder(name: str, below: bool) -> None:
    assert is_below(name) is below


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return a folder with the files of a checkpoint and their checksums."""
    (tmp_path / "tokenizer").mkdir()
    names = ("model.safetensors", "model.json", "tokenizer/joint.model")
    for name in names:
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path, {name: file_sha256(tmp_path / name) for name in names})
    return tmp_path


def write_checksums(folder: Path, values: object) -> None:
    (folder / "checksums.json").write_text(json.dumps(values))


def test_a_whole_checkpoint_passes(checkpoint: Path) -> None:
    (checkpoint / "notes.txt").write_text("mine")  # other files are allowed
    verify_checkpoint(checkpoint)
    assert read_checksums(checkpoint).keys() == {"model.safetensors", "model.json", "tokenizer/joint.model"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.json", "other", "model.json: damaged: its sha256 is not the one in checksums.json"),
        ("tokenizer/joint.model", None, "tokenizer/joint.model: the checkpoint's file is missing"),
        ("training_state.json", "new", "training_state.json: not listed in checksums.json"),
        ("dict.de.txt", "new", "dict.de.txt: not listed in checksums.json"),
        ("tokenizer/other.model", "new", "tokenizer/other.model: not listed in checksums.json"),
        ("checksums.json", None, "not a checkpoint: it has no checksums.json"),
    ],
)
def test_a_damaged_checkpoint_is_named_by_its_file(
    checkpoint: Path, name: str, content: str | None, message: str
) -> None:
    if content is None:
        (checkpoint / name).unlink()
    else:
        (checkpoint / name).write_text(content)
    with pytest.raises(UserError) as caught:
        verify_checkpoint(checkpoint)
    assert message in str(caught.value)
    assert str(checkpoint) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "not a JSON object"),
        ({}, "lists no model: model.json and one of model.safetensors, model.bin, model.onnx, encoder_model.onnx"),
        ({"model.json": ABC}, "lists no model"),
        ({"model.bin": ABC}, "lists no model"),
        ({"model.json": ABC, "model.bin": ABC.upper()}, "'model.bin' has no sha256"),
        ({"model.json": ABC, "model.bin": 3}, "'model.bin' has no sha256"),
        ({"model.json": ABC, "model.bin": ABC, "../a": ABC}, "'../a' is not the name of a file in the folder"),
    ],
)
def test_an_invalid_checksums_file_is_refused(tmp_path: Path, values: object, message: str) -> None:
    write_checksums(tmp_path, values)
    with pytest.raises(UserError) as caught:
        read_checksums(tmp_path)
    assert message in str(caught.value)
