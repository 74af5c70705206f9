"""Tests of manifests: comparing the plan of a stage with its record by content, and naming every change."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_pipeline import hash_tree

from kdmt.checksum import known_sha256
from kdmt.config import Clean, Corpus, Rules, Section, Source, Teacher, Train
from kdmt.flow.folders import aside_of, earlier_states
from kdmt.flow.manifest import (
    Plan,
    begin,
    check_status,
    finish,
    make_plan,
    recorded_outputs,
    recorded_plan,
    take_back,
    write_json,
)
from kdmt.models.checkpoint_folder import num_updates

INPUTS = {"train.en": "1" * 64, "train.de": "2" * 64}


def plan_of(teacher: Section | None = None, inputs: dict[str, str] = INPUTS, **extra: object) -> Plan:
    return make_plan({"teacher": teacher or Teacher()}, extra, inputs)


LONGER = plan_of(Teacher(train=Train(max_updates=200_000)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a complete stage, made from `plan_of()`."""
    folder = tmp_path / "teacher"
    begin(folder, plan_of(), {"name": "tiny"})
    (folder / "model").write_text("weights", encoding="utf-8")
    (folder / "sub").mkdir()
    (folder / "sub" / "notes").write_text("notes", encoding="utf-8")
    finish(folder, plan_of(), outputs=[folder / "model", folder / "sub" / "notes"], facts={"updates": 5})
    return folder


def test_a_complete_folder_is_fresh(folder: Path) -> None:
    assert check_status(folder, plan_of()).state == "fresh"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "manifest.json", "model", "sub"]
    assert recorded_outputs(folder) == {name: known_sha256(folder / name) for name in ("model", "sub/notes")}


COSINE = {"lr_schedule": "cosine", "warmup_updates": 10}
WHY = "with 'lr_schedule: cosine' every learning rate depends on it, so the run cannot be extended"


def test_a_setting_of_another_kind_than_in_the_record_is_compared_by_its_value(folder: Path) -> None:
    cosine = plan_of(Teacher(train=Train(**COSINE)))
    assert check_status(folder, cosine).reasons == [
        "the setting teacher.train.lr_schedule changed from 'inverse_sqrt' to 'cosine'",
        "the setting teacher.train.warmup_updates changed from 4000 to 10",
    ]
    begin(folder, cosine, {})
    finish(folder, cosine, outputs=[], facts={})
    assert check_status(folder, cosine).state == "fresh"
    longer = check_status(folder, plan_of(Teacher(train=Train(max_updates=200_000, **COSINE))))
    changed = "the setting teacher.train.max_updates changed from 100000 to 200000"
    assert (longer.state, longer.reasons) == ("stale", [f"{changed} ({WHY})"])
    back = check_status(folder, plan_of(Teacher(train=Train(max_updates=200_000, warmup_updates=10))))
    assert (back.state, back.reasons) == (
        "stale",
        ["the setting teacher.train.lr_schedule changed from 'cosine' to 'inverse_sqrt'"],
    )


def test_a_folder_without_a_record_is_new(tmp_path: Path) -> None:
    assert check_status(tmp_path / "none", plan_of()).state == "new"
    (tmp_path / ".partial-manifest.json").write_text("{", encoding="utf-8")  # the process was killed while writing
    assert check_status(tmp_path, plan_of()).state == "new"
    assert recorded_plan(tmp_path) is None
    assert recorded_outputs(tmp_path) == {}


def test_a_folder_that_was_begun_is_unfinished(tmp_path: Path) -> None:
    begin(tmp_path / "a", plan_of(), {})
    assert check_status(tmp_path / "a", plan_of()).state == "unfinished"
    assert recorded_outputs(tmp_path / "a") == {}
    assert check_status(tmp_path / "a", plan_of(Teacher(seed=2))).state == "stale"


