"""The student that a report recommends: the fastest one whose score is close to that of the best student."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from kdmt.score.metrics import METRICS, main_metric, metric_label
from kdmt.score.row_groups import Group, decoding_name, group_rows
from kdmt.score.score_files import ScoreRow

# metric -> difference of scores that counts as none
_CLOSE = {"bleu": 0.5, "spbleu": 0.5, "chrf": 0.3, "chrf++": 0.3, "ter": 0.5}


@dataclass(frozen=True)
class Candidate:
    """A student with an engine and a way of decoding; the figures are means over test sets and medians over seeds.

    Attributes:
        system: name of the student.
        decoding: engine and way of decoding.
        score: mean of the main metric over test sets and seeds.
        speed: sentences per second at batch 1, median over test sets and seeds.
        parameters: number of parameters.
        rows: rows of the scores.
    """

    system: str
    decoding: str
    score: float
    speed: float
    parameters: int
    rows: Group


@dataclass(frozen=True)
class Recommendation:
    """The recommended student, with the best one and the teacher to compare it with.

    Attributes:
        metric: name of the main metric.
        chosen: the recommended student.
        best: the student with the best score, which may be the same.
        teacher: the teacher with its best way of decoding; None if it has no scores.
        close: difference from the best score that counts as none.
        test_sets: test sets over which the scores are means.
    """

    metric: str
    chosen: Candidate
    best: Candidate
    teacher: Candidate | None
    close: float
    test_sets: list[str]

    @property
    def rule(self) -> str:
        """Return the rule in one sentence."""
        label, where = metric_label(self.metric), " and ".join(self.test_sets)
        side = "below" if METRICS[self.metric].higher_is_better else "above"
        return (
            f"Of all students, engines and ways of decoding whose {label} on {where} is at most {self.close:g} "
            f"{side} that of the best one, this is the fastest at batch 1."
        )


def recommend(rows: Sequence[ScoreRow], *, teacher: str = "teacher") -> Recommendation | None:
    """Return the recommended student, None if no student has a score of the main metric on every test set.

    Ties are resolved in favour of the student with fewer parameters, then the better score.

    Args:
        rows: scores on the test sets that count.
        teacher: name of the teacher among the systems.
    """
    metric = main_metric(list(dict.fromkeys(name for row in rows for name in row.scores if name in METRICS)) or [""])
    if metric not in METRICS:
        return None
    test_sets = list(dict.fromkeys(row.test_set for row in rows))
    candidates = [
        _candidate(group, metric)
        for group in group_rows(row for row in rows if row.wait_k is None)  # a mode of its own, not a faster search
        if {row.test_set for row in group if metric in row.scores} == set(test_sets)
    ]
    students = [each for each in candidates if each.system != teacher]
    if not students:
        return None
    sign = 1 if METRICS[metric].higher_is_better else -1
    best = max(students, key=lambda each: sign * each.score)
    close = [each for each in students if sign * (best.score - each.score) <= _CLOSE[metric]]
    chosen = max(close, key=lambda each: (each.speed, -each.parameters, sign * each.score))
    of_teacher = [each for each in candidates if each.system == teacher]
    best_teacher = max(of_teacher, key=lambda each: sign * each.score, default=None)
    return Recommendation(metric, chosen, best, best_teacher, _CLOSE[metric], test_sets)


def _candidate(group: Group, metric: str) -> Candidate:
    scored = [row for row in group if metric in row.scores]
    return Candidate(
        system=group[0].system,
        decoding=decoding_name(group[0]),
        score=statistics.fmean(row.scores[metric].value for row in scored),
        speed=statistics.median(row.sentences_per_second_batch1 for row in group),
        parameters=group[0].parameters,
        rows=group,
    )
