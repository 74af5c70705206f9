"""Test that both engines of a teacher give the same translations."""

from __future__ import annotations

import shutil

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


@pytest.mark.usefixtures("finished")
def test_both_engines_give_the_same_translations() -> None:
    names = ("distilled.en", "distilled.de", "rejected")
    by_torch = [(MADE / name).read_bytes() for name in names]
    rows = [row.split("\t") for row in read_lines(MADE / "nbest")]
    assert distill(sets=("distill.engine=ctranslate2",)).code == 0
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
