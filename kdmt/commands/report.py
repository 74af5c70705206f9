"""`kdmt report`: draw the page `report.html` of a scored pipeline again, without translating or scoring anything."""

from __future__ import annotations

from pathlib import Path

from kdmt.errors import UserError
from kdmt.flow.manifest import recorded_outputs, recorded_versions, replace_output
from kdmt.flow.stage import locked
from kdmt.score.report_page import charts
from kdmt.score.score_files import ReportFiles
from kdmt.stages.score_report import write_report
from kdmt.stages.workspace import Workspace


def report(workspace: Workspace, *, out: Path | None = None) -> Path:
    """Write the page and return its path.

    Args:
        workspace: pipeline and its folders.
        out: path of the page; None for `report.html` in the folder of the pipeline, whose record is brought up to date.

    Raises:
        UserError: if the score stage is not complete, or one of its files is damaged.
    """
    folder = workspace.score
    if not recorded_outputs(folder):
        raise UserError(f"{folder}: no scores: run 'kdmt score' first")
    versions = recorded_versions(folder)
    page = out or ReportFiles.below(workspace.root).page
    if out is not None:
        write_report(workspace, versions=versions, path=out)
    else:
        with locked(folder):
            write_report(workspace, versions=versions)
            replace_output(folder, page)
    if not charts.has_charts():
        workspace.say("report: without charts, since matplotlib is not installed: pip install 'kdmt[report]'")
    return page
