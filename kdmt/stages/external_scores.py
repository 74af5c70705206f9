"""Scores of the translations of test sets by external scorers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdmt.score.score_files import ScoreRow
from kdmt.score.scorers.process import Segment
from kdmt.score.scorers.segment_scores import open_scorer, score_segments
from kdmt.score.systems import SegmentScores, SystemRun
from kdmt.stages.variants import scored_texts
from kdmt.stages.workspace import Workspace


def add_external_scores(
    workspace: Workspace, rows: Sequence[ScoreRow], runs: Sequence[SystemRun]
) -> tuple[list[ScoreRow], dict[str, SegmentScores]]:
    """Return the rows with the scores of each external scorer, and the scores of all segments by scorer.

    Scorers are given raw sources and references, and detokenised translations. One scorer is open at a time.

    Args:
        runs: the run of each row.
    """
    rows, found = list(rows), {}
    for name, settings in workspace.config.scorers_of_score.items():
        of_run = {}
        with open_scorer(name, settings, folder=workspace.scorers, say=workspace.say) as scorer:
            for index, run in enumerate(runs):
                workspace.say(f"score: {run.file}, {name}")
                scores = of_run[run.file] = score_segments(scorer, _segments(workspace, run))
                rows[index] = replace(rows[index], scores={**rows[index].scores, name: scorer.mean(scores)})
            found[name] = SegmentScores(scorer.signature, of_run)
    return rows, found


def _segments(workspace: Workspace, run: SystemRun) -> list[Segment]:
    sources, references = scored_texts(workspace)[run.test_set].raw_texts(workspace)
    return [Segment(*texts) for texts in zip(sources, run.finished, references, strict=True)]
