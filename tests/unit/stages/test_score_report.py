"""The page of the score stage: what it gathers from the files of all stages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_pipeline import kdmt

from kdmt.config import load_pipeline
from kdmt.score.metrics import METRICS
from kdmt.score.report_page.content import ReportContent
from kdmt.score.score_files import ScoreRow, read_scores, write_scores
from kdmt.stages.score_report import gather_content
from kdmt.stages.workspace import Workspace

TINY = Path("runs/tiny")


def gathered(*overrides: str) -> ReportContent:
    workspace = Workspace(load_pipeline(Path("tiny.yaml"), overrides), Path("runs"))
    return gather_content(workspace, versions={"kdmt": "1.2.3"})


def value_of(rows: Sequence[ScoreRow], system: str, beam: int) -> float:
    return next(row.scores["bleu"].value for row in rows if (row.system, row.beam) == (system, beam))


@pytest.mark.usefixtures("finished")
def test_the_content_is_that_of_the_files_of_the_run() -> None:
    found = gathered()
    rows, _ = read_scores(TINY / "scores.json")
    assert found.test_sets == ["test"]
    (gaps,) = found.gaps
    best = {name: max(value_of(rows, name, beam) for beam in (1, 2)) for name in ("teacher", "raw", "distilled")}
    for each in gaps.from_teacher:
        expected = best[each.label.partition(",")[0]] - best["teacher"]
        assert each.gap.difference == pytest.approx(expected, abs=1e-6)
    assert len(gaps.from_teacher) == 2
    assert not gaps.exported
    log = [json.loads(line) for line in (TINY / "teacher" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    teacher = found.curves.validation[0]
    assert teacher.system == "teacher"
    assert dict(zip(teacher.updates, teacher.means, strict=True)) == {
        record["update"]: record["nll"] for record in log if record["kind"] == "valid"
    }
    facts = json.loads((TINY / "distill" / "manifest.json").read_text(encoding="utf-8"))["facts"]
    (distilled,) = found.training_sets
    assert distilled.name == "distilled"
    assert ("source sentences", str(facts["num_sentences"])) in distilled.sizes
    assert {name: counts[0] for name, counts in distilled.failures.items()} == facts["failures"]
    assert sum(distilled.histograms[0].counts) <= facts["num_sentences"]
    assert [table.title for table in found.data] == ["training corpora", "validation and test sets", "vocabulary"]
    assert found.data[0].lines[0][1:4] == ["80", "80", "80"]
    assert found.reproduction is not None
    assert found.reproduction.commands == ["pip install 'kdmt[report]==1.2.3'", "kdmt run tiny.yaml"]
    assert any(str(line[0]).startswith("checkpoint of raw") for line in found.reproduction.inputs.lines)


@pytest.mark.usefixtures("finished")
def test_the_pipeline_on_the_page_is_up_to_date_with_the_run() -> None:
    found = gathered()
    assert found.reproduction is not None
    Path("again.yaml").write_text(found.reproduction.pipeline, encoding="utf-8")
    lines = kdmt("status", "again.yaml").out.splitlines()[1:]
    assert lines
    assert all(" up to date " in line for line in lines)


@pytest.mark.usefixtures("finished")
def test_examples_are_those_of_the_recommended_student() -> None:
    examples = gathered().examples
    assert examples is not None
    lines = (Path("text") / "test.en").read_text(encoding="utf-8").splitlines()
    for example in (*examples.worst, *examples.drawn):
        labels = [shown.label for shown in example.texts]
        assert labels[0] == "source"
        assert labels[-1] == examples.system
        assert any(label.startswith("teacher, ") for label in labels)
        assert "".join(piece.text for piece in example.texts[0].pieces) == lines[example.line - 1]


@pytest.mark.usefixtures("finished")
def test_an_exported_student_is_compared_with_the_same_model_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, missing = read_scores(TINY / "scores.json")
    exported = [replace(row, engine="ctranslate2", compute_type="int8") for row in rows if row.system == "distilled"]
    write_scores(TINY / "scores.json", [*rows, *exported], missing)
    text = (TINY / "score" / "distilled.seed_1.test.beam1.de").read_text(encoding="utf-8").splitlines()
    (TINY / "score" / "int8.de").write_text("\n".join(["rum", *text[1:]]) + "\n", encoding="utf-8")

    def name_of(row: ScoreRow) -> str:
        return "int8" if row.engine == "ctranslate2" else f"{row.system}.seed_1.test.beam{row.beam}"

    monkeypatch.setattr("kdmt.stages.score_report.translations_name", name_of)
    (gaps,) = gathered().gaps
    assert [(each.label, each.other) for each in gaps.exported] == [
        (f"distilled, ctranslate2 int8, beam {beam}", f"distilled, pytorch float32, beam {beam}") for beam in (1, 2)
    ]
    references = (Path("text") / "test.de").read_text(encoding="utf-8").splitlines()
    scores = [METRICS["bleu"].score(lines, references).value for lines in (["rum", *text[1:]], text)]
    assert gaps.exported[0].gap.difference == pytest.approx(scores[0] - scores[1])
    assert len(gaps.from_teacher) == 3  # each student in each of its engines


@pytest.mark.usefixtures("finished")
def test_records_of_other_stages_that_are_missing_or_strange_are_left_out() -> None:
    for path in (TINY / "teacher" / "metrics.jsonl", TINY / "prepare" / "report.json", TINY / "distill" / "nbest"):
        path.unlink()
    manifest = TINY / "distill" / "manifest.json"
    record = json.loads(manifest.read_text(encoding="utf-8"))
    record["facts"] = {
        "num_sentences": "many",
        "failures": {"empty": "x"},
        "quality": {"histogram": [1]},
        "num_lines": 7,
    }
    manifest.write_text(json.dumps(record), encoding="utf-8")
    for path in (TINY / "score").glob("distilled*"):
        path.unlink()
    found = gathered()
    assert [curve.system for curve in found.curves.validation] == ["raw", "distilled"]
    assert [table.title for table in found.data] == ["vocabulary"]
    assert found.training_sets[0].sizes == [("training pairs", "7")]
    assert (found.training_sets[0].failures, found.training_sets[0].histograms) == ({}, [])
    assert [each.label for each in found.gaps[0].from_teacher] == ["raw, beam 2"]
