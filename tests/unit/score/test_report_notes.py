"""Metrics that chose training targets, by the settings of a pipeline."""

from __future__ import annotations

from typing import Any

from tiny_pipeline import settings

from kdmt.config import Pipeline
from kdmt.score.report_notes import ReportNotes, report_notes


def chose(data: str, distill: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    document = settings()
    document["distill"] |= {"decode": {"beam": 4, "nbest": 4}, **(distill or {})}
    document["students"] = {"small": {"data": data}}
    return dict(notes_of({**document, **changes}).chose)


def notes_of(document: dict[str, Any]) -> ReportNotes:
    config = Pipeline.model_validate(document)
    return report_notes(config.distill, config.scorers, config.trainings())


def test_the_utility_of_mbr_chose_targets_and_metrics_of_its_kind_are_marked() -> None:
    found = chose("mbr")
    assert found.keys() == {"chrf", "chrf++"}
    assert found["chrf"] == ["targets of 'students.small' (data: mbr)"]
    assert "by chrf, a metric of the same kind" in found["chrf++"][0]
    assert chose("mbr", {"mbr": {"utility": "bleu"}}).keys() == {"bleu", "spbleu"}


def test_the_similarity_to_references_chose_targets() -> None:
    assert chose("interpolated").keys() == {"bleu", "spbleu"}
    assert chose("interpolated", {"interpolate": "chrf"}).keys() == {"chrf", "chrf++"}


def test_the_metric_of_reranking_and_its_utility_chose_targets() -> None:
    assert chose("reranked", {"rerank": {"features": ["score"]}}).keys() == {"bleu", "spbleu"}
    assert chose("reranked").keys() == {"bleu", "spbleu", "chrf", "chrf++"}


def test_no_metric_chose_the_teachers_best_translations() -> None:
    assert chose("distilled") == {}
    assert chose("mixed") == {}


def test_the_scorer_of_a_filter_chose_targets_of_distilled_sets_only() -> None:
    scorers = {"kiwi": {"command": ["x"], "human_agreement": "cometkiwi22"}}
    quality = {"quality": {"scorer": "kiwi", "drop_percent": 5.0}}
    found = chose("distilled", quality, scorers=scorers)
    assert found == {"kiwi": ["targets of 'students.small' (data: distilled), as the filter 'distill.quality'"]}
    assert chose("raw", quality, scorers=scorers) == {}
    document = settings()
    document["prepare"]["monolingual_target"] = [{"path": "text/mono.de"}]
    changes = {"scorers": scorers, "prepare": document["prepare"], "back_translation": {"checkpoint": "reverse"}}
    assert chose("back_translated", quality, **changes) == {}


def test_the_scorer_of_a_choice_chose_targets() -> None:
    scorers = {"kiwi": {"command": ["x"]}, "comet": {"command": ["x"], "reference": True}}
    assert chose("scored", {"scores": {"scorer": "kiwi"}}, scorers=scorers) == {
        "kiwi": ["targets of 'students.small' (data: scored)"]
    }
    assert chose("scored", {"scores": "scores.txt"}, scorers=scorers) == {}
    assert chose("mbr", {"mbr": {"utility": "comet"}}, scorers=scorers).keys() == {"comet"}
    assert chose("mbr", {"scores": {"scorer": "kiwi"}, "mbr": {"utility": "comet"}}, scorers=scorers).keys() == {
        "comet"
    }
    tuned = {"rerank": {"features": ["kiwi", "score"]}}
    assert chose("reranked", tuned, scorers=scorers).keys() == {"kiwi", "bleu", "spbleu"}
    given = {"rerank": {"features": ["kiwi"], "weights": {"kiwi": 1.0}}}  # the metric of the tuning is not used
    assert chose("reranked", given, scorers=scorers).keys() == {"kiwi"}
    by_utility = {"rerank": {"features": ["mbr"], "weights": {"mbr": 1.0}}, "mbr": {"utility": "comet"}}
    assert chose("reranked", by_utility, scorers=scorers).keys() == {"comet"}


def test_metrics_have_their_figures_of_agreement() -> None:
    document = {**settings(), "scorers": {"kiwi": {"command": ["x"], "human_agreement": "cometkiwi22"}}}
    notes = notes_of(document)
    assert dict(notes.agreement) == {"bleu": "bleu", "chrf": "chrf", "kiwi": "cometkiwi22"}
