"""Tests of models in ONNX Runtime: their output equals PyTorch, and an export does not change the model."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from slow_parameters import some_of
from small_transformers import CONFIGS, POST_NORM, make_model, make_sources, vocabulary_sizes, write_text_processing
from tiny_pipeline import kdmt

from kdmt.config import Decode, NATDecode
from kdmt.corpus.codec import TextCodec
from kdmt.decode.engines.engine import EngineOptions, RefiningEngine, ScoringEngine
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.onnx import Graph, OnnxEngine, OnnxNATEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.engines.table import find_engine
from kdmt.errors import UserError
from kdmt.interop.onnx_export import export_model
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.checkpoint import save_checkpoint
from kdmt.models.nonautoregressive import NATransformer
from kdmt.types import Hypothesis

SHARED = replace(POST_NORM, share_all_embeddings=True)
SOURCES = make_sources([5, 0, 9, 1, 3, 7, 3, 12, 20])
AUTOREGRESSIVE = {
    **CONFIGS,
    "SSRU": replace(POST_NORM, layout="marian", decoder="ssru"),
    "SSRU, tied layers, pre-norm": replace(
        POST_NORM, decoder="ssru", tied_decoder_layers=True, decoder_normalize_before=True
    ),
    "language tokens": replace(POST_NORM, source_token=5, target_token=6),
}
REFINED: dict[str, dict[str, Any]] = {
    "nat": {"family": "nat"},
    "nat, soft copy": {"family": "nat", "source_copy": "soft"},
    "nat, no copy": {"family": "nat", "source_copy": "none"},
    "nat of fairseq": {"family": "nat", "layout": "fairseq"},
    "inat, absolute lengths": {"family": "inat", "lengths": "length"},
    "cmlm": {"family": "cmlm"},
    "cmlm that corrects": {"family": "cmlm", "corrects": True},
    "cmlm with layer-wise predictions": {"family": "cmlm", "dslp": True},
    "cmlm of fairseq": {"family": "cmlm", "layout": "fairseq"},
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_student(
    config: TransformerConfig = SHARED, *, family: str = "ctc", upsample: int = 2, **settings: Any
) -> NATransformer:
    torch.manual_seed(1)
    src_size, tgt_size = vocabulary_sizes(config)
    nat = NATConfig(family=family, upsample=upsample, **settings)
    model = build_nonautoregressive(config, nat, src_vocab_size=src_size, tgt_vocab_size=tgt_size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # different embeddings, so that no symbol is chosen everywhere
            if "embed" in name or name in ("output_proj.weight", "blank_1D"):
                parameter.copy_((4.0 if name == "blank_1D" else 2.0) * torch.randn(parameter.shape))
    return model.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the exported `make_student()`; for tests that do not change it."""
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
def engine(exported: Path) -> OnnxNATEngine:
    return OnnxNATEngine(exported)


def assert_as_in_pytorch(engine: OnnxNATEngine, model: NATransformer) -> None:
    found, expected = engine.decode(SOURCES, Decode()), NATEngine(model.double()).decode(SOURCES, Decode())
    assert any(best.tokens for (best,) in expected)
    for (mine,), (theirs,) in zip(found, expected, strict=True):
        assert mine.tokens == theirs.tokens
        assert mine.score == pytest.approx(theirs.score, abs=1e-3)
        assert mine.steps == 1


def test_translations_and_scores_equal_pytorch(engine: OnnxNATEngine) -> None:
    assert_as_in_pytorch(engine, make_student())


@pytest.mark.parametrize("name", CONFIGS)
def test_ctc_models_of_every_shape(tmp_path: Path, name: str) -> None:
    if CONFIGS[name].layout == "marian":
        pytest.skip("Marian has no such decoders")
    if CONFIGS[name].encoder_embed_dim != CONFIGS[name].decoder_embed_dim:
        pytest.skip("the decoder starts from the source's embeddings")
    model = make_student(CONFIGS[name], upsample=3)
    export_model(model, tmp_path / "out")
    assert_as_in_pytorch(OnnxNATEngine(tmp_path / "out"), model)


