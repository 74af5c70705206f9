"""Tests of teachers that were not trained by the pipeline."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_pipeline
from bad_input import refused, unharmed
from distilled_pipeline import (
    MADE,
    PREPARED,
    TINY,
    done,
    manifest,
)
from tiny_pipeline import (
    kdmt,
    read_lines,
    run_stages,
)

from kdmt.api import load
from kdmt.config import Decode, Distill
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.decode.engines.nat import NATEngine
from kdmt.distill.direction_checkpoint import _engine as direction_engine
from kdmt.distill.reverse_teachers import _engine as reverse_engine
from kdmt.distill.teachers import CheckpointModel, _engine
from kdmt.errors import UserError
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint


@pytest.mark.usefixtures("finished")
def test_external_teacher_replaces_the_pipelines_teacher() -> None:
    """A copy of the teacher under another name gives the same translations."""
    before = read_lines(MADE / "distilled.de")
    shutil.copytree(resolve_checkpoint(TINY / "teacher/average"), Path("elsewhere"))
    shutil.rmtree(TINY / "teacher")
    done("distill.teachers=[elsewhere]")
    assert read_lines(MADE / "distilled.de") == before
    inputs = manifest()["inputs"]
    assert inputs["elsewhere"]
    assert not any(name.startswith("teacher/") for name in inputs)


@pytest.mark.usefixtures("finished")
def test_non_autoregressive_teacher_runs_in_pytorch() -> None:
    run_stages("student", sets=["students.fast={data: raw}", "students.fast.nat={family: cmlm}", *FAST])
    fast = TINY / "students/fast/seed_1"
    sets = (f"distill.teachers=[{fast}]", "distill.engine=auto", "distill.iterations=3")
    done(*sets)
    codec, checkpoint = TextCodec.load(PREPARED), resolve_checkpoint(fast)
    engine = NATEngine(load_model(checkpoint), iterations=3)
    sources = IndexedDataset(PREPARED / "data-bin/train.en-de.en")
    decode = Decode.model_validate(tiny_pipeline.DECODE)
    found = engine.decode([sources[index] for index in range(80)], decode)
    words = {int(row.split("\t")[0]): row.split("\t")[4] for row in read_lines(MADE / "nbest")}
    assert words == {index: codec.decode_target(own[0].tokens) for index, own in enumerate(found)}
    assert {made["torch"] for made in manifest()["facts"]["blocks"]}
    with unharmed():
        message = refused("distill", "tiny.yaml", sets=(sets[0], "distill.engine=ctranslate2"))
    assert message == f"distill.engine: CTranslate2 cannot run {fast}, which is non-autoregressive"
    with unharmed():
        message = refused("distill", "tiny.yaml", sets=(f"distill.teachers=[{fast}, {TINY / 'teacher'}]",))
    assert message == f"distill.teachers: {fast} is non-autoregressive and translates alone"
    with unharmed("tiny/.sampled.lock"):
        message = refused("distill", "tiny.yaml", sets=(*sets, "students.sampled={data: sampled}"))
    assert message == f"{fast} is non-autoregressive and draws no samples"


FAST = [
    f"students.fast.{section}.{name}={json.dumps(value)}"
    for section, values in (("model", tiny_pipeline.MODEL), ("train", tiny_pipeline.TRAIN))
    for name, value in values.items()
]


PLAIN = CheckpointModel(
    is_nonautoregressive=False,
    is_multilingual=False,
    has_ssrus=False,
    vocab_size=10,
    max_source_positions=9,
    max_target_positions=9,
)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"has_ssrus": True}, "has SSRUs"),
        ({"is_unidirectional": True}, "has a unidirectional encoder"),
        ({"is_multilingual": True}, "is multilingual"),
    ],
)
def test_a_teacher_that_ctranslate2_cannot_run_runs_in_pytorch(changes: dict[str, bool], why: str) -> None:
    model = replace(PLAIN, **changes)
    assert _engine(Distill(), ["plain"], [PLAIN]) == "ctranslate2"
    assert _engine(Distill(), ["other"], [model]) == "torch"
    with pytest.raises(UserError, match=f"CTranslate2 cannot run other, which {why}$"):
        _engine(Distill(engine="ctranslate2"), ["other"], [model])
    assert reverse_engine(Distill(), "plain", PLAIN, is_exported=False) == "ctranslate2"
    assert reverse_engine(Distill(), "other", model, is_exported=False) == "torch"
    with pytest.raises(UserError, match=f"CTranslate2 cannot run other, which {why}$"):
        reverse_engine(Distill(engine="ctranslate2"), "other", model, is_exported=False)
    folder, setting = Path("no exported model"), "distill.teachers.en-de"
    assert direction_engine(Distill(), ["plain"], [folder], [PLAIN], setting) == "ctranslate2"
    assert direction_engine(Distill(), ["other"], [folder], [model], setting) == "torch"
    with pytest.raises(UserError, match=f"{setting}: .* CTranslate2, which cannot run other, which {why}$"):
        direction_engine(Distill(engine="ctranslate2"), ["other"], [folder], [model], setting)


@pytest.mark.usefixtures("pipeline")
def test_a_teacher_with_a_unidirectional_encoder_distils() -> None:
    sets = ("teacher.model.unidirectional_encoder=true", "teacher.train.max_updates=4", "distill.engine=auto")
    message = refused("prepare", "tiny.yaml", sets=(*sets[:2], "distill.engine=ctranslate2"))
    assert "'distill.engine: ctranslate2' cannot run a teacher with 'teacher.model.unidirectional_encoder'" in message
    for stage in ("prepare", "teacher", "distill"):
        assert kdmt(stage, "tiny.yaml", *(word for each in sets for word in ("--set", each))).code == 0
    assert all(made["torch"] for made in manifest()["facts"]["blocks"])
    _check_rescored(Path("runs/tiny/teacher"))


def _check_rescored(run: Path) -> None:
    """Check that `kdmt rescore` scores pairs with a model that CTranslate2 cannot run, in float32 alone."""
    sides = Path("text/test.en"), Path("text/test.de")
    result = kdmt("rescore", run, *sides, "--workers", "1")
    assert result.code == 0, result.err
    expected = load(run, threads=1).score(*map(read_lines, sides))
    assert [float(line.split("\t")[0]) for line in result.out.splitlines()] == pytest.approx(expected, abs=1e-4)
    refused_type = kdmt("rescore", run, *sides, "--compute-type", "int8")
    assert refused_type.code == 2
    assert "has a unidirectional encoder: PyTorch scores it in float32, not in int8" in refused_type.err
