"""Choice of the best checkpoint by an external scorer, on the tiny pipeline."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from bad_input import refused
from slow_parameters import some_of
from tiny_pipeline import read_lines, run_stages, settings, to_yaml

from kdmt.models.checkpoint_folder import resolve_checkpoint

TINY = Path("runs/tiny")
# the number of characters of the hypothesis, with fractions for those of the source and of the reference
PROGRAM = """
import json, sys
print(json.dumps({"scorer": "words", "signature": "words|v:1"}), flush=True)
for line in sys.stdin:
    if line.strip():
        with open("given", "a") as file:
            file.write(line)
        each = json.loads(line)
        score = len(each["hypothesis"]) + len(each["source"]) / 1000 + len(each.get("reference", "")) / 1e6
        print(json.dumps({"id": each["id"], "score": score}), flush=True)
"""


def write(direction: str = "higher", *, program: str = PROGRAM, **train: Any) -> None:
    Path("words.py").write_text(program)
    document = settings()
    command = [sys.executable, "-I", "-S", "words.py"]
    document["scorers"] = {
        "words": {"command": command, "direction": direction, "range": [0, 1000], "reference": True, "restarts": 0}
    }
    document["score"]["scorers"] = []
    document["teacher"]["train"] |= {"best_metric": "words", "validate_interval_updates": 10, **train}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")


def validations() -> list[dict[str, Any]]:
    records = [json.loads(line) for line in read_lines(TINY / "teacher/metrics.jsonl")]
    return [record for record in records if record["kind"] == "valid"]


def facts(name: str) -> dict[str, Any]:
    return json.loads((TINY / "teacher" / name).read_text())


@pytest.mark.parametrize("direction", some_of(["lower", "higher"], 1))
@pytest.mark.usefixtures("pipeline")
def test_the_best_checkpoint_is_chosen_by_a_scorer(direction: str) -> None:
    write(direction)
    stderr = run_stages("prepare", "teacher")[1].err
    found = validations()
    assert len({record["words"] for record in found}) > 1
    sign = 1 if direction == "higher" else -1
    best = max(found, key=lambda record: (sign * record["words"], -record["loss"]))
    assert facts("manifest.json")["facts"]["best_update"] == best["update"]
    assert resolve_checkpoint(TINY / "teacher/best").name.endswith(f"_{best['update']}")
    assert re.search(rf"bleu {found[-1]['bleu']:.2f} words {found[-1]['words']:.2f}", stderr)
    chosen = facts("chosen.json")
    assert (chosen["metric"], chosen["signature"]) == ("words", "words|v:1|nrefs:1")
    assert "teacher: up to date" in run_stages("teacher")[0].err
    write("lower" if direction == "higher" else "higher")
    assert "the setting scorers.words.direction changed" in run_stages("teacher")[0].err


@pytest.mark.usefixtures("pipeline")
def test_the_figure_is_the_mean_score_of_the_translations_with_source_and_reference() -> None:
    write(max_updates=10, validate_sentences=3, validate_interval_updates=10)
    run_stages("prepare", "teacher")
    given = [json.loads(line) for line in read_lines(Path("given"))]
    assert {each["reference"] for each in given} <= set(read_lines(TINY / "prepare/valid.raw.de")[:3])
    assert {each["source"] for each in given} <= set(read_lines(TINY / "prepare/valid.raw.en")[:3])
    sizes: dict[str, set[float]] = {}
    for each in given:
        score = len(each["hypothesis"]) + len(each["source"]) / 1000 + len(each["reference"]) / 1e6
        sizes.setdefault(each["source"], set()).add(score)
    first = validations()[0]["words"]
    possible = [0.0]
    for scores in sizes.values():
        possible = [total + score for total in possible for score in scores]
    assert any(abs(total / len(sizes) - first) < 1e-9 for total in possible)


@pytest.mark.usefixtures("pipeline")
def test_a_run_in_two_parts_has_the_same_scores_and_choice_as_one() -> None:
    found = []
    for parts in ((10, 20), (20,)):
        for updates in parts:
            write(max_updates=updates)
            run_stages("prepare", "teacher")
        figures = [(each["update"], each["loss"], each["words"], each["best_update"]) for each in validations()]
        found.append((figures, facts("chosen.json")))
        (TINY / "teacher").rename(f"teacher-{len(found)}")
    assert found[0] == found[1]
    assert len(found[0][0]) == 2


@pytest.mark.usefixtures("pipeline")
def test_a_scorer_that_ends_stops_the_training_with_a_message() -> None:
    write(program=PROGRAM.replace("score = ", "sys.exit(3)\n        score = "))
    run_stages("prepare")
    assert refused("teacher", "tiny.yaml").startswith("scorers.words: segment 1")


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"best_metric": "comet"}, "'teacher.train.best_metric': 'comet' is not one of loss, bleu, chrf, and"),
        ({"validate_bleu": False}, "teacher.train: 'best_metric: words' needs 'validate_bleu: true'"),
    ],
)
@pytest.mark.usefixtures("pipeline")
def test_what_cannot_choose_is_refused(train: dict[str, Any], expected: str) -> None:
    write(**train)
    assert expected in refused("prepare", "tiny.yaml")