def words(found: list[list[Hypothesis]]) -> list[list[tuple[int, ...]]]:
    return [[hypothesis.tokens for hypothesis in nbest] for nbest in found]


@pytest.mark.parametrize("name", some_of(AUTOREGRESSIVE, 8))
def test_autoregressive_model_translates_and_scores_as_in_pytorch(tmp_path: Path, name: str) -> None:
    model = make_model(AUTOREGRESSIVE[name])
    export_model(model, tmp_path / "out")
    engine, reference = OnnxEngine(tmp_path / "out"), TorchEngine(model)
    for beam in (1, 3):
        settings = Decode(beam=beam, nbest=beam, batch_size=4, lenpen=0.8)
        found, expected = engine.decode(SOURCES, settings), reference.decode(SOURCES, settings)
        assert words(found) == words(expected)
        for mine, theirs in zip(found, expected, strict=True):
            assert [each.score for each in mine] == pytest.approx([each.score for each in theirs], abs=1e-4)
    targets = SOURCES[::-1]
    scores, wanted = engine.score_pairs(SOURCES, targets), reference.score_pairs(SOURCES, targets)
    for own, theirs in zip(scores, wanted, strict=True):
        assert own == pytest.approx(theirs, abs=1e-4)


def test_decoder_without_layers(tmp_path: Path) -> None:
    model = build_transformer(replace(POST_NORM, decoder_layers=0), src_vocab_size=15, tgt_vocab_size=18).eval()
    export_model(model, tmp_path / "out")
    expected = TorchEngine(model).decode(SOURCES, Decode(beam=2))
    assert words(OnnxEngine(tmp_path / "out").decode(SOURCES, Decode(beam=2))) == words(expected)


@pytest.mark.parametrize("decoder", ["self_attention", "ssru"])
def test_translation_in_int8_does_not_depend_on_its_batch(tmp_path: Path, decoder: Any) -> None:
    model = make_model(replace(SHARED, decoder=decoder))
    export_model(model, tmp_path / "out", quantization="int8")
    engine = OnnxEngine(tmp_path / "out")
    for beam in (1, 3):
        together = engine.decode(SOURCES, Decode(beam=beam))
        alone = [nbest for source in SOURCES for nbest in engine.decode([source], Decode(beam=beam))]
        assert words(together) == words(alone)
        expected = TorchEngine(model).decode(SOURCES, Decode(beam=beam))
        same = [own == theirs for own, theirs in zip(words(together), words(expected), strict=True)]
        assert sum(same) > len(same) / 2  # of models with random weights


@pytest.mark.parametrize("name", REFINED)
def test_model_that_reads_drafts_translates_as_in_pytorch(tmp_path: Path, name: str) -> None:
    model = make_student(**REFINED[name])
    export_model(model, tmp_path / "out")
    for length_beam in (1, 3):
        search = NATDecode(length_beam=length_beam)
        engine = OnnxNATEngine(tmp_path / "out", search=search, iterations=4)
        expected = NATEngine(model, search=search, iterations=4).decode(SOURCES, Decode())
        for (mine,), (theirs,) in zip(engine.decode(SOURCES, Decode(batch_size=4)), expected, strict=True):
            assert mine.score == pytest.approx(theirs.score, abs=1e-4)
            assert mine.tokens == theirs.tokens or length_beam > 1  # candidates may have the same score
            assert mine.steps == theirs.steps


@pytest.mark.parametrize("path", ["greedy", "lookahead", "viterbi"])
def test_dag_model_translates_as_in_pytorch(tmp_path: Path, path: Any) -> None:
    model, search = make_student(family="dag", upsample=3), NATDecode(dag=path)
    export_model(model, tmp_path / "out")
    found = OnnxNATEngine(tmp_path / "out", search=search).decode(SOURCES, Decode())
    expected = NATEngine(model, search=search).decode(SOURCES, Decode())
    assert words(found) == words(expected)
    for (mine,), (theirs,) in zip(found, expected, strict=True):
        assert mine.score == pytest.approx(theirs.score, abs=1e-3)


