"""Tests of the table of engines: each folder is opened by its engine, which has the abilities given in the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_transformers import POST_NORM, make_model, make_sources, symbols, vocabulary_sizes

from kdmt.config import Decode
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.engine import Engine, EngineOptions, RefiningEngine, ScoringEngine
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.onnx import OnnxEngine, OnnxNATEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.engines.table import ENGINES, EngineKind, find_engine
from kdmt.errors import UserError
from kdmt.interop import ctranslate2_export, onnx_export
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.checkpoint import save_checkpoint
from kdmt.models.nonautoregressive import NATransformer

CLASSES: dict[str, type] = {
    "ctranslate2": CTranslate2Engine,
    "onnx": OnnxEngine,
    "onnx_nat": OnnxNATEngine,
    "nat": NATEngine,
    "pytorch": TorchEngine,
}
SOURCES = make_sources([3, 5])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def ctc_student() -> NATransformer:
    src_size, tgt_size = vocabulary_sizes(POST_NORM)
    return build_nonautoregressive(
        POST_NORM, NATConfig(family="ctc"), src_vocab_size=src_size, tgt_vocab_size=tgt_size
    ).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder for each engine; checkpoints are in runs with pointer files."""
    root = tmp_path_factory.mktemp("engines")
    src_size, tgt_size = vocabulary_sizes(POST_NORM)
    ctranslate2_export.export_model(
        make_model(), root / "ctranslate2", src_symbols=symbols(src_size, "s"), tgt_symbols=symbols(tgt_size, "t")
    )
    onnx_export.export_model(ctc_student(), root / "onnx_nat")
    onnx_export.export_model(make_model(), root / "onnx")
    for name, model in (("pytorch", make_model()), ("nat", ctc_student())):
        save_checkpoint(root / name / "checkpoint_7", model)
        (root / name / "best").write_text("checkpoint_7\n", encoding="utf-8")
    return {name: root / name for name in ENGINES}


def opened(folders: dict[str, Path], name: str) -> tuple[EngineKind, Engine]:
    kind, folder = find_engine(folders[name])
    return kind, kind.open(folder, EngineOptions())


def test_every_engine_of_the_table_is_tested() -> None:
    assert CLASSES.keys() == ENGINES.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_is_opened_by_its_engine(folders: dict[str, Path], name: str) -> None:
    kind, engine = opened(folders, name)
    assert kind is ENGINES[name]
    assert type(engine) is CLASSES[name]
    assert engine.max_source_positions == POST_NORM.max_source_positions
    assert len(engine.decode(SOURCES, Decode())) == len(SOURCES)


@pytest.mark.parametrize("name", ["pytorch", "nat"])
def test_a_run_and_a_pointer_lead_to_their_checkpoint(folders: dict[str, Path], name: str) -> None:
    checkpoint = folders[name] / "checkpoint_7"
    found = {find_engine(path)[1] for path in (folders[name], folders[name] / "best", checkpoint)}
    assert found == {checkpoint}


@pytest.mark.parametrize("name", CLASSES)
def test_an_engine_has_the_abilities_given_in_the_table(folders: dict[str, Path], name: str) -> None:
    kind, engine = opened(folders, name)
    (nbest, _) = engine.decode(SOURCES, Decode(beam=3, nbest=3, max_len_b=3))
    assert (len(nbest) > 1) == kind.nbest
    assert hasattr(engine, "sample") == kind.samples
    assert isinstance(engine, ScoringEngine) == kind.forced_scores
    if isinstance(engine, ScoringEngine):
        scores = engine.score_pairs(SOURCES, SOURCES)
        assert [len(each) for each in scores] == [len(each) for each in SOURCES]
        assert all((np.asarray(each) < 0).all() for each in scores)


def test_the_number_of_passes_of_a_non_autoregressive_model_can_be_changed(tmp_path: Path) -> None:
    src_size, tgt_size = vocabulary_sizes(POST_NORM)
    model = build_nonautoregressive(
        POST_NORM, NATConfig(family="cmlm"), src_vocab_size=src_size, tgt_vocab_size=tgt_size
    )
    save_checkpoint(tmp_path / "average", model)
    kind, folder = find_engine(tmp_path)
    engine = kind.open(folder, EngineOptions(iterations=4))
    assert isinstance(engine, RefiningEngine)
    assert engine.refines
    steps = {count: engine.with_iterations(count).decode(SOURCES, Decode())[0][0].steps for count in (1, 3)}
    assert steps[1] == 1
    assert steps[3] <= 3


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a checkpoint folder nor a run that has one"):
        find_engine(tmp_path)


def test_a_damaged_description_is_refused_by_the_engine(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "average", make_model())
    (tmp_path / "average" / "model.json").write_text("[", encoding="utf-8")
    kind, folder = find_engine(tmp_path)
    with pytest.raises(UserError, match=r"model\.json: damaged"):
        kind.open(folder, EngineOptions())
