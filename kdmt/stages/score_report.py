"""The page `report.html`: gathers what the stages of a pipeline have written, and draws it.

Everything is read from files, so that the page can be drawn again without translating or scoring anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdmt.config import Pipeline
from kdmt.corpus.alignment import spread
from kdmt.corpus.lines import read_lines
from kdmt.files import write_text
from kdmt.score.metrics import METRICS, main_metric
from kdmt.score.report_notes import report_notes
from kdmt.score.report_page.content import Gaps, LabelledGap, ReportContent
from kdmt.score.report_page.examples import ShownExamples, choose_examples
from kdmt.score.report_page.gaps import Resampled, find_gaps
from kdmt.score.report_page.page import render_page
from kdmt.score.report_page.recommendation import recommend
from kdmt.score.row_groups import Group, decoding_name, group_rows, way_name
from kdmt.score.score_files import ReportFiles, ScoreRow, read_comparisons, read_scores
from kdmt.score.system_diagnostics import read_diagnostics
from kdmt.score.systems import translations_name
from kdmt.stages.direction_scores import direction_scores
from kdmt.stages.measures import spaced_sides
from kdmt.stages.run_summary import find_curves, find_data, find_reproduction, find_training_sets
from kdmt.stages.scored_references import scored_test_set
from kdmt.stages.variants import scored_texts
from kdmt.stages.workspace import Workspace

NUM_EXAMPLES = 10  # of each kind
_MAX_SEARCHED = 5_000  # sentences among which the worst translations are searched
_TEACHER, _OWN_ENGINE = "teacher", "pytorch"

Key = tuple[str, str]  # system, and its engine with the way of decoding


def write_report(workspace: Workspace, *, versions: Mapping[str, str], path: Path | None = None) -> None:
    """Write the page.

    Args:
        versions: software versions of the score stage.
        path: path of the page; None for `report.html` in the folder of the pipeline.

    Raises:
        UserError: if the score stage has not written its files, or one is damaged.
    """
    content = gather_content(workspace, versions=versions)
    write_text(path or ReportFiles.below(workspace.root).page, render_page(content))


def gather_content(workspace: Workspace, *, versions: Mapping[str, str]) -> ReportContent:
    """Return what the page shows."""
    files, config = ReportFiles.below(workspace.root), workspace.config
    rows, missing = read_scores(files.scores)
    test_sets = [name for name in config.tests_by_split if any(row.test_set == name for row in rows)]
    comparisons = read_comparisons(files.significance)
    return ReportContent(
        title=config.name,
        direction=_describe_directions(config),
        rows=rows,
        comparisons=comparisons,
        missing=missing,
        notes=report_notes(config.distill, config.scorers, config.trainings()),
        test_sets=test_sets,
        curves=find_curves(workspace),
        training_sets=find_training_sets(workspace),
        gaps=[found for name in test_sets if (found := _gaps(workspace, rows, name)) is not None],
        diagnostics=read_diagnostics(files.diagnostics) if files.diagnostics.exists() else None,
        examples=_examples(workspace, rows, test_sets),
        data=find_data(workspace),
        reproduction=find_reproduction(workspace, rows, versions),
        directions=direction_scores(workspace, rows, comparisons),
    )


# ---------------------------------------------------------------------------------------------------------------- gaps


@dataclass(frozen=True)
class _Scored:
    """A system with an engine and a way of decoding on one test set, which has translations."""

    group: Group
    score: float

    @property
    def key(self) -> Key:
        return self.group[0].system, decoding_name(self.group[0])

    @property
    def engine(self) -> Key:
        row = self.group[0]
        return row.engine, row.compute_type


def _describe_directions(config: Pipeline) -> str:
    if config.is_multilingual:
        return ", ".join(map(str, config.all_directions))
    return f"{config.direction.source} to {config.direction.target}"


def _gaps(workspace: Workspace, rows: Sequence[ScoreRow], test_set: str) -> Gaps | None:
    """Return the differences on a test set; None if there is nothing to compare."""
    own = [row for row in rows if row.test_set == test_set and _file(workspace, row).is_file()]
    metric = main_metric(list(dict.fromkeys(name for row in own for name in row.scores if name in METRICS)) or [""])
    if metric not in METRICS:
        return None
    groups = group_rows(row for row in own if metric in row.scores)
    scored = [_Scored(group, sum(row.scores[metric].value for row in group) / len(group)) for group in groups]
    from_teacher, exported = list(_with_teacher(scored, metric)), list(_with_own_engine(scored))
    pairs = [(first.key, second.key) for first, second in (*from_teacher, *exported)]
    if not pairs:
        return None
    by_key = {each.key: each for each in scored}
    texts = {
        key: [read_lines(_file(workspace, row)) for row in by_key[key].group]
        for key in dict.fromkeys(key for pair in pairs for key in pair)
    }
    samples = workspace.config.score.bootstrap_samples
    references = scored_test_set(workspace, scored_texts(workspace)[test_set]).first
    resampled = Resampled(references, metric, samples=samples)
    found = dict(zip(pairs, find_gaps(pairs, texts, resampled), strict=True))
    several = len({each.engine for each in scored}) > 1

    def labelled(pairs: Sequence[tuple[_Scored, _Scored]]) -> list[LabelledGap]:
        return [
            LabelledGap(_label(first, several), _label(second, several), found[first.key, second.key])
            for first, second in pairs
        ]

    return Gaps(test_set, metric, labelled(from_teacher), labelled(exported), samples)


def _with_teacher(scored: Sequence[_Scored], metric: str) -> Iterator[tuple[_Scored, _Scored]]:
    """Yield each student, with its best way of decoding in each engine, and the teacher with its best one."""
    sign = 1 if METRICS[metric].higher_is_better else -1
    best: dict[tuple[str, Key], _Scored] = {}
    for each in sorted(scored, key=lambda each: -sign * each.score):
        best.setdefault((each.key[0], each.engine), each)
    teacher = next((each for (system, _), each in best.items() if system == _TEACHER), None)
    for each in scored:
        if teacher is not None and each.key[0] != _TEACHER and each is best[each.key[0], each.engine]:
            yield each, teacher


def _with_own_engine(scored: Sequence[_Scored]) -> Iterator[tuple[_Scored, _Scored]]:
    """Yield each system in another engine, and the same system in PyTorch with the same way of decoding."""
    own = {_way_key(each): each for each in scored if each.engine[0] == _OWN_ENGINE}
    for each in scored:
        if each.engine[0] != _OWN_ENGINE and _way_key(each) in own:
            yield each, own[_way_key(each)]


def _way_key(scored: _Scored) -> tuple[str, int, int | None, int | None]:
    row = scored.group[0]
    return row.system, row.beam, row.iterations, row.wait_k


def _label(scored: _Scored, with_engine: bool) -> str:
    system, decoding = scored.key
    return f"{system}, {decoding if with_engine else decoding.split(', ', 1)[1]}"


def _file(workspace: Workspace, row: ScoreRow) -> Path:
    """Return the path of the translations that a row scores."""
    return workspace.score / f"{translations_name(row)}.{workspace.direction.target}"


# ------------------------------------------------------------------------------------------------------------ examples


def _examples(workspace: Workspace, rows: Sequence[ScoreRow], test_sets: Sequence[str]) -> ShownExamples | None:
    """Return examples of the recommended student on the first test set, None if there is no translation of it."""
    found = recommend([row for row in rows if row.test_set in test_sets])
    if found is None:
        return None
    test_set = test_sets[0]
    shown: list[Group] = [] if found.teacher is None else [found.teacher.rows]
    own_engine = [
        group
        for group in group_rows(row for row in rows if row.test_set == test_set and row.system == found.chosen.system)
        if group[0].engine == _OWN_ENGINE != found.chosen.rows[0].engine
        and way_name(group[0]) == way_name(found.chosen.rows[0])
    ]
    outputs: dict[str, list[str]] = {}
    for group in (*shown, *own_engine, found.chosen.rows):
        row = next(row for row in group if row.test_set == test_set)
        if _file(workspace, row).is_file():
            outputs[f"{row.system}, {decoding_name(row)}"] = read_lines(_file(workspace, row))
    label = f"{found.chosen.system}, {found.chosen.decoding}"
    if label not in outputs:
        return None
    text = scored_texts(workspace)[test_set]
    sources, _ = text.raw_texts(workspace)
    references = scored_test_set(workspace, text).first.references
    chosen = spread(len(references), _MAX_SEARCHED)
    return choose_examples(
        test_set,
        chosen,
        sources,
        references,
        outputs,
        system=label,
        most=NUM_EXAMPLES,
        spaced=spaced_sides(workspace)[1],
    )
