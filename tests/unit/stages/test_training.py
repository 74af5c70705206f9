"""The teacher and student stages through the command line: what is redone, what goes on, where weights come from."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_pipeline import (
    MODEL,
    TEACHER_TRAIN,
    Finished,
    hash_tree,
    kdmt,
    run_stages,
    settings,
    to_yaml,
    write_lines,
    write_pipeline,
)

from kdmt.config import Train
from kdmt.train.run_folder import RunFolder
from kdmt.train.schedule import inverse_sqrt

TINY = Path("runs/tiny")
TEACHER = TINY / "teacher"
RAW = TINY / "students/raw/seed_1"

# With a learning rate this small no float32 weight moves: what is saved is what training began with.
STILL = ("lr=1e-30", "warmup_init_lr=0.0", "max_updates=2", "validate_interval_updates=2")


def student(name: str, *sets: str) -> Finished:
    return kdmt("student", "tiny.yaml", "--student", name, *(part for setting in sets for part in ("--set", setting)))


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == kind]


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    measured = ("seconds", "tokens_per_second", "data_wait", "memory_gb")
    return [{k: v for k, v in line.items() if k not in measured} for line in lines]


def results(run: Path) -> dict[str, str]:
    """What a training gives: every file of its checkpoints and their pointers."""
    return {k: v for k, v in hash_tree(run).items() if k.startswith(("checkpoint_", "best", "last", "average"))}


# ------------------------------------------------------------------------------------------------- what is up to date


@pytest.mark.usefixtures("finished")
def test_settings_of_execution_change_nothing() -> None:
    made = hash_tree(Path("runs"))
    sets = ["teacher.train.save_interval_updates=1", "teacher.train.log_interval_updates=7", "teacher.train.threads=2"]
    assert run_stages("teacher", sets=sets)[0].err == "teacher: up to date, nothing to do\n"
    assert hash_tree(Path("runs")) == made


@pytest.mark.usefixtures("finished")
def test_a_setting_of_the_result_makes_it_anew_and_keeps_the_old_one() -> None:
    made = hash_tree(RAW)
    result = student("raw", "students.raw.train.lr=0.02")
    assert result.code == 0
    reason = "the setting students.raw.train.lr changed from 0.01 to 0.02"
    assert f"student raw seed 1: made anew: {reason} (the old one is kept as seed_1.previous)\n" in result.err
    assert hash_tree(RAW.with_name("seed_1.previous")) == made
    assert results(RAW) != results(RAW.with_name("seed_1.previous"))


LINKED = ["prepare", "teacher", "distill", "students/raw", "students/distilled/seed_1", "score"]


@pytest.mark.usefixtures("finished")
def test_stages_on_another_disk_are_redone_there(other_disk: Path) -> None:
    """And taken back there: links stay links, and no state changes disks, whatever the kind of stage."""
    for number, name in enumerate(LINKED):
        shutil.move(TINY / name, other_disk / f"{number}")
        (TINY / name).symlink_to(other_disk / f"{number}")
    made = {name: hash_tree(TINY / name) for name in LINKED}
    stages = ("prepare", "teacher", "distill", "student", "score")
    for finished in run_stages(*stages):
        assert "made anew" not in finished.err
    run_stages(*stages, sets=["prepare.tokenizer.vocab_size=31"])
    assert all((TINY / name).is_symlink() for name in LINKED)
    assert not [path for path in TINY.glob("**/*.previous") if not path.is_symlink()]
    kept = {"0.previous": "prepare", "1.previous": "teacher", "2.previous": "distill", "5.previous": "score"}
    for state, name in kept.items():
        there = hash_tree(other_disk / state)
        assert {file: there[file] for file in made[name]} == made[name]
    for finished in run_stages(*stages):
        assert ": taken back from " in finished.err
        assert "made anew" not in finished.err
    assert all((TINY / name).is_symlink() for name in LINKED)
    for name in LINKED:
        there = hash_tree(TINY / name)
        assert {file: there[file] for file in made[name]} == made[name]


class Killed(BaseException):
    """Leaves on disk what a kill at the same place leaves."""


GIVEN_A_RUN = {
    "translate": lambda: kdmt("translate", RAW, stdin=b"ba be bi\n"),
    "generate": lambda: kdmt("generate", "runs/tiny/prepare/data-bin", "--path", RAW, "--cpu"),
    "export": lambda: kdmt("export", "--to", "ctranslate2", RAW, "exported"),
    "rescore": lambda: kdmt("rescore", RAW, "text/test.en", "text/test.de", "--workers", "1"),
    "init_from": lambda: student("distilled", f"students.distilled.train.init_from={RAW}"),
    "distill.teachers": lambda: kdmt("distill", "tiny.yaml", "--set", f"distill.teachers=[{RAW}]"),
    "word_kd.teachers": lambda: student("distilled", f"students.distilled.word_kd={{teachers: [{RAW}]}}"),
}


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("command", GIVEN_A_RUN)
def test_whoever_is_given_a_run_that_was_being_extended_gets_the_average_of_its_end(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it wrote its average, the run stands for the one that it would have written."""
    before = hash_tree(RAW / "average")

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_average", kill)
        with pytest.raises(Killed):
            student("raw", "students.raw.train.max_updates=8")
    assert hash_tree(RAW / "average") == before
    result = GIVEN_A_RUN[command]()
    assert result.code == 0, result.err
    average = hash_tree(RAW / "average")
    assert student("raw", "students.raw.train.max_updates=8").code == 0
    assert hash_tree(RAW / "average") == average
    assert average["model.safetensors"] != before["model.safetensors"]
    assert (RAW / "average/average_of").read_text() == "6\n8\n"


