"""External scorers in the score stage: columns, significance, caches, and changes of the settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input import unharmed
from tiny_pipeline import Finished, kdmt, read_lines, settings, to_yaml

TINY = Path("runs/tiny")
# the share of the reference's words that the hypothesis has, and a note of every segment
PROGRAM = """
import json, sys
print(json.dumps({"scorer": "recall", "signature": "recall|v:1", "versions": {"recall": "1.0"}}), flush=True)
for line in sys.stdin:
    if line.strip():
        with open("given", "a") as file:
            file.write(line)
        each = json.loads(line)
        words = each["reference"].split()
        score = sum(word in each["hypothesis"].split() for word in words) / len(words)
        print(json.dumps({"id": each["id"], "score": score}), flush=True)
"""


def with_scorer(**changes: Any) -> None:
    """Add a scorer to the pipeline of the working folder."""
    Path("recall.py").write_text(PROGRAM)
    document = settings()
    command = [sys.executable, "-I", "-S", "recall.py"]
    document["scorers"] = {"recall": {"command": command, "range": [0, 1], "reference": True, **changes}}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")


def score(*arguments: str) -> Finished:
    return kdmt("score", "tiny.yaml", *arguments)


def rows() -> list[dict[str, Any]]:
    return json.loads((TINY / "scores.json").read_text(encoding="utf-8"))


def given() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("given").read_text(encoding="utf-8").splitlines()]


def recall(hypotheses: list[str]) -> np.ndarray:
    pairs = zip(hypotheses, read_lines(Path("text/test.de")), strict=True)
    return np.array([np.mean([word in line.split() for word in reference.split()]) for line, reference in pairs])


@pytest.mark.usefixtures("finished")
def test_every_system_has_the_mean_of_its_segment_scores_and_p_values() -> None:
    before = {(row["system"], row["beam"]): row["bleu"] for row in rows()}
    with_scorer()
    result = score()
    assert result.code == 0, result.err
    found = {(row["system"], row["beam"]): row for row in rows()}
    assert {key: row["bleu"] for key, row in found.items()} == before
    for (system, beam), row in found.items():
        hypotheses = read_lines(TINY / f"score/{system}.seed_1.test.beam{beam}.de")
        scored = row["scores"]["recall"]
        assert scored["value"] == pytest.approx(recall(hypotheses).mean())
        assert scored["signature"] == "recall|v:1|nrefs:1|recall:1.0"
        assert (scored["higher_is_better"], scored["range"]) == (True, [0.0, 1.0])
    for comparison in json.loads((TINY / "significance.json").read_text(encoding="utf-8")):
        assert 1 / 21 <= comparison["p_values"]["recall"]["value"] <= 1
        assert comparison["p_values"]["recall"]["signature"] == "recall|v:1|nrefs:1|recall:1.0|bs:20|seed:12345"
    for text in (result.out, (TINY / "report.html").read_text(encoding="utf-8")):
        assert "recall" in text
        assert f"{found['teacher', 1]['scores']['recall']['value']:.4f}" in text
        assert "recall: recall|v:1|nrefs:1|recall:1.0" in text
        assert "higher is better, from 0 to 1" in text
        assert "p (recall)" in text


@pytest.mark.usefixtures("finished")
def test_scorers_are_given_raw_text_and_each_segment_once() -> None:
    with_scorer()
    assert score().code == 0
    triples = [(each["source"], each["hypothesis"], each["reference"]) for each in given()]
    assert len(set(triples)) == len(triples)
    pairs = set(zip(read_lines(Path("text/test.en")), read_lines(Path("text/test.de")), strict=True))
    assert {(source, reference) for source, _, reference in triples} == pairs
    assert score("--set", "score.bootstrap_samples=30").code == 0  # all scores are in the cache
    assert len(given()) == len(triples)


@pytest.mark.usefixtures("finished")
def test_a_changed_scorer_is_scored_again_and_an_execution_setting_is_not() -> None:
    with_scorer()
    assert score().code == 0
    with unharmed():
        again = score("--set", "scorers.recall.batch_size=7", "--set", "scorers.recall.timeout=50")
    assert "up to date" in again.err + again.out
    result = score("--set", "scorers.recall.direction=lower")
    assert result.code == 0, result.err
    assert rows()[0]["scores"]["recall"]["higher_is_better"] is False
    assert score("--set", "score.scorers=[]").code == 0
    assert "recall" not in rows()[0]["scores"]


@pytest.mark.usefixtures("finished")
def test_a_scorer_that_fails_leaves_the_earlier_report() -> None:
    with_scorer(command=[sys.executable, "-c", "print('hello')"])
    before = (TINY / "scores.json").read_bytes()
    result = score()
    assert result.code == 2
    assert "scorers.recall: its first line is no JSON object: 'hello'" in result.err
    assert (TINY / "scores.json").read_bytes() == before


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("score.scorers=[other]", "'score.scorers': 'other': 'scorers' has recall"),
        ("score.scorers=[recall, recall]", "'scorers' holds a name twice"),
        ("scorers.bleu={command: [x]}", "'scorers': a scorer cannot be called 'bleu', as a metric is"),
    ],
)
@pytest.mark.usefixtures("finished")
def test_names_that_cannot_be_are_refused(setting: str, expected: str) -> None:
    with_scorer()
    with unharmed():
        result = score("--set", setting)
    assert result.code == 2
    assert expected in result.err


@pytest.mark.usefixtures("finished")
def test_spbleu_is_a_column_with_the_pieces_of_a_given_model() -> None:
    model = TINY / "prepare/tokenizer/joint.model"
    sets = ["--set", "score.metrics=[bleu, spbleu]", "--set", f"score.spbleu_model={model}"]
    result = score(*sets)
    assert result.code == 0, result.err
    row = rows()[0]
    assert "tok:spm-joint-" in row["scores"]["spbleu"]["signature"]
    assert "spBLEU" in result.out
    assert "up to date" in score(*sets).err
    for wrong, expected in (
        (["--set", "score.metrics=[spbleu]"], "'spbleu' in 'metrics' needs 'spbleu_model'"),
        (["--set", f"score.spbleu_model={model}"], "'spbleu' in 'metrics' needs 'spbleu_model'"),
        ([*sets[:3], "score.spbleu_model=no.model"], "score.spbleu_model: no.model: no such file"),
    ):
        with unharmed():
            refused = score(*wrong)
        assert refused.code == 2
        assert expected in refused.err
