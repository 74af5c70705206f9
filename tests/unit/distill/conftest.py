"""Fixtures of tests of the distill stage: a teacher of the opposite direction."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_pipeline import TEACHER_TRAIN, run_stages, settings, to_yaml, working_in


@pytest.fixture(scope="session")
def _reverse_once(_finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reverse")
    shutil.copytree(_finished_once / "text", folder / "text")
    document = settings()
    document |= {"name": "reverse", "source_lang": "de", "target_lang": "en"}
    prepare = document["prepare"]
    for pair in (*prepare["train"], prepare["valid"], *prepare["test"].values()):
        pair["source"], pair["target"] = pair["target"], pair["source"]
    document["teacher"]["train"] = TEACHER_TRAIN | {"max_updates": 40}
    (folder / "tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    with working_in(folder):
        run_stages("prepare", "teacher")
    return folder / "runs/reverse"


@pytest.fixture
def reverse(_reverse_once: Path, finished: Path) -> Path:
    """Return the working folder, with a finished run and with a teacher of the opposite direction."""
    shutil.copytree(_reverse_once, finished / "runs/reverse")
    return finished