@pytest.mark.usefixtures("finished")
def test_more_updates_go_on_from_what_is_there_to_where_a_longer_run_ends() -> None:
    result = student("raw", "students.raw.train.max_updates=6")
    assert "going on: the setting students.raw.train.max_updates changed from 4 to 6" in result.err
    assert "going on from checkpoint_4" in result.err
    extended, lines = results(RAW), metrics(RAW, "train")
    assert not RAW.with_name("seed_1.previous").exists()
    shutil.rmtree(RAW)
    assert student("raw", "students.raw.train.max_updates=6").code == 0
    assert results(RAW) == extended
    assert without_times(metrics(RAW, "train")) == without_times(lines)
    assert [line["update"] for line in lines] == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("finished")
def test_more_seeds_are_more_runs() -> None:
    result = student("raw", "students.raw.seeds=[1, 2]")
    assert "student raw seed 1: up to date, nothing to do\n" in result.err
    assert "student raw seed 2: starting\n" in result.err
    other = RAW.with_name("seed_2")
    assert results(other).keys() == results(RAW).keys()
    assert results(other) != results(RAW)


@pytest.mark.usefixtures("finished")
def test_a_stale_stage_stops_its_dependants_and_harms_nothing() -> None:
    made = hash_tree(Path("runs"))
    for stage in ("distill", "student", "score"):
        result = kdmt(stage, "tiny.yaml", "--set", "teacher.train.lr=0.5")
        if stage == "student":  # the first one, on raw data, does not build on the teacher
            assert "student raw seed 1: up to date" in result.err
        assert result.code == 2
        assert result.err.splitlines()[-1] == (
            "kdmt: error: teacher is not up to date: the setting teacher.train.lr changed from 0.02 to 0.5. "
            "Run `kdmt teacher` first, or give --rebuild to bring every stage before this one up to date"
        )
    assert hash_tree(Path("runs")) == made


