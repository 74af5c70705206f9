"""Tests of the export to ONNX: refused models, and the graph in ONNX Runtime."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from small_transformers import POST_NORM, make_sources, vocabulary_sizes, write_text_processing
from tiny_pipeline import hash_tree, kdmt

from kdmt.errors import UserError
from kdmt.interop.exporters import EXPORTERS, ExportOptions
from kdmt.interop.onnx_export import export_model
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.checkpoint import save_checkpoint
from kdmt.models.nonautoregressive import NATransformer


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_student(*, family: str = "ctc", **settings: Any) -> NATransformer:
    torch.manual_seed(1)
    src_size, tgt_size = vocabulary_sizes(POST_NORM)
    nat = NATConfig(family=family, **settings)
    learned = {"encoder_learned_pos": True, "decoder_learned_pos": True, "activation_fn": "gelu"}
    config = replace(POST_NORM, **learned) if settings else POST_NORM
    return build_nonautoregressive(config, nat, src_vocab_size=src_size, tgt_vocab_size=tgt_size).eval()


def test_models_that_read_the_source_as_it_arrives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^the model has 'nat\.streaming', which the export to ONNX does not have"):
        export_model(make_student(streaming=(4, 2)), tmp_path / "out")
    src_size, tgt_size = vocabulary_sizes(POST_NORM)
    config = replace(POST_NORM, unidirectional_encoder=True)
    model = build_transformer(config, src_vocab_size=src_size, tgt_vocab_size=tgt_size)
    with pytest.raises(UserError, match=r"^the model has a unidirectional encoder .*, which the export to ONNX does"):
        export_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [{}, {"source_copy": "none"}, {"dslp": True}],
    ids=["source", "unk", "dslp"],
)
@torch.inference_mode()
def test_graph_returns_the_best_symbol_and_its_log_probability(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = make_student(**settings)
    export_model(model, tmp_path / "out")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    src_tokens_BS = np.stack(make_sources([6, 6, 6])).astype(np.int64)  # other sizes than those of the trace
    symbols_BL, log_probs_BL = session.run(["symbols", "log_probs"], {"src_tokens": src_tokens_BS})
    sources = torch.from_numpy(src_tokens_BS)
    x_BLD, keep_BL = model.upsample(sources)
    features_BLD = model.decode_all(x_BLD, keep_BL, model.encode(sources))
    best_BL, expected_BL = (features_BLD @ model.output_weight_VD.t()).log_softmax(-1).max(-1)
    assert np.array_equal(symbols_BL, expected_BL.numpy())
    assert log_probs_BL == pytest.approx(best_BL.numpy(), abs=1e-5)


@pytest.mark.parametrize("family", ["nat_crf", "levenshtein", "insertion"])
def test_other_families_are_refused(tmp_path: Path, family: str) -> None:
    with pytest.raises(UserError, match=f"a '{family}' model is not exported to ONNX; autoregressive models are, and"):
        export_model(make_student(family=family), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_export_command_writes_the_proposed_search_and_the_number_type(tmp_path: Path) -> None:
    size, companions = write_text_processing(tmp_path / "prepare")
    config = replace(POST_NORM, share_all_embeddings=True)
    teacher = build_transformer(config, src_vocab_size=size, tgt_vocab_size=size)
    save_checkpoint(tmp_path / "average", teacher, companions=companions)
    out = tmp_path / "out"
    given = ("--quantization", "int8", "--beam", "2", "--lenpen", "0.6")
    assert kdmt("export", "--to", "onnx", tmp_path / "average", out, *given).code == 0
    assert json.loads((out / "translate.json").read_text()) == {"beam_size": 2, "length_penalty": 0.6}
    assert json.loads((out / "onnx.json").read_text()) == {"quantization": "int8"}
    assert kdmt("translate", out, stdin=b"abba\n").code == 0
    refused = kdmt("export", "--to", "onnx", tmp_path / "average", tmp_path / "half", "--quantization", "float16")
    assert refused.code == 2
    assert "--quantization float16: ONNX models are float32 or int8" in refused.err
    assert not (tmp_path / "half").exists()


def test_model_that_predicts_from_right_to_left_is_refused(tmp_path: Path) -> None:
    size, companions = write_text_processing(tmp_path / "prepare")
    config = replace(POST_NORM, share_all_embeddings=True, right_to_left=True)
    teacher = build_transformer(config, src_vocab_size=size, tgt_vocab_size=size)
    save_checkpoint(tmp_path / "average", teacher, companions=companions)
    with pytest.raises(UserError, match="from right to left"):
        EXPORTERS["onnx"].export(tmp_path / "average", tmp_path / "out", ExportOptions())


def test_existing_folder_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("text")
    before = hash_tree(tmp_path)
    with pytest.raises(UserError, match="exists already"):
        export_model(make_student(), tmp_path / "out")
    assert hash_tree(tmp_path) == before


def test_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'kdmt\[onnx\]'"):
        export_model(make_student(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
