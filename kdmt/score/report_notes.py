"""Notes on metrics that follow from the settings of a pipeline: those that chose targets, and human agreement.

A metric that chose the targets of a student is no independent evidence for it, and nor are metrics of its kind (Kovacs
et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kdmt.choices import AgreementMetric
from kdmt.config import Distill, Scorer, ScorerScores, Student
from kdmt.training_sets import OF_TEACHERS

_KINDS = (("bleu", "spbleu"), ("chrf", "chrf++"))  # metrics of the same kind
# metrics of kdmt for which there are figures of agreement with people
_AGREEMENT: dict[str, AgreementMetric] = {"bleu": "bleu", "chrf": "chrf"}


@dataclass(frozen=True)
class ReportNotes:
    """Notes for the report of scores.

    Attributes:
        chose: metric -> what it chose, for each metric that chose training targets, or is of the kind of one.
        agreement: metric -> its name in the table of agreement with people.
    """

    chose: Mapping[str, Sequence[str]] = field(default_factory=dict)
    agreement: Mapping[str, AgreementMetric] = field(default_factory=dict)


NO_NOTES = ReportNotes()


def report_notes(
    settings: Distill, scorers: Mapping[str, Scorer], trainings: Iterable[tuple[str, Student]]
) -> ReportNotes:
    """Return the notes for a pipeline.

    Args:
        settings, scorers: sections `distill` and `scorers`.
        trainings: YAML path and settings of each training of a student.
    """
    chose: dict[str, list[str]] = {}
    for metric, what in dict.fromkeys(_choices(settings, trainings)):
        chose.setdefault(metric, []).append(what)
        for other in next((kind for kind in _KINDS if metric in kind), ()):
            if other != metric:
                chose.setdefault(other, []).append(f"{what} (by {metric}, a metric of the same kind)")
    external = {name: scorer.human_agreement for name, scorer in scorers.items() if scorer.human_agreement is not None}
    return ReportNotes(chose, {**_AGREEMENT, **external})


def _choices(settings: Distill, trainings: Iterable[tuple[str, Student]]) -> Iterator[tuple[str, str]]:
    """Yield a metric and what it chose, for each choice of training targets of a student."""
    for path, student in trainings:
        for name in student.data_names:
            what = f"targets of '{path}' (data: {name})"
            if name == "interpolated":
                yield settings.interpolate.removeprefix("sentence_"), what
            if name == "reranked":
                if settings.rerank.weights is None:
                    yield settings.rerank.metric, what
                for scorer in settings.rerank.scorers:
                    yield scorer, what
            if name == "scored" and isinstance(settings.scores, ScorerScores):
                yield settings.scores.scorer, what
            by_utility = name == "reranked" and "mbr" in settings.rerank.features
            by_utility |= name == "diverse" and settings.diverse.quality == "utility"
            if name == "mbr" or by_utility:
                yield settings.mbr.utility, what
            if settings.quality is not None and name not in OF_TEACHERS:
                yield settings.quality.scorer, f"{what}, as the filter 'distill.quality'"
