"""The folders of a pipeline, and messages that only the first rank prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmt.config import Pipeline
from kdmt.log import messages_on_stderr
from kdmt.ranks import Ranks
from kdmt.stages.workspace import Workspace
from kdmt.training_sets import stage_folders


@pytest.fixture
def config() -> Pipeline:
    train = {"source": {"path": "a.en"}, "target": {"path": "a.de"}}
    document = {"name": "x", "source_lang": "en", "target_lang": "de", "prepare": {"train": [train], "valid": train}}
    return Pipeline.model_validate(document)


def test_every_stage_has_its_own_folder_in_that_of_the_pipeline(config: Pipeline) -> None:
    workspace = Workspace(config, Path("runs"))
    sets = [workspace.training_set(name) for name in stage_folders()]
    folders = [*sets, workspace.teacher, workspace.score, workspace.knowledge("raw"), workspace.student("small", 2)]
    assert len(set(folders)) == len(folders)
    assert all(folder.is_relative_to("runs/x") for folder in folders)
    assert workspace.training_set("raw") == workspace.prepare
    assert workspace.data_bin == Path("runs/x/prepare/data-bin")
    assert workspace.student("small", 2) == Path("runs/x/students/small/seed_2")


@pytest.mark.parametrize(("rank", "expected"), [(0, "text\\x1b\n"), (1, "")])
def test_only_the_first_rank_prints_messages(
    config: Pipeline, rank: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with messages_on_stderr():
        Workspace(config, Path("runs"), ranks=Ranks(rank=rank, world=2)).say("text\x1b")
    assert capsys.readouterr().err == expected
