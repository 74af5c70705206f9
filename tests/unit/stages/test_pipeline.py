"""The stages of a pipeline, their inputs, and what the commands that run them refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from tiny_pipeline import settings, write_text

from kdmt.config import Pipeline, Rerank
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.errors import UserError
from kdmt.flow.manifest import Plan, make_plan
from kdmt.stages.distill import _reranking_plan
from kdmt.stages.pipeline import (
    build_stages,
    chosen_students,
    run_command,
    run_prepare_shard,
    run_shards,
    run_verification,
)
from kdmt.stages.workspace import Workspace


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def workspace(*data: str, **distill: Any) -> Workspace:
    """Return a pipeline with a student for each training set, of which nothing has been run."""
    document = settings()
    student = document["students"]["raw"]
    document["students"] = {f"student{number}": student | {"data": name} for number, name in enumerate(data)}
    document["distill"]["decode"] |= {"beam": 2, "nbest": 2}
    document["distill"] |= distill
    return Workspace(Pipeline.model_validate(document), Path("runs"))


FILES = {"scores": "scores.txt", "imported": "theirs.tsv"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ((), ["distilled"]),
        (("raw",), ["distilled"]),
        (("mixed", "nbest"), ["distilled", "nbest"]),
        (("sampled", "raw"), ["distilled", "sampled"]),
        (("scored", "mbr", "interpolated"), ["distilled", "interpolated", "mbr", "scored"]),
        (("imported", "raw"), ["imported"]),
        (("imported",), ["imported"]),
        (("imported", "mixed"), ["distilled", "imported"]),
        (("imported", "mbr"), ["distilled", "mbr", "imported"]),
        (("imported", "sampled"), ["distilled", "sampled", "imported"]),
    ],
)
def test_training_sets_are_made_for_the_students_that_use_them(data: tuple[str, ...], expected: list[str]) -> None:
    stages = build_stages(workspace(*data, **FILES))
    assert list(stages.texts) == expected
    assert [stage.folder.name for stage in stages.groups["distill"]] == [
        {"distilled": "distill"}.get(name, name) for name in expected
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (("mbr", "raw"), ["pool", "mbr"]),
        (("mbr", "imported"), ["pool", "mbr", "imported"]),
        (("mbr", "mixed"), ["distilled", "pool", "mbr"]),
        (("mbr", "sampled"), ["distilled", "pool", "mbr", "sampled"]),
        (("raw",), ["distilled", "pool"]),
    ],
)
def test_the_best_translations_are_not_made_if_all_choose_from_the_pool(
    data: tuple[str, ...], expected: list[str]
) -> None:
    stages = build_stages(workspace(*data, **FILES, pool={"samples": 2}))
    assert list(stages.texts) == expected
    if "distilled" not in expected:
        assert [stage.name for stage in stages.texts["mbr"].stage.upstream] == ["prepare", "pool"]


def test_models_of_reranking_are_inputs_by_content_and_earlier_records_stay(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("lm.arpa", "moved.arpa", "other.arpa")]
    for path, content in zip(paths, ("one", "one", "two"), strict=True):
        path.write_text(content, encoding="utf-8")
    name = "distill.rerank.language_model"

    def plan(path: Path, recorded: Plan | None = None) -> Plan:
        settings = Rerank(features=["language_model"], language_model=str(path))
        made = make_plan({"distill.rerank": settings}, {}, {})
        return _reranking_plan(made, settings, cast(PreparedCorpus, None), recorded)

    first = plan(paths[0])
    assert first.settings[name] is None
    assert first.inputs.keys() == {name}
    assert plan(paths[1]) == first  # a file may be moved
    assert plan(paths[2]).inputs != first.inputs
    earlier = Plan({name: str(paths[0])}, {}, {str(paths[0]): first.inputs[name]})
    again = plan(paths[0], earlier)
    assert again.settings[name] == str(paths[0])
    assert again.inputs == earlier.inputs


def test_inputs_of_each_stage() -> None:
    stages = build_stages(workspace("mixed", "nbest", "sampled", "imported", **FILES))
    found = {stage.name: [before.name for before in stage.upstream] for stage in stages.all()}
    assert found == {
        "prepare": [],
        "teacher": ["prepare"],
        "distill": ["prepare", "teacher"],
        "nbest": ["prepare", "distill"],
        "sampled": ["prepare", "teacher"],
        "imported": ["prepare"],
        "student student0 seed 1": ["prepare", "distill"],
        "student student1 seed 1": ["prepare", "nbest"],
        "student student2 seed 1": ["prepare", "sampled"],
        "student student3 seed 1": ["prepare", "imported"],
        "score": ["prepare", "teacher"],
    }
    assert {name for name, made in stages.texts.items() if made.shards is not None} == {"distilled", "sampled"}


def test_inputs_of_each_stage_of_a_student() -> None:
    document = settings()
    document["students"] = {
        "small": {
            **document["students"]["raw"],
            "seeds": [1, 2],
            "embeddings_from_teacher": True,
            "stages": [
                {},
                {"data": "sampled"},
                {"word_kd": {"source": "cache"}},
                {"data": "distilled", "hidden_kd": {}},
            ],
        }
    }
    stages = build_stages(Workspace(Pipeline.model_validate(document), Path("runs")))
    assert [stage.name for stage in stages.groups["knowledge"]] == ["knowledge of raw"]
    assert list(stages.texts) == ["distilled", "sampled"]
    for seed, made in stages.students["small"].items():
        name = f"student small seed {seed} stage"
        assert [stage.folder for stage in made] == [
            Path(f"runs/tiny/students/small/seed_{seed}/stage_{number}") for number in (1, 2, 3, 4)
        ]
        assert {stage.name: [before.name for before in stage.upstream] for stage in made} == {
            f"{name} 1": ["prepare", "teacher"],  # whose embeddings it takes
            f"{name} 2": ["prepare", "sampled", f"{name} 1"],
            f"{name} 3": ["prepare", "knowledge of raw", f"{name} 2"],
            f"{name} 4": ["prepare", "teacher", "distill", f"{name} 3"],
        }
    names = [stage.name for stage in stages.groups["student"]]
    assert names == [f"student small seed {seed} stage {number}" for seed in (1, 2) for number in (1, 2, 3, 4)]


def test_the_pipelines_teacher_is_not_needed_if_others_translate() -> None:
    stages = build_stages(workspace("sampled", teachers=["elsewhere"]))
    for stage in stages.groups["distill"]:
        assert [before.name for before in stage.upstream] == ["prepare"]


def test_students_are_chosen_by_name() -> None:
    stages = build_stages(workspace("raw", "mixed"))
    assert [stage.name for stage in chosen_students(stages, None)] == [
        "student student0 seed 1",
        "student student1 seed 1",
    ]
    assert [stage.name for stage in chosen_students(stages, "student1")] == ["student student1 seed 1"]
    with pytest.raises(UserError, match="there is no student 'small'; the pipeline has student0, student1"):
        chosen_students(stages, "small")


@pytest.mark.parametrize(("shard", "shards"), [(2, 2), (-1, 2), (0, 0)])
def test_a_shard_that_does_not_exist_is_refused(shard: int, shards: int) -> None:
    with pytest.raises(UserError, match=f"--shard {shard}/{shards}: expected a shard from 0 on"):
        run_shards(workspace("mixed"), shard, shards, rebuild=False)
    with pytest.raises(UserError, match=f"--shard {shard}/{shards}: expected a shard from 0 on"):
        run_prepare_shard(workspace("mixed"), shard, shards, rebuild=False)


def test_a_command_needs_the_stages_before_it() -> None:
    write_text(Path())
    with pytest.raises(UserError, match="Run `kdmt prepare` first"):
        run_command(workspace("mixed"), "teacher", rebuild=False)
    with pytest.raises(UserError, match="Run `kdmt prepare` first"):
        run_shards(workspace("mixed"), 0, 2, rebuild=False)
    assert not Path("runs/tiny/teacher").exists()


def test_a_command_without_stages_reports_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="kdmt")
    run_command(workspace("mixed"), "knowledge", rebuild=False)
    assert caplog.messages == ["knowledge: the pipeline has none, nothing to do"]


@pytest.mark.usefixtures("finished")
def test_verification_refuses_an_incomplete_training_set() -> None:
    whole = Workspace(Pipeline.model_validate(settings()), Path("runs"))
    run_verification(whole, blocks=1, seed=3)
    Path("runs/tiny/distill/manifest.json").rename("runs/tiny/distill/plan.json")
    with pytest.raises(UserError, match="distill is not up to date: it was started and not finished"):
        run_verification(whole, blocks=1, seed=3)