@pytest.mark.usefixtures("finished")
def test_rebuild_makes_everything_before_a_stage() -> None:
    result = kdmt("distill", "tiny.yaml", "--rebuild", "--set", "prepare.clean.max_words=100")
    assert result.code == 0
    announced = [line for line in result.err.splitlines() if "made anew" in line]
    assert [line.partition(":")[0] for line in announced] == ["prepare"]  # whose files are the same as before
    assert "distill: up to date, nothing to do" in result.err


@pytest.mark.usefixtures("finished")
def test_a_student_on_distilled_data_builds_on_distill() -> None:
    (TINY / "distill" / "distilled.de").write_text("edited by hand\n", encoding="utf-8")
    result = student("distilled")
    assert result.code == 2
    assert "distill is not up to date: its output distilled.de was changed" in result.err
    assert student("raw").err == "student raw seed 1: up to date, nothing to do\n"


@pytest.mark.usefixtures("finished")
def test_raw_and_distilled_data_mixed() -> None:
    result = student("raw", "students.raw.data=mixed")
    assert result.code == 0
    assert f"{2 * 80} pairs" in result.err
    manifest = json.loads((TINY / "students/raw/seed_1/manifest.json").read_text(encoding="utf-8"))
    assert {name.split("/")[0] for name in manifest["inputs"] if "train.en-de" in name} == {"prepare", "distill"}


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("online", "term"),
    [
        ("word_kd={divergence: js}", "word_kd"),
        ("word_kd={mutual_information: 0.1},teacher_precision=bf16_output", "mutual_information"),
        ("word_kd={},online={kind: ema}", "word_kd"),
        ("word_kd={},online={kind: mutual, peers: 2}", "peer_2"),
        ("word_kd={},hidden_kd={},attention_kd={}", "attention"),
        ("word_kd={},on_policy={rate: 1.0, max_len_b: 5},self_supervised={}", "self_supervised"),
        ("word_kd={},online={kind: joint, model: JOINT},hidden_kd={}", "teacher_1"),
        ("nat={family: ctc, upsample: 2, glancing: [[0, 0.5]]}", "nll"),
        ("nat={family: dag, upsample: 4},hidden_kd={decoder: none}", "hidden"),
        ("nat={family: cmlm},word_kd={},attention_kd={}", "attention"),
        ("nat={family: nat, glancing: [[0, 0.5]]},hidden_kd={},self_supervised={}", "length"),
        ("nat={family: cmlm, correction: 0.5}", "length"),
        ("nat={family: inat, source_copy: soft},word_kd={}", "word_kd"),
        ("nat={family: nat_crf, crf_candidates: 8}", "crf"),
        ("nat={family: dag, upsample: 2, too_long: upsample, glancing: [[0, 0.5]]}", "nll"),
        ("nat={family: levenshtein},embeddings_from_teacher=true", "deletion"),
        ("nat={family: insertion},attention_kd={decoder_self: none, cross: none}", "attention"),
        ("nat={family: insertion},encoder_layers_from_teacher=[0]", "nll"),
    ],
)
def test_objectives_go_on_exactly(online: str, term: str) -> None:
    """Whatever a student learns from: stopped and started again by the stage it ends where one ends that was not."""
    joint = json.dumps(MODEL | {"encoder_layers": 2})
    sets = [f"students.raw.{each.replace('JOINT', joint)}" for each in re.split(r",(?=[a-z_]+=)", online)]
    assert student("raw", *sets).code == 0
    straight = results(RAW)
    figures = [line[term] for line in metrics(RAW, "train")]
    assert all(math.isfinite(figure) for figure in figures)
    assert figures[0] != 0.0
    stop_after_checkpoint_2()
    assert "going on from checkpoint_2" in student("raw", *sets).err
    assert results(RAW) == straight


def stop_after_checkpoint_2() -> None:
    """Leave what a run leaves that was killed then."""
    end_before_the_manifest(RAW)
    for name in ("checkpoint_4", "average"):
        shutil.rmtree(RAW / name)


