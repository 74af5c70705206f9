"""The plan of back-translation: its place among the stages, and what it depends on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline

from kdmt.config import Pipeline
from kdmt.errors import UserError
from kdmt.flow.manifest import Plan
from kdmt.stages import back_translation
from kdmt.stages.pipeline import build_stages, checked_stages, run_shards, run_verification
from kdmt.stages.workspace import Workspace

PREPARED = {"dict.en.txt": "d", "tokenizer/model": "t", "text.json": "x", "monolingual.de": "m", "train.en": "r"}


class _Model:
    """A model that is in `runs/reverse`."""

    def inputs(self) -> dict[str, str]:
        return {"teacher runs/reverse": "w"}


def workspace(teacher: dict[str, Any] | None = None, **back: Any) -> Workspace:
    document = tiny_pipeline.settings()
    data = [{"set": "raw", "share": 0.5}, {"set": "back_translated", "share": 0.5}]
    document["teacher"] |= {"data": data} | (teacher or {})
    if "text" not in back:
        document["prepare"]["monolingual_target"] = [{"path": "mono.de"}]
    document["back_translation"] = {"checkpoint": "runs/reverse", **back}
    return Workspace(Pipeline.model_validate(document), Path("runs"))


def plan(**changes: Any) -> Plan:
    return build_stages(workspace(**changes)).groups["back-translate"][0].plan()


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(back_translation, "recorded_outputs", lambda _: PREPARED)
    monkeypatch.setattr(back_translation, "choose_reverse_teacher", lambda *_: _Model())


def record(made: Plan, **settings: Any) -> None:
    """Write a record of the stage with some other settings."""
    folder = Path("runs/tiny/back_translated")
    folder.mkdir(parents=True, exist_ok=True)
    values = made.as_dict()
    values["settings"] |= settings
    (folder / "manifest.json").write_text(json.dumps(values | {"outputs": {}}))


def test_the_set_has_a_command_of_its_own_before_the_teacher_that_learns_from_it() -> None:
    train = tiny_pipeline.settings()["teacher"]["train"] | {"guided_alignment": {}}
    stages = build_stages(workspace(teacher={"train": train})).groups
    assert [stage.name for stage in stages["prepare"]] == ["prepare", "alignment of raw"]
    made = stages["back-translate"]
    assert [stage.name for stage in made] == ["back_translated", "alignment of back_translated"]
    assert [stage.command for stage in made] == ["kdmt back-translate"] * 2
    assert [stage.name for stage in stages["teacher"][0].upstream][:2] == ["prepare", "back_translated"]


def test_only_files_that_change_the_set_are_inputs() -> None:
    prepared = {"prepare/dict.en.txt": "d", "prepare/tokenizer/model": "t", "prepare/text.json": "x"}
    assert plan().inputs == prepared | {"prepare/monolingual.de": "m", "teacher runs/reverse": "w"}
    Path("a.de").write_text("ok\n")
    assert plan(text=["a.de"]).inputs.keys() == {*prepared, "a.de", "teacher runs/reverse"}


@pytest.mark.parametrize(
    "changes",
    [
        {"block_lines": 5},
        {"engine": "ctranslate2"},
        {"compute_type": "float32"},
        {"workers": 2, "threads": 3, "executor": "ray", "device": "cpu", "silence_minutes": 1.0},
        {"teacher": {"train": tiny_pipeline.TRAIN}},
    ],
)
def test_other_settings_are_not_in_the_plan(changes: dict[str, Any]) -> None:
    assert plan(**changes).as_dict() == plan().as_dict()


@pytest.mark.parametrize(
    "changes",
    [{"tag": "<bt>"}, {"engine": "torch"}, {"compute_type": "int8"}, {"decode": {"beam": 1}}, {"sample": {}}],
)
def test_settings_that_change_the_set_are_in_the_plan(changes: dict[str, Any]) -> None:
    assert plan(**changes).as_dict() != plan().as_dict()


def test_the_length_penalty_has_no_effect_on_samples_and_the_block_may_have_one() -> None:
    assert plan(sample={}, decode={"lenpen": 0.5}).as_dict() == plan(sample={}).as_dict()
    assert plan(sample={}, block_lines=5).as_dict() != plan(sample={}).as_dict()  # those of CTranslate2


def test_a_record_of_the_first_version_with_settings_without_effect_is_up_to_date() -> None:
    (stage,) = build_stages(workspace(block_lines=5)).groups["back-translate"]
    record(stage.plan(), **{"back_translation.block_lines": 2000})
    assert stage.status().state == "fresh"
    Path("runs/tiny/back_translated/manifest.json").unlink()
    record(stage.plan(), **{"back_translation.tag": "<other>"})
    assert stage.status().reasons == ["the setting back_translation.tag changed from '<other>' to None"]
    assert "back_translation.block_lines" not in stage.plan().settings


def test_the_teacher_that_learns_from_the_set_cannot_make_it() -> None:
    with pytest.raises(UserError, match=r"back_translation\.checkpoint"):
        checked_stages(workspace(checkpoint="runs/tiny/teacher"))


def test_shards_and_verification_need_the_section() -> None:
    whole = Workspace(Pipeline.model_validate(tiny_pipeline.settings()), Path("runs"))
    with pytest.raises(UserError, match=r"back-translate: the pipeline has no 'back_translation'"):
        run_shards(whole, 0, 2, rebuild=False, stage="back-translate")
    with pytest.raises(UserError, match=r"back-translate: the pipeline has no 'back_translation'"):
        run_verification(whole, blocks=1, seed=1, stage="back-translate")
