"""Tests of the folder of an ONNX model: its values, and which folders are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kdmt.checksum import file_sha256
from kdmt.errors import UserError
from kdmt.interop.onnx_folder import ModelFolder, is_model_folder, is_nonautoregressive
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.types import EOS

CONFIG = TransformerConfig(max_source_positions=40, max_target_positions=50)


def write_folder(folder: Path, **changes: object) -> Path:
    """Write a model folder whose graph is not a valid ONNX graph."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    description = {
        "family": "nonautoregressive",
        "config": CONFIG.as_dict(),
        "nat": NATConfig(family="ctc").as_dict(),
        "src_vocab_size": 11,
        "tgt_vocab_size": 13,
    }
    (folder / "model.json").write_text(json.dumps({**description, **changes}), encoding="utf-8")
    sums = {name: file_sha256(folder / name) for name in ("model.onnx", "model.json")}
    (folder / "checksums.json").write_text(json.dumps(sums), encoding="utf-8")
    return folder


def test_position_limit_and_blank_are_read_from_the_description(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "out")
    model = ModelFolder.open(folder)
    assert (model.max_source_positions, model.max_target_positions, model.blank) == (40, 50, 13)
    assert (model.family, model.quantization) == ("ctc", "float32")
    assert is_model_folder(folder)
    assert not is_model_folder(tmp_path)


def test_damaged_or_foreign_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a model that 'kdmt export --to onnx' wrote"):
        ModelFolder.open(tmp_path)
    with pytest.raises(UserError, match=r"model\.json: model family 'other'"):
        ModelFolder.open(write_folder(tmp_path / "other", family="other"))
    folder = write_folder(tmp_path / "out")
    (folder / "model.onnx").write_bytes(b"grapf")
    with pytest.raises(UserError, match=r"model\.onnx: damaged"):
        ModelFolder.open(folder)


def test_text_settings_must_be_in_the_checksums(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "out")
    (folder / "text.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"text\.json: not listed in checksums\.json"):
        ModelFolder.open(folder)


def test_a_folder_without_a_graph_of_its_family_is_refused(tmp_path: Path) -> None:
    nat = NATConfig(family="cmlm").as_dict()
    with pytest.raises(UserError, match=r"it has no encoder_model\.onnx, which a 'cmlm' model needs"):
        ModelFolder.open(write_folder(tmp_path / "out", nat=nat))


def test_language_tokens_are_the_prefixes(tmp_path: Path) -> None:
    config = replace(CONFIG, source_token=5, target_token=7).as_dict()
    model = ModelFolder.open(write_folder(tmp_path / "out", config=config))
    assert (model.source_prefix, model.target_prefix) == ((5,), (EOS, 7))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.onnx"], (True, True)),
        (["encoder_model.onnx", "decoder_model.onnx"], (True, True)),
        (["encoder_model.onnx", "decoder_model_merged.onnx"], (True, False)),
        (["model.bin"], (False, False)),
    ],
)
def test_kind_of_a_folder_follows_from_the_names_of_its_files(
    tmp_path: Path, names: list[str], expected: tuple[bool, bool]
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert (is_model_folder(tmp_path), is_nonautoregressive(tmp_path)) == expected