@pytest.mark.usefixtures("pipeline")
def test_a_student_guesses_at_monolingual_text_too() -> None:
    document = settings()
    write_lines(Path("text/mono.en"), ["ba be bi", "ga ge gi ga"])
    document["prepare"]["monolingual"] = [{"path": "text/mono.en"}]
    raw = document["students"]["raw"]
    document["students"] = {
        "raw": raw,
        "alone": {**raw, "self_supervised": {}},
        "more": {**raw, "self_supervised": {"monolingual": True}},
    }
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare", "student")
    runs = {name: TINY / "students" / name / "seed_1" for name in document["students"]}
    guesses = {name: metrics(run, "train")[0].get("self_supervised") for name, run in runs.items()}
    assert guesses["raw"] is None
    assert 0 < guesses["alone"] != guesses["more"] > 0
    made_from = {name: json.loads((run / "manifest.json").read_text())["inputs"] for name, run in runs.items()}
    extra = {"prepare/data-bin/monolingual.en-de.en.bin", "prepare/data-bin/monolingual.en-de.en.idx"}
    assert set(made_from["more"]) - set(made_from["alone"]) == extra
    assert (runs["alone"] / "last").exists()
    assert weights(runs["alone"] / "checkpoint_4").keys() == weights(runs["raw"] / "checkpoint_4").keys()


@pytest.mark.usefixtures("finished")
def test_unknown_and_absent_students() -> None:
    result = student("rwa")
    assert result.code == 2
    assert result.err == "kdmt: error: there is no student 'rwa'; the pipeline has raw, distilled\n"
    result = kdmt("student", "tiny.yaml", "--set", "students={}")
    assert (result.code, result.err) == (0, "student: the pipeline has none, nothing to do\n")


# ------------------------------------------------------------------------------------------ models that cannot be built


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.model.arch=transfomer", "teacher.model.arch: 'transfomer' is none of transformer, transformer_tiny"),
        (
            "students.raw.model.encoder_attention_heads=3",
            "students.raw.model.encoder_embed_dim (16) is not a multiple of its attention heads (3)",
        ),
        (
            "students.raw.model.decoder_embed_dim=32",
            "students.raw.model.share_all_embeddings needs encoder_embed_dim equal to decoder_embed_dim",
        ),
        (
            "prepare.vocabulary.joined=false",
            "teacher.model.share_all_embeddings needs 'prepare.vocabulary.joined: true'",
        ),
        (
            "students.raw.encoder_layers_from_teacher=[0, 0]",
            "students.raw.encoder_layers_from_teacher: 2 layers are chosen, the student has 1",
        ),
        (
            "students.raw.decoder_layers_from_teacher=[1]",
            "students.raw.decoder_layers_from_teacher: the teacher has no layer 1, only 0 to 0",
        ),
        (
            "students.raw={encoder_layers_from_teacher: [0, 0], model: {arch: transformer_tiny}}",
            "students.raw.encoder_layers_from_teacher: encoder_embed_dim is 64 in the student and 16 in the teacher",
        ),
        (
            "teacher.train.max_target_tokens=65",
            "teacher.train.max_target_tokens (65) is more than teacher.model.max_target_positions (64)",
        ),
    ],
)
@pytest.mark.usefixtures("pipeline")
def test_a_model_that_cannot_be_built_is_told_before_the_first_stage(override: str, message: str) -> None:
    result = kdmt("prepare", "tiny.yaml", "--set", override)
    assert result.code == 2
    assert result.err.startswith(f"kdmt: error: {message}")
    assert not Path("runs").exists()


# --------------------------------------------------------------------------------------------- where weights come from


@pytest.mark.usefixtures("finished")
def test_a_student_begins_with_the_layers_chosen_from_its_teacher() -> None:
    sets = [f"students.raw.train.{setting}" for setting in STILL]
    sets += ["students.raw.model.encoder_layers=3", "students.raw.encoder_layers_from_teacher=[0, 0, 0]"]
    assert student("raw", *sets).code == 0
    own, teacher = weights(RAW / "checkpoint_2"), weights(TEACHER / "average")
    for name, value in own.items():
        side, _, rest = name.partition(".")
        taken = side == "encoder_layers"
        source = f"encoder_layers.0.{rest.partition('.')[2]}" if taken else name
        if taken or not _is_norm_or_bias(name):
            assert np.array_equal(value, teacher[source]) == taken, name


