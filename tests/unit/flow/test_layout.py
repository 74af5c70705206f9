"""Tests of the folders of a pipeline."""

from __future__ import annotations

from pathlib import Path

from kdmt.flow.layout import Layout


def test_stages_are_below_the_pipeline_and_downloads_are_shared() -> None:
    one, other = Layout(Path("runs"), "one"), Layout(Path("runs"), "other")
    assert one.root == Path("runs/one")
    assert one.folder("teacher") == Path("runs/one/teacher")
    assert one.folder("students", "small", "seed_1") == Path("runs/one/students/small/seed_1")
    assert one.downloads == other.downloads == Path("runs/downloads")