def test_iterations_and_kind_of_engine(tmp_path: Path) -> None:
    export_model(make_student(family="cmlm"), tmp_path / "cmlm")
    export_model(make_model(), tmp_path / "beam")
    kind, folder = find_engine(tmp_path / "cmlm")
    engine = kind.open(folder, EngineOptions(iterations=1))
    assert isinstance(engine, RefiningEngine)
    assert engine.refines
    assert {each.steps for (each,) in engine.decode(SOURCES[:3], Decode())} == {1}
    more = engine.with_iterations(3).decode(SOURCES[:3], Decode())
    assert max(each.steps or 0 for (each,) in more) == 3
    kind, folder = find_engine(tmp_path / "beam")
    assert (kind.nbest, kind.forced_scores) == (True, True)
    assert isinstance(kind.open(folder, EngineOptions()), ScoringEngine)


def test_length_beam_larger_than_the_positions_is_refused(tmp_path: Path) -> None:
    export_model(make_student(family="nat"), tmp_path / "out")
    with pytest.raises(UserError, match="a length beam of 24 is more than the lengths"):
        OnnxNATEngine(tmp_path / "out", search=NATDecode(length_beam=24))


@pytest.mark.parametrize(
    ("family", "search", "problem"),
    [
        ("ctc", {"ctc_beam": 8}, "'ctc_beam: 8': a 'ctc' model has only the best path there"),
        ("nat", {"rescore": True, "length_beam": 3}, "'rescore: true': no teacher chooses"),
        ("cmlm", {"rescore": True, "cmlm_length_beam": 3}, "'rescore: true': no teacher chooses"),
    ],
)
def test_search_that_exported_models_do_not_have_is_refused(
    tmp_path: Path, family: str, search: dict[str, Any], problem: str
) -> None:
    export_model(make_student(family=family), tmp_path / "out")
    with pytest.raises(UserError, match=f"ONNX Runtime does not run this search: {problem}"):
        OnnxNATEngine(tmp_path / "out", search=NATDecode(**search))
    others = {"ctc": {"rescore": True, "length_beam": 3}}.get(family, {"ctc_beam": 8})
    OnnxNATEngine(tmp_path / "out", search=NATDecode(**others))  # settings of other families have no effect


def test_weights_that_are_nan_are_reported(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.output_proj.weight[5] = torch.nan
    export_model(model, tmp_path / "out")
    engine = OnnxEngine(tmp_path / "out")
    with pytest.raises(UserError, match=r"the model cannot translate: .* are NaN"):
        engine.decode(SOURCES, Decode())
    with pytest.raises(UserError, match="the model cannot score: the score of pair 8 is NaN"):
        engine.score_pairs(SOURCES, SOURCES)


def test_a_translation_does_not_depend_on_its_batch(engine: OnnxNATEngine) -> None:
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


def test_progress_counts_every_sentence(engine: OnnxNATEngine) -> None:
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
        OnnxNATEngine(exported)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a model that 'kdmt export --to onnx' wrote"):
        OnnxNATEngine(tmp_path)


def test_a_damaged_folder_is_refused(tmp_path: Path, exported: Path) -> None:
    shutil.copytree(exported, tmp_path / "cut")
    model = tmp_path / "cut" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.onnx"):
        OnnxNATEngine(tmp_path / "cut")


def test_names_of_a_graph_are_not_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Load a graph with an unused initializer: ONNX Runtime prints a warning with its name."""
    import onnx
    from onnx import TensorProto, helper

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
    Graph.load(tmp_path / "model.onnx", 1)
    assert capfd.readouterr() == ("", "")
