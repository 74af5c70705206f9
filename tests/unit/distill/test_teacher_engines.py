"""Test that both engines of a teacher give the same translations."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from distilled_pipeline import (
    MADE,
    distill,
    manifest,
    verified,
)
from tiny_pipeline import (
    read_lines,
)

from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.types import Hypothesis


@pytest.mark.usefixtures("finished")
def test_both_engines_give_the_same_translations() -> None:
    names = ("distilled.en", "distilled.de", "rejected")
    by_torch = [(MADE / name).read_bytes() for name in names]
    rows = [row.split("\t") for row in read_lines(MADE / "nbest")]
    assert distill(sets=("distill.engine=ctranslate2_exact",)).code == 0
    assert [(MADE / name).read_bytes() for name in names] == by_torch
    assert {"ctranslate2", "processor", "threads"} < set(manifest()["facts"]["blocks"][0])
    for ours, theirs in zip(rows, (row.split("\t") for row in read_lines(MADE / "nbest")), strict=True):
        assert ours[2:] == theirs[2:]
        # CTranslate2 renormalises without <pad>, to which a teacher of few updates gives some probability
        assert float(ours[1]) == pytest.approx(float(theirs[1]), abs=1e-2)
    sets = ("distill.engine=ctranslate2",)
    assert verified(sets=sets).code == 0
    shutil.rmtree(MADE / "engine")
    assert distill("--verify", sets=sets).code == 0


@pytest.mark.usefixtures("finished")
def test_blocks_record_that_the_memory_of_a_gpu_was_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = CTranslate2Engine.decode

    def on_a_small_gpu(engine: CTranslate2Engine, *args: Any, **options: Any) -> list[list[Hypothesis]]:
        engine.memory.lower(200)
        return decode(engine, *args, **options)

    assert distill(sets=("distill.engine=ctranslate2_exact",)).code == 0
    text = (MADE / "distilled.de").read_bytes()
    assert "max_tokens" not in manifest()["facts"]["blocks"][0]
    shutil.rmtree(MADE)
    monkeypatch.setattr(CTranslate2Engine, "decode", on_a_small_gpu)
    assert distill(sets=("distill.engine=ctranslate2_exact",)).code == 0
    assert manifest()["facts"]["blocks"][0]["max_tokens"] == 100
    assert (MADE / "distilled.de").read_bytes() == text
