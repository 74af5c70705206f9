"""The work of the score stage: how a model is decoded, and what its translations depend on."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_pipeline import kdmt, read_lines, run_stages, settings, to_yaml, write_lines

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
    beam, greedy = ENGINES["pytorch"], ENGINES["onnx_nat"]
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


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("moses", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_several_references_are_scored_as_by_sacrebleu(moses: bool) -> None:
    """Compare with the command line of sacreBLEU; nothing but prepare and score is made again."""
    document = settings()
    if moses:  # a second form of the text, which has further references too
        document["prepare"]["text"] = {"moses": True}
        Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
        run_stages("prepare", "teacher", "distill", "student", "score")
    targets = read_lines(Path("text/test.de"))
    write_lines(Path("text/other.de"), [f"{line} !" for line in targets[::-1]])
    document["prepare"]["test"]["test"]["references"] = [{"path": "text/other.de"}]
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare")
    assert "up to date" in kdmt("teacher", "tiny.yaml").err
    result = run_stages("score")[0]
    assert "translated before, scored again" in result.err
    assert "nrefs:2" in result.out
    assert "test (2 references)" in result.out
    rows = json.loads((TINY / "scores.json").read_text(encoding="utf-8"))
    for row in rows:
        name = f"{row['system']}.seed_{row['seed']}.test.beam{row['beam']}.de"
        command = [sys.executable, "-m", "sacrebleu", "text/test.de", "text/other.de", "-i", str(TINY / "score" / name)]
        done = subprocess.run([*command, "-m", "bleu", "chrf", "-w", "6"], capture_output=True, text=True, check=True)
        for metric, found in zip(("bleu", "chrf"), json.loads(done.stdout), strict=True):
            assert row["scores"][metric]["value"] == pytest.approx(found["score"], abs=1e-6)
            assert (
                row["scores"][metric]["signature"] == f"nrefs:{found['nrefs']}|" + found["signature"].split("|", 1)[1]
            )
        assert ("nrefs:2" in str(row["second_scores"])) == moses
    comparisons = json.loads((TINY / "significance.json").read_text(encoding="utf-8"))
    assert comparisons
    assert all("nrefs:2" in each["p_values"]["bleu"]["signature"] for each in comparisons)
