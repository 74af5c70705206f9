"""Tests of the table of exporters: the output of each exporter can be opened."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from small_transformers import POST_NORM, write_data_bin, write_sentencepiece, write_text_processing

from kdmt.corpus.codec import TEXT_FILE, TextCodec
from kdmt.errors import UserError
from kdmt.interop import ctranslate2_folder, onnx_folder
from kdmt.interop.exporters import EXPORTERS, ExportOptions
from kdmt.interop.fairseq.pickles import is_checkpoint_file
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.checkpoint import load_model, save_checkpoint

OPENS = {
    "argos": zipfile.is_zipfile,
    "bergamot": lambda path: (path / "metadata.json").is_file(),
    "ctranslate2": ctranslate2_folder.is_model_folder,
    "fairseq": is_checkpoint_file,
    "huggingface": lambda path: (path / "generation_config.json").is_file(),
    "marian": lambda path: (path / "model.npz.decoder.yml").is_file(),
    "onnx": onnx_folder.is_model_folder,
    "transformers-js": lambda path: any((path / "onnx").glob("decoder_model_merged*.onnx")),
}


@pytest.fixture
def checkpoints(tmp_path: Path) -> dict[str, Path]:
    """Write checkpoints and return one that is suitable for each exporter."""
    size, companions = write_text_processing(tmp_path / "prepare")
    teacher = build_transformer(POST_NORM, src_vocab_size=size, tgt_vocab_size=size)
    student = build_nonautoregressive(POST_NORM, NATConfig(family="ctc"), src_vocab_size=size, tgt_vocab_size=size)
    pieces = write_sentencepiece(tmp_path / "pieces", (16, 16))
    shared = replace(POST_NORM, share_all_embeddings=True)
    joint = build_transformer(shared, src_vocab_size=16, tgt_vocab_size=16)
    for name, model in (("teacher", teacher), ("student", student)):
        save_checkpoint(tmp_path / name, model, companions=companions)
    save_checkpoint(tmp_path / "joint", joint, companions=pieces)
    wide = replace(
        shared,
        layout="marian",
        **{f"{side}_{name}_dim": 64 for side in ("encoder", "decoder") for name in ("embed", "ffn_embed")},
    )
    pipeline = tmp_path / "run" / "prepare" / "data-bin"
    write_data_bin(pipeline, tmp_path / "pieces")
    like_marian = build_transformer(wide, src_vocab_size=16, tgt_vocab_size=16)
    save_checkpoint(tmp_path / "run" / "small", like_marian, companions=pieces)
    return {
        **dict.fromkeys(("bergamot", "marian"), tmp_path / "run" / "small"),
        **dict.fromkeys(("ctranslate2", "fairseq"), tmp_path / "teacher"),
        **dict.fromkeys(("argos", "huggingface", "transformers-js"), tmp_path / "joint"),
        "onnx": tmp_path / "student",
    }


def test_all_exporters_are_tested() -> None:
    assert OPENS.keys() == EXPORTERS.keys()


@pytest.mark.parametrize("name", sorted(EXPORTERS.keys() - {"onnx"}))
def test_a_right_to_left_model_is_refused(tmp_path: Path, checkpoints: dict[str, Path], name: str) -> None:
    model = load_model(checkpoints[name])
    model.config = replace(model.config, right_to_left=True)
    companions = TextCodec.load(checkpoints[name]).companions(checkpoints[name])
    save_checkpoint(tmp_path / "reversed", model, companions=companions)
    with pytest.raises(UserError, match="reversed: predicts targets from right to left"):
        EXPORTERS[name].export(tmp_path / "reversed", tmp_path / "out", ExportOptions())


@pytest.mark.parametrize("name", ["argos", "bergamot", "transformers-js"])
def test_a_model_with_context_is_refused_for_programs_that_add_none(
    tmp_path: Path, checkpoints: dict[str, Path], name: str
) -> None:
    path = checkpoints[name] / TEXT_FILE
    described = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(described | {"context": {"sentences": 1, "separator": "<sep>"}}), encoding="utf-8")
    with pytest.raises(UserError, match=r"reads each sentence after the previous ones and '<sep>' \('prepare.context'"):
        EXPORTERS[name].export(checkpoints[name], tmp_path / "out", ExportOptions())


def test_the_card_of_a_marian_model_says_what_its_decoder_reads(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    folder = checkpoints["marian"]
    EXPORTERS["marian"].export(folder, tmp_path / "raw", ExportOptions())
    assert "The decoder works on raw text" in (tmp_path / "raw/README.md").read_text(encoding="utf-8")
    described = json.loads((folder / TEXT_FILE).read_text(encoding="utf-8"))
    lowercased = described | {"text": described["text"] | {"lowercase": True}}
    (tmp_path / TEXT_FILE).write_text(json.dumps(lowercased), encoding="utf-8")
    others = [path for path in TextCodec.load(folder).companions(folder) if path.name != TEXT_FILE]
    model, folder = load_model(folder), folder.parent / "lowercased"
    save_checkpoint(folder, model, companions=[*others, tmp_path / TEXT_FILE])
    EXPORTERS["marian"].export(folder, tmp_path / "processed", ExportOptions())
    assert "The decoder does not work on raw text" in (tmp_path / "processed/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OPENS)
def test_exported_model_can_be_opened(tmp_path: Path, checkpoints: dict[str, Path], name: str) -> None:
    out = tmp_path / ("out.pt" if name == "fairseq" else "out")
    EXPORTERS[name].export(checkpoints[name], out, ExportOptions())
    assert OPENS[name](out)
    with pytest.raises(UserError, match="exists already"):
        EXPORTERS[name].export(checkpoints[name], out, ExportOptions())


@pytest.mark.parametrize("name", ["bergamot", "ctranslate2", "huggingface", "marian", "onnx", "transformers-js"])
def test_exported_folder_has_a_model_card(tmp_path: Path, checkpoints: dict[str, Path], name: str) -> None:
    EXPORTERS[name].export(checkpoints[name], tmp_path / "out", ExportOptions(licence="mit"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlanguage: [en, de]\nlicense: mit\n")
    assert "README.md" in json.loads((tmp_path / "out" / "checksums.json").read_text())


def test_every_quantization_is_exported(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    for name, exporter in EXPORTERS.items():
        assert "float32" in exporter.quantizations or name == "bergamot"
        for quantization in set(exporter.quantizations) - {"float32"}:
            out = tmp_path / f"{name}_{quantization}"
            exporter.export(checkpoints[name], out, ExportOptions(quantization))
            assert OPENS[name](out)


def test_search_options_are_checked(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="export: lenpen"):
        EXPORTERS["ctranslate2"].export(checkpoints["ctranslate2"], tmp_path / "out", ExportOptions(lenpen=1e9))
    assert not (tmp_path / "out").exists()


def test_import_of_the_table_loads_no_toolkit() -> None:
    program = "import sys, kdmt.interop.exporters\nassert not {'torch', 'ctranslate2', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
