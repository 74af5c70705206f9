"""Tests of CTC students in ONNX Runtime: their output equals PyTorch, and an export does not change the model."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from small_transformers import CONFIGS, POST_NORM, make_sources, vocabulary_sizes, write_text_processing
from tiny_pipeline import kdmt

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.onnx import OnnxEngine
from kdmt.errors import UserError
from kdmt.interop.onnx_export import export_model
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.checkpoint import save_checkpoint
from kdmt.models.nonautoregressive import NATransformer

SHARED = replace(POST_NORM, share_all_embeddings=True)
SOURCES = make_sources([5, 0, 9, 1, 3, 7, 3, 12, 20])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_student(config: TransformerConfig = SHARED, *, family: str = "ctc", upsample: int = 2) -> NATransformer:
    torch.manual_seed(1)
    src_size, tgt_size = vocabulary_sizes(config)
    nat = NATConfig(family=family, upsample=upsample)
    model = build_nonautoregressive(config, nat, src_vocab_size=src_size, tgt_vocab_size=tgt_size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # different embeddings, so that no symbol is chosen everywhere
            if "embed" in name or name in ("output_proj.weight", "blank_1D"):
                parameter.copy_((4.0 if name == "blank_1D" else 2.0) * torch.randn(parameter.shape))
    return model.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the exported `make_student()`; it is shared because exporting takes seconds."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    size, companions = write_text_processing(folder.parent / "prepare", multiple=vocabulary_sizes(SHARED)[1])
    assert (size, size) == vocabulary_sizes(SHARED)
    model = make_student().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_model(model, folder, companions=companions)
    assert model.training, "the model is to be left as it is"
    assert model.masks == "needed"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return folder


@pytest.fixture(scope="module")
def engine(exported: Path) -> OnnxEngine:
    return OnnxEngine(exported)


def assert_as_in_pytorch(engine: OnnxEngine, model: NATransformer) -> None:
    found, expected = engine.decode(SOURCES, Decode()), NATEngine(model.double()).decode(SOURCES, Decode())
    assert any(best.tokens for (best,) in expected)
    for (mine,), (theirs,) in zip(found, expected, strict=True):
        assert mine.tokens == theirs.tokens
        assert mine.score == pytest.approx(theirs.score, abs=1e-3)
        assert mine.steps == 1


def test_translations_and_scores_equal_pytorch(engine: OnnxEngine) -> None:
    assert_as_in_pytorch(engine, make_student())


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_models_of_every_shape(tmp_path: Path, name: str) -> None:
    if CONFIGS[name].encoder_embed_dim != CONFIGS[name].decoder_embed_dim:
        pytest.skip("the decoder starts from the source's embeddings")
    model = make_student(CONFIGS[name], upsample=3)
    export_model(model, tmp_path / "out")
    assert_as_in_pytorch(OnnxEngine(tmp_path / "out"), model)


def test_a_translation_does_not_depend_on_its_batch(engine: OnnxEngine) -> None:
    together = engine.decode(SOURCES, Decode())
    assert [best.tokens for (best,) in together] == [
        best.tokens for source in SOURCES for (best,) in engine.decode([source], Decode())
    ]


def test_kdmt_translate_reads_an_exported_folder(tmp_path: Path, exported: Path) -> None:
    save_checkpoint(tmp_path / "average", make_student(), companions=TextCodec.load(exported).companions(exported))
    stdin = b"abba ba\n\nbab\n"
    mine, torchs = (kdmt("translate", folder, stdin=stdin) for folder in (exported, tmp_path / "average"))
    assert mine == torchs
    assert mine.code == 0
    assert len(mine.out.splitlines()) == 3


def test_progress_counts_every_sentence(engine: OnnxEngine) -> None:
    counts: list[int] = []
    engine.decode(SOURCES, Decode(batch_size=2), progress=counts.append)
    assert sum(counts) == len(SOURCES)


def test_the_blank_is_the_symbol_after_the_last_token(exported: Path) -> None:
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    symbols, log_probs = session.run(None, {"src_tokens": np.stack([SOURCES[3], SOURCES[3]]).astype(np.int64)})
    assert symbols.shape == log_probs.shape == (2, 2 * len(SOURCES[3]))
    found = [session.run(["symbols"], {"src_tokens": source[None].astype(np.int64)})[0] for source in SOURCES]
    assert max(each.max() for each in found) == make_student().blank


def test_missing_onnx_runtime_is_reported(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'kdmt\[onnx\]'"):
        OnnxEngine(exported)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a model that 'kdmt export --to onnx' wrote"):
        OnnxEngine(tmp_path)


def test_a_damaged_folder_is_refused(tmp_path: Path, exported: Path) -> None:
    shutil.copytree(exported, tmp_path / "cut")
    model = tmp_path / "cut" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.onnx"):
        OnnxEngine(tmp_path / "cut")


def test_names_of_a_graph_are_not_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Load a graph with an unused initializer: ONNX Runtime prints a warning with its name."""
    import onnx
    from onnx import TensorProto, helper

    from kdmt.decode.engines.onnx import _load

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "graph",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("\x1b[31mevil", TensorProto.FLOAT, [1], [0.0])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(tmp_path / "model.onnx"))
    _load(tmp_path / "model.onnx", 1)
    assert capfd.readouterr() == ("", "")
