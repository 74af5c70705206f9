"""Tests of `kdmt report`: it draws the page again from files, and the score stage stays up to date."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input import message_of
from tiny_pipeline import hash_tree, kdmt

from kdmt.score.report_page import charts

PAGE = Path("runs/tiny/report.html")


@pytest.mark.usefixtures("finished")
def test_the_page_is_the_one_of_the_score_stage_and_nothing_else_is_written() -> None:
    before, made = PAGE.read_bytes(), hash_tree(Path("runs"))
    PAGE.write_text("lost", encoding="utf-8")
    result = kdmt("report", "tiny.yaml")
    assert (result.code, result.out) == (0, f"{PAGE}\n")
    assert PAGE.read_bytes() == before
    assert hash_tree(Path("runs")) == made
    assert "without charts, since matplotlib is not installed" in result.err


@pytest.mark.usefixtures("finished")
def test_a_page_with_charts_keeps_the_score_stage_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("quality_chart", "curves_chart", "histogram_chart", "bars_chart", "gaps_chart", "kinds_chart"):
        monkeypatch.setattr(charts, name, lambda *_, name, **__: f"<svg id='{name}'></svg>")
    monkeypatch.setattr(charts, "has_charts", lambda: True)
    assert kdmt("report", "tiny.yaml").err == ""
    assert "<svg id='chart-1'>" in PAGE.read_text(encoding="utf-8")
    assert "up to date, nothing to do" in kdmt("score", "tiny.yaml").err


@pytest.mark.usefixtures("finished")
def test_a_page_elsewhere_changes_nothing_in_the_run(tmp_path: Path) -> None:
    made = hash_tree(Path("runs"))
    assert kdmt("report", "tiny.yaml", "--out", str(tmp_path / "page.html")).code == 0
    assert hash_tree(Path("runs")) == made
    assert (tmp_path / "page.html").read_bytes() == PAGE.read_bytes()


@pytest.mark.usefixtures("pipeline")
def test_without_scores_there_is_one_clear_error() -> None:
    result = kdmt("report", "tiny.yaml")
    assert result.code == 2
    assert "run 'kdmt score' first" in message_of(result)
    assert not Path("runs").exists()