def test_modification_times_have_no_effect(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    assert check_status(folder, plan_of()).state == "fresh"


def test_a_changed_result_setting_is_named_with_both_values(folder: Path) -> None:
    status = check_status(folder, plan_of(Teacher(seed=7, train=Train(lr=0.25))))
    assert status.state == "stale"
    assert status.reasons == [
        "the setting teacher.seed changed from 1 to 7",
        "the setting teacher.train.lr changed from 0.0005 to 0.25",
    ]


def test_a_raised_extend_setting_extends_the_stage(folder: Path) -> None:
    status = check_status(folder, LONGER)
    assert status.state == "extend"
    assert status.explain() == "the setting teacher.train.max_updates changed from 100000 to 200000"


def test_a_lowered_extend_setting_makes_the_stage_stale(folder: Path) -> None:
    status = check_status(folder, plan_of(Teacher(train=Train(max_updates=5))))
    assert status.state == "stale"
    assert status.explain() == "the setting teacher.train.max_updates was lowered from 100000 to 5"


def test_a_setting_has_its_yaml_path_in_the_reasons(folder: Path) -> None:
    paths = {f"teacher.train.{name}": f"students.x.stages.1.{name}" for name in ("lr", "max_updates")}
    lowered = replace(plan_of(Teacher(train=Train(lr=0.25, max_updates=5))), paths=paths)
    assert check_status(folder, lowered).reasons == [
        "the setting students.x.stages.1.lr changed from 0.0005 to 0.25",
        "the setting students.x.stages.1.max_updates was lowered from 100000 to 5",
    ]
    assert check_status(folder, replace(LONGER, paths=paths)).reasons == [
        "the setting students.x.stages.1.max_updates changed from 100000 to 200000"
    ]


def test_a_result_setting_has_priority_over_an_extend_setting(folder: Path) -> None:
    assert check_status(folder, plan_of(Teacher(seed=7, train=Train(max_updates=200_000)))).state == "stale"


def test_an_execution_setting_does_not_make_the_stage_stale(folder: Path) -> None:
    changed = Train(threads=3, device="cpu", save_interval_updates=1, log_interval_updates=1, tensorboard=True)
    assert plan_of(Teacher(train=changed)).as_dict() == plan_of().as_dict()
    assert check_status(folder, plan_of(Teacher(train=changed))).state == "fresh"


def test_a_record_in_which_an_execution_setting_is_a_result_setting_is_fresh(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["settings"]["teacher.train.device"] = "cuda"
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert check_status(folder, plan_of()).state == "fresh"


def test_changed_new_and_removed_inputs_are_named(folder: Path) -> None:
    status = check_status(folder, plan_of(inputs={"train.en": "3" * 64, "tags": "4" * 64}))
    assert status.state == "stale"
    assert status.reasons == [
        "the input tags is new",
        "the input train.de is gone",
        "the input train.en changed",
    ]


def test_changed_and_missing_outputs_are_named(folder: Path) -> None:
    (folder / "model").write_text("other weights", encoding="utf-8")
    (folder / "sub" / "notes").unlink()
    status = check_status(folder, plan_of())
    assert status.state == "unfinished"  # the stage is resumed from its checkpoints or blocks
    assert status.reasons == ["its output model was changed", "its output sub/notes is missing"]


def edit_record(folder: Path, edit: object) -> None:
    record = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    edit(record)  # type: ignore[operator]
    (folder / "manifest.json").write_text(json.dumps(record), encoding="utf-8")


def test_a_setting_missing_from_an_old_record_has_its_default(folder: Path) -> None:
    def forget(record: dict) -> None:
        del record["settings"]["teacher.train.label_smoothing"]
        del record["extend"]["teacher.train.max_updates"]

    edit_record(folder, forget)
    assert check_status(folder, plan_of()).state == "fresh"
    status = check_status(folder, plan_of(Teacher(train=Train(label_smoothing=0.0))))
    assert status.reasons == ["the setting teacher.train.label_smoothing changed from 0.1 to 0.0"]
    assert check_status(folder, plan_of(Teacher(train=Train(max_updates=200_000)))).state == "extend"


def test_a_setting_without_a_default_that_is_missing_from_the_record_is_new(folder: Path) -> None:
    assert check_status(folder, plan_of(seed=3)).reasons == ["the setting seed is new"]


def test_a_removed_setting_is_named(folder: Path) -> None:
    edit_record(folder, lambda record: record["settings"].update({"teacher.train.old": 1}))
    assert check_status(folder, plan_of()).reasons == ["the setting teacher.train.old is gone"]


def test_values_are_equal_after_conversion_to_json(tmp_path: Path) -> None:
    plan = plan_of(Teacher(train=Train(adam_betas=(0.9, 0.5))))  # a tuple becomes a list in JSON
    begin(tmp_path / "a", plan, {})
    finish(tmp_path / "a", plan, outputs=[], facts={})
    assert check_status(tmp_path / "a", plan).state == "fresh"
    assert recorded_plan(tmp_path / "a") == Plan(**plan.as_dict())


# ----------------------------------------------------------------------------------------------------- begin and finish


def test_every_earlier_state_is_kept_under_its_own_name(folder: Path) -> None:
    """Check that unfinished runs do not delete an earlier unfinished one, nor complete runs an earlier complete one."""
    kept: dict[str, dict[str, str]] = {}
    for seed, name in [
        *((2, "teacher.previous"), (3, "teacher.unfinished"), (4, "teacher.unfinished.2")),
        *((5, "teacher.unfinished.3"), (6, "teacher.previous.2"), (7, "teacher.unfinished.4")),
    ]:
        kept[name] = hash_tree(folder)
        assert aside_of(folder) == folder.with_name(name)  # the name that messages give in advance
        begin(folder, plan_of(Teacher(seed=seed)), {})
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "plan.json"]
        assert {state: hash_tree(folder.with_name(state)) for state in kept} == kept
        if seed == 5:
            finish(folder, plan_of(Teacher(seed=5)), outputs=[], facts={})
    order = ("unfinished", "unfinished.2", "unfinished.3", "unfinished.4", "previous", "previous.2")
    assert earlier_states(folder) == [folder.with_name(f"teacher.{name}") for name in order]


def test_folders_with_similar_names_are_not_earlier_states(folder: Path) -> None:
    for name in ("teacher.previous.0", "teacher.previous.x", "teacher.old", "teacher2.previous", "other.previous"):
        folder.with_name(name).mkdir()
    folder.with_name("teacher.previous").write_text("a file", encoding="utf-8")
    assert not earlier_states(folder)
    begin(folder, plan_of(Teacher(seed=2)), {})
    assert earlier_states(folder) == [folder.with_name("teacher.previous.2")]


@pytest.mark.parametrize("order", list(itertools.permutations("ABC")), ids="".join)
def test_all_earlier_states_are_searched_for_a_matching_one(tmp_path: Path, order: tuple[str, ...]) -> None:
    """Change from A to B to C and back to each of them in any order: no state is made twice."""
    folder, plans = tmp_path / "teacher", {name: plan_of(Teacher(seed=seed)) for seed, name in enumerate("ABC")}
    made = {}
    for name in "ABC":
        begin(folder, plans[name], {})
        (folder / "model").write_text(name, encoding="utf-8")
        finish(folder, plans[name], outputs=[folder / "model"], facts={})
        made[name] = hash_tree(folder)
    for name in order:
        assert (take_back(folder, plans[name]) is None) == (hash_tree(folder) == made[name] and name == "C" == order[0])
        assert hash_tree(folder) == made[name]
        states = [hash_tree(state) for state in earlier_states(folder)]
        assert sorted(map(str, [hash_tree(folder), *states])) == sorted(map(str, made.values()))


def test_the_matching_state_with_the_largest_extent_is_restored(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    for number, updates in enumerate((5, 40, 7), start=1):
        state = tmp_path / f"teacher.unfinished{f'.{number}' if number > 1 else ''}"
        begin(state, plan_of(), {})
        (state / f"checkpoint_{updates}").mkdir()
    assert take_back(folder, plan_of(), num_updates) == tmp_path / "teacher.unfinished.2"
    assert num_updates(folder) == 40


def test_a_complete_state_is_preferred_to_an_unfinished_one(folder: Path) -> None:
    begin(folder.with_name("teacher.unfinished"), plan_of(), {})
    (folder.with_name("teacher.unfinished") / "checkpoint_99").mkdir()
    folder.rename(folder.with_name("teacher.previous"))
    assert take_back(folder, plan_of(), num_updates) == folder.with_name("teacher.previous")


@pytest.mark.parametrize("step", [1, 2])
def test_no_state_is_lost_if_restoring_is_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    made = hash_tree(folder)
    begin(folder, plan_of(Teacher(seed=2)), {})
    mistake, calls, rename = hash_tree(folder), [], Path.rename

    def dying(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == step:
            raise InterruptedError
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(InterruptedError):
            take_back(folder, plan_of())
    assert take_back(folder, plan_of()) == folder.with_name("teacher.previous")
    assert hash_tree(folder) == made
    assert [hash_tree(state) for state in earlier_states(folder)] == [mistake]


def test_outputs_next_to_the_folder_are_moved_with_their_state(tmp_path: Path) -> None:
    """Use an output like the report of `score`, which the next state overwrites."""
    folder, report = tmp_path / "score", tmp_path / "scores.json"
    made = {}
    for seed in (1, 2, 3):
        begin(folder, plan_of(Teacher(seed=seed)), {})
        report.write_text(f"scores {seed}", encoding="utf-8")
        finish(folder, plan_of(Teacher(seed=seed)), outputs=[report], facts={})
        made[seed] = report.read_text(encoding="utf-8")
    for seed in (2, 1, 3, 2):
        assert take_back(folder, plan_of(Teacher(seed=seed))) is not None
        assert report.read_text(encoding="utf-8") == made[seed]
        assert check_status(folder, plan_of(Teacher(seed=seed))).state == "fresh"


def test_a_state_whose_restoring_an_older_version_left_unfinished_is_found(folder: Path) -> None:
    made = hash_tree(folder)
    folder.rename(folder.with_name("teacher.taken-back"))
    assert take_back(folder, plan_of()) == folder.with_name("teacher.taken-back")
    assert hash_tree(folder) == made


def test_a_state_that_matches_again_is_restored(folder: Path) -> None:
    """Check that correcting a mistyped setting restores the teacher made before."""
    made = hash_tree(folder)
    assert take_back(folder, plan_of(Teacher(seed=2))) is None
    begin(folder, plan_of(Teacher(seed=2)), {})
    mistake = hash_tree(folder)
    assert take_back(folder, plan_of()) == folder.with_name("teacher.previous")
    assert hash_tree(folder) == made
    assert check_status(folder, plan_of()).state == "fresh"
    assert hash_tree(folder.with_name("teacher.unfinished")) == mistake
    assert take_back(folder, plan_of(Teacher(seed=2))) == folder.with_name("teacher.unfinished")
    assert hash_tree(folder) == mistake
    assert hash_tree(folder.with_name("teacher.previous")) == made
    assert not list(folder.parent.glob("*taken-back"))


# settings that a rule must have
NEEDED = {
    "alignment": {"min": -1.0},
    "cross_entropy": {"min": -1.0},
    "reverse": {"checkpoint": "reverse", "min": -1.0},
    "filter": {"command": ["cat"], "min": 0.0},
}


def plan_of_rules(*rules: str) -> Plan:
    section = Clean.model_validate({"rules": {rule: NEEDED.get(rule, {}) for rule in rules} if rules else None})
    return make_plan({"prepare.clean": section}, {}, {})


def write_as_earlier_versions(folder: Path, plan: Plan) -> None:
    """Write the record of a complete stage without the settings that earlier versions did not write."""
    settings = {key: value for key, value in plan.settings.items() if value != {}}
    write_json(folder / "manifest.json", {"settings": settings, "extend": {}, "inputs": {}, "outputs": {}})


@pytest.mark.parametrize("rule", Rules.model_fields)
@pytest.mark.parametrize("others", [(), ("letters",), ("links", "tags")])
@pytest.mark.parametrize("is_earlier", [False, True])
def test_a_cleaning_rule_that_is_turned_on_or_off_is_a_change(
    tmp_path: Path, rule: str, others: tuple[str, ...], is_earlier: bool
) -> None:
    without = [other for other in others if other != rule]
    plans = {"off": plan_of_rules(*without), "on": plan_of_rules(*without, rule)}
    for name, plan in plans.items():
        folder = tmp_path / name
        folder.mkdir()
        if is_earlier:
            write_as_earlier_versions(folder, plan)
        else:
            begin(folder, plan, {})
            finish(folder, plan, outputs=[], facts={})
        assert {other: check_status(folder, plans[other]).state for other in plans} == {
            other: "fresh" if other == name else "stale" for other in plans
        }


@pytest.mark.parametrize(
    "change", [{"numbers": {}}, {"rules": {}}, {"rules": {"links": {}}}, {"numbers": {"min": 0.5}}]
)
def test_each_change_of_the_rules_of_a_corpus_is_a_change(tmp_path: Path, change: dict[str, object]) -> None:
    source = Source(path="text")
    corpora = {name: Corpus(source=source, target=source, clean=clean) for name, clean in (("a", {}), ("b", change))}
    plans = {name: make_plan({"prepare.train.0": corpus}, {}, {}) for name, corpus in corpora.items()}
    for name, plan in plans.items():
        begin(tmp_path / name, plan, {})
        finish(tmp_path / name, plan, outputs=[], facts={})
        assert [check_status(tmp_path / name, plans[other]).state == "fresh" for other in plans] == [
            other == name for other in plans
        ]


def test_a_rule_is_new_to_a_record_from_before_there_were_rules(tmp_path: Path) -> None:
    plan = plan_of_rules()
    write_as_earlier_versions(tmp_path, replace(plan, settings={"prepare.clean.max_words": 250}))
    assert check_status(tmp_path, plan).state == "fresh"
    assert check_status(tmp_path, plan_of_rules("links")).state == "stale"


@pytest.mark.parametrize("unfinished", [True, False])
def test_continuing_a_stage_keeps_its_files(folder: Path, unfinished: bool) -> None:
    if unfinished:
        (folder / "manifest.json").rename(folder / "plan.json")
    begin(folder, LONGER, {})
    assert (folder / "model").read_text(encoding="utf-8") == "weights"
    assert not earlier_states(folder)
    assert check_status(folder, LONGER).state == "unfinished"


def test_a_folder_without_a_record_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "somebodys").write_text("file", encoding="utf-8")
    begin(tmp_path / "a", plan_of(), {})
    assert (tmp_path / "a.unfinished" / "somebodys").is_file()


def test_a_record_remains_if_begin_is_interrupted_at_any_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a teacher whose training is to be extended is not trained from the beginning."""
    for step in ("replace", "unlink"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, step, _raise)
            with pytest.raises(InterruptedError):
                begin(folder, LONGER, {})
        assert check_status(folder, LONGER).state in ("extend", "unfinished")
        assert (folder / "model").is_file()


def _raise(*_: object, **__: object) -> None:
    raise InterruptedError


def test_written_files_depend_only_on_the_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        begin(tmp_path / name, plan_of(), {"x": 1})
        (tmp_path / name / "out").write_text("same", encoding="utf-8")
        finish(tmp_path / name, plan_of(), outputs=[tmp_path / name / "out"], facts={"bleu": 1.5})
    assert hash_tree(tmp_path / "a") == hash_tree(tmp_path / "b")
    record = json.loads((tmp_path / "a" / "manifest.json").read_text(encoding="utf-8"))
    assert record["facts"] == {"bleu": 1.5}
    assert set(record["versions"]) == {"kdmt", "numpy", "sacrebleu", "sentencepiece", "subword-nmt", "torch"}


def test_json_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"umlaut": "ä"})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"umlaut": "ä"}


def test_a_changed_file_has_another_hash_in_the_same_process(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    first = known_sha256(path)
    path.write_bytes(b"22")
    assert known_sha256(path) != first
