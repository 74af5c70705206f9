"""The work of the score stage: how a model is decoded, and what its translations depend on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_pipeline import kdmt

from kdmt.config import Score
from kdmt.decode.engines.engine import Engine
from kdmt.decode.engines.table import ENGINES
from kdmt.score.systems import Way
from kdmt.stages.score_work import _ways
from kdmt.types import Hypothesis

TINY = Path("runs/tiny")


class OneHypothesis:
    """An engine without a beam, as an engine of another library may be."""

    max_source_positions = 64

    def decode(self, sources: list[np.ndarray], *_: object, **__: object) -> list[list[Hypothesis]]:
        return [[Hypothesis(tuple(source[:-1].tolist()), 0.0)] for source in sources]


class Refining(OneHypothesis):
    def __init__(self, refines: bool) -> None:
        self.refines = refines

    def with_iterations(self, _: int) -> Engine:
        return self


def test_a_model_is_decoded_in_the_ways_its_engine_supports() -> None:
    settings = Score(beams=[1, 4], iterations=[2, 8])
    beam, greedy = ENGINES["pytorch"], ENGINES["onnx"]
    assert _ways(settings, beam, OneHypothesis()) == [Way(beam=1), Way(beam=4)]
    assert _ways(settings, greedy, OneHypothesis()) == [Way()]
    assert _ways(settings, ENGINES["nat"], Refining(True)) == [Way(iterations=2), Way(iterations=8)]
    assert _ways(settings, ENGINES["nat"], Refining(False)) == [Way(iterations=1)]


@pytest.mark.usefixtures("finished")
def test_a_record_of_pytorch_names_no_engine() -> None:
    """Check that records of earlier versions, which name no engine, are still found."""
    records = sorted((TINY / "score" / "decoded").glob("*.json"))
    assert records
    for record in records:
        made_from = json.loads(record.read_text(encoding="utf-8"))["made_from"]
        assert made_from.keys() == {
            *("checkpoint", "source", "text", "decode", "speed_sentences"),
            *("threads", "device"),
        }


@pytest.mark.usefixtures("finished")
def test_a_report_of_an_earlier_version_is_up_to_date_and_shown() -> None:
    """Check a report whose scores.json and significance.json have only the keys of version 0.1.0."""
    shown = kdmt("score", "tiny.yaml").out
    manifest = TINY / "score" / "manifest.json"
    record = manifest.read_text(encoding="utf-8")
    for name, new in (("scores.json", ("scores", "second_scores")), ("significance.json", ("p_values",))):
        path = TINY / name
        before = path.read_bytes()
        entries = json.loads(before)
        for entry in entries:
            for key in new:
                entry.pop(key)
        path.write_text(json.dumps(entries), encoding="utf-8")
        record = record.replace(sha256(before), sha256(path.read_bytes()))
    manifest.write_text(record, encoding="utf-8")
    again = kdmt("score", "tiny.yaml")
    assert (again.code, again.out) == (0, shown)
    assert "up to date" in again.err


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
