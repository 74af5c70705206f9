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
    read_lines,
    run_stages,
)

from kdmt.config import Decode, Distill
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.decode.engines.nat import NATEngine
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
    assert message == f"distill.engine: CTranslate2 has no decoder for {fast}, which is non-autoregressive"
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


def test_a_teacher_with_ssrus_runs_in_pytorch() -> None:
    model = CheckpointModel(
        is_nonautoregressive=False,
        is_multilingual=False,
        has_ssrus=True,
        vocab_size=10,
        max_source_positions=9,
        max_target_positions=9,
    )
    assert _engine(Distill(), ["recurrent"], [model]) == "torch"
    assert _engine(Distill(), ["attending"], [replace(model, has_ssrus=False)]) == "ctranslate2"
    with pytest.raises(UserError, match="CTranslate2 has no decoder for recurrent, which has SSRUs"):
        _engine(Distill(engine="ctranslate2"), ["recurrent"], [model])
