"""Records of what the report page contains, besides the tables of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdmt.score.report_notes import NO_NOTES, ReportNotes
from kdmt.score.report_page.curves import Curve
from kdmt.score.report_page.directions import DirectionScores
from kdmt.score.report_page.examples import ShownExamples
from kdmt.score.report_page.facts import Facts
from kdmt.score.report_page.gaps import Gap
from kdmt.score.score_files import Comparison, Missing, ScoreRow
from kdmt.score.system_diagnostics import SystemDiagnostics


@dataclass(frozen=True)
class Curves:
    """Curves of all trainings.

    Attributes:
        validation, training: negative log-likelihood of the validation text and of the training text.
        scores: name of a validation metric -> its curves.
    """

    validation: Sequence[Curve] = ()
    training: Sequence[Curve] = ()
    scores: Mapping[str, Sequence[Curve]] = field(default_factory=dict)


@dataclass(frozen=True)
class Histogram:
    """Histogram of scores: edges of the bins, counts, and what was counted."""

    label: str
    edges: Sequence[float]
    counts: Sequence[int]


@dataclass(frozen=True)
class TrainingSetSummary:
    """A training set that the teacher, or a choice among its candidates, has made.

    Attributes:
        name: name of the set.
        sizes: names and values of its size, and of its comparison with the references.
        failures: failure -> number of sentences, how many of them have the reference, and how many were dropped.
        histograms: histograms of scores of its targets.
    """

    name: str
    sizes: Sequence[tuple[str, str]]
    failures: Mapping[str, tuple[int, int, int]]
    histograms: Sequence[Histogram] = ()


@dataclass(frozen=True)
class LabelledGap:
    """A difference of two systems with the labels of both, which have the engine and the way of decoding."""

    label: str
    other: str
    gap: Gap


@dataclass(frozen=True)
class Gaps:
    """Differences on one test set.

    Attributes:
        test_set: name of the test set.
        metric: name of the metric.
        from_teacher: students compared with the teacher.
        exported: exported models compared with the same model in PyTorch.
        samples: number of resampled test sets.
    """

    test_set: str
    metric: str
    from_teacher: Sequence[LabelledGap]
    exported: Sequence[LabelledGap]
    samples: int


@dataclass(frozen=True)
class Reproduction:
    """Commands, versions and checksums with which the run can be repeated.

    Attributes:
        file_name: name of the pipeline file.
        commands: commands for a shell.
        pipeline: the pipeline file with all settings, as YAML.
        versions: versions of the software of each stage.
        inputs: SHA-256 of the corpora, the checkpoints and the prepared text.
    """

    file_name: str
    commands: Sequence[str]
    pipeline: str
    versions: Facts
    inputs: Facts


@dataclass(frozen=True)
class ReportContent:
    """Content of the page.

    Attributes:
        title: name of the pipeline.
        direction: languages, such as `de-en`.
        rows, comparisons, missing: content of scores.json and significance.json.
        notes: notes that follow from the settings.
        test_sets: names of the test sets that count for the recommendation, without variants.
        curves: curves of all trainings.
        training_sets: training sets of the distill stage.
        gaps: differences between teacher, students and exported students.
        diagnostics: content of diagnostics.json; None if there are no diagnostics.
        examples: translations side by side; None if there are none.
        data: tables of the prepare stage.
        reproduction: how to make the run again; None to leave it out.
        directions: heat maps and averages of a pipeline with several directions; None for one direction.
    """

    title: str
    rows: Sequence[ScoreRow]
    direction: str = ""
    comparisons: Sequence[Comparison] = ()
    missing: Sequence[Missing] = ()
    notes: ReportNotes = NO_NOTES
    test_sets: Sequence[str] = ()
    curves: Curves = Curves()
    training_sets: Sequence[TrainingSetSummary] = ()
    gaps: Sequence[Gaps] = ()
    diagnostics: SystemDiagnostics | None = None
    examples: ShownExamples | None = None
    data: Sequence[Facts] = ()
    reproduction: Reproduction | None = None
    directions: DirectionScores | None = None
