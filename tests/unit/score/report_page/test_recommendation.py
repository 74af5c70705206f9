"""The recommended student: the fastest one whose score is close to the best."""

from __future__ import annotations

from kdmt.score.metrics import MetricScore
from kdmt.score.report_page.recommendation import recommend
from kdmt.score.score_files import ScoreRow


def row(system: str, score: float, speed: float, **changes: object) -> ScoreRow:
    values: dict[str, object] = {
        "system": system,
        "test_set": "test",
        "seed": 1,
        "engine": "pytorch",
        "beam": 1,
        "compute_type": "float32",
        "threads": 1,
        "scores": {"bleu": MetricScore(score, "s")},
        "parameters": 1_000,
        "sentences_per_second_batch1": speed,
        "sentences_per_second_max": speed,
        "checkpoint_sha256": "0" * 64,
    }
    return ScoreRow(**(values | changes))  # type: ignore[arg-type]


def test_the_fastest_student_close_to_the_best_is_recommended() -> None:
    rows = [row("teacher", 40, 100), row("big", 38.0, 10), row("small", 37.5, 30), row("tiny", 37.4, 90)]
    found = recommend(rows)
    assert found is not None
    assert (found.chosen.system, found.best.system) == ("small", "big")
    assert found.teacher is not None
    assert found.teacher.system == "teacher"
    assert "at most 0.5 below that of the best one, this is the fastest at batch 1." in found.rule
    assert "BLEU on test " in found.rule


def test_engines_and_ways_of_decoding_count_as_students_of_their_own() -> None:
    rows = [
        row("a", 30.0, 10, beam=5),
        row("a", 29.8, 20),
        row("a", 29.7, 60, engine="ctranslate2", compute_type="int8"),
        row("a", 28.0, 90, engine="other", compute_type="int8"),
    ]
    found = recommend(rows)
    assert found is not None
    assert found.chosen.decoding == "ctranslate2 int8, beam 1"
    assert found.teacher is None


def test_scores_are_means_over_test_sets_and_seeds() -> None:
    rows = [
        *(row("a", score, 10, seed=seed) for seed, score in ((1, 30.0), (2, 34.0))),
        *(row("a", 20.0, 30, test_set="other", seed=seed) for seed in (1, 2)),
        *(row("b", 50.0, 99, test_set=name) for name in ("test",)),  # not scored on the other test set
    ]
    found = recommend(rows)
    assert found is not None
    assert (found.chosen.system, found.chosen.score, found.chosen.speed) == ("a", 26.0, 20)
    assert found.test_sets == ["test", "other"]


def test_with_the_same_speed_the_smaller_student_is_recommended() -> None:
    found = recommend([row("a", 30.0, 10), row("b", 29.9, 10, parameters=500)])
    assert found is not None
    assert found.chosen.system == "b"


def test_for_a_rate_of_errors_lower_is_better() -> None:
    def ter(value: float) -> dict[str, MetricScore]:
        return {"ter": MetricScore(value, "s", higher_is_better=False)}

    found = recommend(
        [row("a", 0, 10, scores=ter(50.0)), row("b", 0, 30, scores=ter(50.4)), row("c", 0, 99, scores=ter(52))]
    )
    assert found is not None
    assert (found.chosen.system, found.best.system) == ("b", "a")
    assert "above that of the best one" in found.rule


def test_without_a_student_or_a_score_nothing_is_recommended() -> None:
    assert recommend([]) is None
    assert recommend([row("teacher", 40, 10)]) is None
    assert recommend([row("a", 0, 10, scores={"comet": MetricScore(0.8, "s")})]) is None