def _is_norm_or_bias(name: str) -> bool:
    """These begin as zeros and ones in every model."""
    return name.endswith("bias") or "norm" in name


@pytest.mark.usefixtures("finished")
def test_a_student_begins_with_its_teachers_embeddings() -> None:
    sets = [f"students.raw.train.{setting}" for setting in STILL]
    assert student("raw", *sets, "students.raw.embeddings_from_teacher=true").code == 0
    own, teacher = weights(RAW / "checkpoint_2"), weights(TEACHER / "average")
    same = {name for name, value in own.items() if not _is_norm_or_bias(name) and np.array_equal(value, teacher[name])}
    assert same == {name for name in own if "embed" in name and not _is_norm_or_bias(name)} != set()
    manifest = json.loads((RAW / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["inputs"]["teacher"] == hash_tree(TEACHER)["average/model.safetensors"]


@pytest.mark.usefixtures("finished")
def test_fine_tuning_begins_with_a_checkpoint_and_a_fresh_optimiser() -> None:
    sets = [f"students.raw.train.{setting}" for setting in STILL]
    assert student("raw", *sets, f"students.raw.train.init_from={TEACHER}/checkpoint_40").code == 0
    for name, value in weights(TEACHER / "checkpoint_40").items():
        assert np.array_equal(value, weights(RAW / "checkpoint_2")[name])
    steps = [v for k, v in load_file(RAW / "checkpoint_2/training_state.safetensors").items() if k.startswith("step.")]
    assert {float(step) for step in steps} == {2.0}


@pytest.mark.usefixtures("finished")
def test_fine_tuning_may_keep_the_optimiser_and_its_schedule() -> None:
    sets = [f"students.raw.train.init_from={TEACHER}/checkpoint_40", "students.raw.train.init_optimizer=true"]
    assert student("raw", *sets).code == 0
    steps = [v for k, v in load_file(RAW / "checkpoint_2/training_state.safetensors").items() if k.startswith("step.")]
    assert {float(step) for step in steps} == {42.0}
    schedule = Train.model_validate(settings()["students"]["raw"]["train"])
    for line in metrics(RAW, "train"):
        assert math.isclose(line["lr"], inverse_sqrt(40 + line["update"] - 1, schedule))


@pytest.mark.usefixtures("finished")
def test_the_optimiser_can_be_kept_only_where_it_was_saved() -> None:
    made = hash_tree(RAW)
    sets = ["students.raw.train.init_from=runs/tiny/teacher/average", "students.raw.train.init_optimizer=true"]
    result = student("raw", *sets)
    assert result.code == 2
    assert "runs/tiny/teacher/average: holds no training state" in result.err
    assert hash_tree(RAW) == made


@pytest.mark.usefixtures("finished")
def test_a_checkpoint_to_begin_with_is_an_input() -> None:
    sets = ["students.raw.train.init_from=start"]
    assert "start: neither a checkpoint folder nor a run that has one" in student("raw", *sets).err
    shutil.copytree(TEACHER / "checkpoint_40", "start")
    assert student("raw", *sets).code == 0
    assert "up to date" in student("raw", *sets).err
    shutil.rmtree("start")
    shutil.copytree(TEACHER / "checkpoint_60", "start")
    assert "the input init_from start changed" in student("raw", *sets).err
    Path("start/checksums.json").unlink()
    result = student("raw", *sets)
    assert result.code == 2
    assert "start: not a checkpoint: it has no checksums.json" in result.err


# ------------------------------------------------------------------------------------------------- after a sudden end


def end_before_the_manifest(run: Path) -> None:
    """The state of a run that was killed before it was complete."""
    record = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    (run / "manifest.json").unlink()
    plan = {key: record[key] for key in ("settings", "extend", "inputs")}
    (run / "plan.json").write_text(json.dumps(plan), encoding="utf-8")


@pytest.mark.usefixtures("finished")
def test_pointers_that_a_kill_kept_from_being_written_are_written_on_resuming() -> None:
    expected = results(RAW)
    end_before_the_manifest(RAW)
    shutil.rmtree(RAW / "average")
    (RAW / "best").unlink()
    (RAW / "last").write_text("checkpoint_2\n", encoding="utf-8")
    (RAW / ".partial-checkpoint_6").mkdir()
    (RAW / ".partial-checkpoint_6" / "model.safetensors").write_bytes(b"half")
    result = student("raw")
    assert result.code == 0
    assert "student raw seed 1: going on: it was started and not finished\n" in result.err
    assert results(RAW) == expected
    assert not list(RAW.glob(".partial-*"))


@pytest.mark.usefixtures("finished")
def test_a_damaged_checkpoint_is_passed_over_and_written_again() -> None:
    expected, lines = results(RAW), without_times(metrics(RAW, "train"))
    end_before_the_manifest(RAW)
    path = RAW / "checkpoint_4" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x00")
    with (RAW / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "train", "upd')  # cut short
    result = student("raw")
    assert "passed over: runs/tiny/students/raw/seed_1/checkpoint_4/model.safetensors: damaged" in result.err
    assert "going on from checkpoint_2" in result.err
    assert results(RAW) == expected
    assert without_times(metrics(RAW, "train")) == lines


# ------------------------------------------------------------------------------------------------ what a teacher said


@pytest.mark.usefixtures("finished")
def test_a_student_learns_from_a_cache_and_goes_on_exactly() -> None:
    """Of both training sets, with a queue that is remembered from batch to batch."""
    sets = [
        "students.raw.data=mixed",
        "students.raw.word_kd={source: cache, select: global, queue: 300, temperature: 2.0, top1_ranking: 2}",
        "knowledge={k: 4, temperatures: [1.0, 2.0], block_size: 30, threads: 1}",
    ]
    run_stages("knowledge", sets=sets)
    assert student("raw", *sets).code == 0
    manifest = json.loads((RAW / "manifest.json").read_text(encoding="utf-8"))
    for data in ("raw", "distilled"):
        header = hash_tree(TINY / "knowledge" / data)["knowledge.json"]
        assert manifest["inputs"][f"knowledge/{data}"] == header
    expected, lines = results(RAW), without_times(metrics(RAW, "train"))
    for line in lines:
        assert 0.0 < line["word_kd"] < math.inf
        assert 0.0 < line["taught"] < 1.0
    stop_after_checkpoint_2()
    assert "going on from checkpoint_2" in student("raw", *sets).err
    assert results(RAW) == expected
    assert without_times(metrics(RAW, "train")) == lines


@pytest.mark.usefixtures("pipeline")
def test_a_teacher_alone_can_be_trained_with_separate_vocabularies() -> None:
    document = settings()
    document["prepare"]["tokenizer"] = {"joint": False, "vocab_size": 20}
    document["prepare"]["vocabulary"] = {"joined": False}
    document["teacher"]["model"]["share_all_embeddings"] = False
    document["teacher"]["train"] = TEACHER_TRAIN | {"max_updates": 1}
    del document["students"]
    write_pipeline(Path(), document)
    assert run_stages("prepare", "teacher")
    sizes = [len((TINY / f"prepare/dict.{lang}.txt").read_text("utf-8").splitlines()) + 4 for lang in ("en", "de")]
    shape = json.loads((TEACHER / "average/model.json").read_text(encoding="utf-8"))
    assert [shape["src_vocab_size"], shape["tgt_vocab_size"]] == sizes
