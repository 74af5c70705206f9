"""The plan of the knowledge stage: one cache for each training set whose students learn from a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline

from kdmt.config import Pipeline
from kdmt.flow.stage import Stage
from kdmt.stages.pipeline import build_stages
from kdmt.stages.workspace import Workspace


def stages_of(students: dict[str, Any], **knowledge: Any) -> dict[str, Stage]:
    document = tiny_pipeline.settings()
    common = document["students"]["raw"]
    document["students"] = {name: {**common, **student} for name, student in students.items()}
    document["knowledge"] = knowledge
    stages = build_stages(Workspace(Pipeline.model_validate(document), Path("runs")))
    return {stage.folder.name: stage for stage in stages.groups["knowledge"]}


CACHED = {"word_kd": {"source": "cache"}}


def test_a_cache_is_planned_for_each_training_set_of_students_that_use_one() -> None:
    found = stages_of(
        {
            "plain": {"data": "distilled"},
            "live": {"data": "distilled", "word_kd": {}},
            "cached": {"data": "raw", **CACHED},
        }
    )
    assert list(found) == ["raw"]
    assert [stage.name for stage in found["raw"].upstream] == ["prepare", "teacher"]
    assert found["raw"].folder == Path("runs/tiny/knowledge/raw")
    mixed = stages_of({"cached": {"data": "mixed", **CACHED}})
    assert set(mixed) == {"raw", "distilled"}
    assert [stage.name for stage in mixed["distilled"].upstream] == ["prepare", "teacher", "distill"]


@pytest.mark.usefixtures("finished")
def test_the_plan_depends_on_the_settings_and_inputs_of_the_cache() -> None:
    students = {"cached": {"data": "raw", **CACHED}}
    plans = [stages_of(students, **settings)["raw"].plan() for settings in ({"k": 4}, {"k": 5}, {"threads": 1, "k": 4})]
    assert plans[0].settings != plans[1].settings
    assert plans[0] == plans[2]  # threads change no output
    assert "teacher/average" in plans[0].inputs
