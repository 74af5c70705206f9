"""The teacher and student stages through the command line: what is up to date, rebuilt or continued."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_pipeline import (
    hash_tree,
    kdmt,
    run_stages,
)
from training_runs import (
    RAW,
    TEACHER,
    TINY,
    metrics,
    results,
    student,
    without_times,
)

from kdmt.train.run_folder import RunFolder

# ------------------------------------------------------------------------------------------------- what is up to date


@pytest.mark.usefixtures("finished")
def test_settings_of_execution_change_nothing() -> None:
    made = hash_tree(Path("runs"))
    sets = ["teacher.train.save_interval_updates=1", "teacher.train.log_interval_updates=7", "teacher.train.threads=2"]
    assert run_stages("teacher", sets=sets)[0].err == "teacher: up to date, nothing to do\n"
    assert hash_tree(Path("runs")) == made


@pytest.mark.usefixtures("finished")
def test_a_setting_of_the_result_rebuilds_a_stage_and_keeps_the_old_one() -> None:
    made = hash_tree(RAW)
    result = student("raw", "students.raw.train.lr=0.02")
    assert result.code == 0
    reason = "the setting students.raw.train.lr changed from 0.01 to 0.02"
    assert f"student raw seed 1: rebuilt: {reason} (the old one is kept as seed_1.previous)\n" in result.err
    assert hash_tree(RAW.with_name("seed_1.previous")) == made
    assert results(RAW) != results(RAW.with_name("seed_1.previous"))


LINKED = ["prepare", "teacher", "distill", "students/raw", "students/distilled/seed_1", "score"]


@pytest.mark.usefixtures("finished")
def test_stages_on_another_disk_are_rebuilt_there(other_disk: Path) -> None:
    """Check that states are kept and taken back on the other disk: links stay links, for every kind of stage."""
    for number, name in enumerate(LINKED):
        shutil.move(TINY / name, other_disk / f"{number}")
        (TINY / name).symlink_to(other_disk / f"{number}")
    made = {name: hash_tree(TINY / name) for name in LINKED}
    stages = ("prepare", "teacher", "distill", "student", "score")
    for finished in run_stages(*stages):
        assert "rebuilt" not in finished.err
    run_stages(*stages, sets=["prepare.tokenizer.vocab_size=31"])
    assert all((TINY / name).is_symlink() for name in LINKED)
    assert not [path for path in TINY.glob("**/*.previous") if not path.is_symlink()]
    kept = {"0.previous": "prepare", "1.previous": "teacher", "2.previous": "distill", "5.previous": "score"}
    for state, name in kept.items():
        there = hash_tree(other_disk / state)
        assert {file: there[file] for file in made[name]} == made[name]
    for finished in run_stages(*stages):
        assert ": taken back from " in finished.err
        assert "rebuilt" not in finished.err
    assert all((TINY / name).is_symlink() for name in LINKED)
    for name in LINKED:
        there = hash_tree(TINY / name)
        assert {file: there[file] for file in made[name]} == made[name]


class Killed(BaseException):
    """An exception that ends training like a kill at the same point, with the same files."""


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
def test_a_run_with_an_interrupted_extension_is_read_as_the_average_of_its_end(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check a run that was killed before it wrote the average of its extension: it is read as that average."""
    before = hash_tree(RAW / "average")

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_averages", kill)
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
@pytest.mark.parametrize("command", GIVEN_A_RUN)
def test_auto_of_a_run_is_accepted_wherever_a_run_is(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "RAW", RAW / "auto")
    result = GIVEN_A_RUN[command]()
    assert result.code == 0, result.err


@pytest.mark.usefixtures("finished")
def test_more_updates_extend_a_run_to_the_same_end_as_a_longer_run() -> None:
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


COSINE = (
    "students.raw.train.lr_schedule=cosine",
    "students.raw.train.warmup_updates=1",
)


@pytest.mark.usefixtures("finished")
def test_a_run_whose_schedule_ends_with_max_updates_is_rebuilt_and_not_extended() -> None:
    result = student("raw", *COSINE)
    assert "rebuilt: the setting students.raw.train.lr_schedule changed from 'inverse_sqrt' to 'cosine'" in result.err
    assert "train.max_updates" not in result.err  # its value is the same, although it is of another kind now
    assert student("raw", *COSINE).err.count("nothing to do") == 1
    made = results(RAW)
    result = student("raw", *COSINE, "students.raw.train.max_updates=6")
    assert (
        "rebuilt: the setting students.raw.train.max_updates changed from 4 to 6 (with 'lr_schedule: cosine' every "
        "learning rate depends on it, so the run cannot be extended)" in result.err
    )
    assert "going on from" not in result.err
    assert [line["update"] for line in metrics(RAW, "train")] == [1, 2, 3, 4, 5, 6]
    assert "taken back" in student("raw", *COSINE).err
    assert results(RAW) == made


@pytest.mark.usefixtures("finished")
def test_each_seed_is_a_run() -> None:
    result = student("raw", "students.raw.seeds=[1, 2]")
    assert "student raw seed 1: up to date, nothing to do\n" in result.err
    assert "student raw seed 2: starting\n" in result.err
    other = RAW.with_name("seed_2")
    assert results(other).keys() == results(RAW).keys()
    assert results(other) != results(RAW)


@pytest.mark.usefixtures("finished")
def test_a_stage_that_is_out_of_date_stops_its_dependants_and_changes_nothing() -> None:
    made = hash_tree(Path("runs"))
    for stage in ("distill", "student", "score"):
        result = kdmt(stage, "tiny.yaml", "--set", "teacher.train.lr=0.5")
        if stage == "student":  # the student on raw data does not depend on the teacher
            assert "student raw seed 1: up to date" in result.err
        assert result.code == 2
        assert result.err.splitlines()[-1] == (
            "kdmt: error: teacher is not up to date: the setting teacher.train.lr changed from 0.02 to 0.5. "
            "Run `kdmt teacher` first, or give --rebuild to bring every stage before this one up to date"
        )
    assert hash_tree(Path("runs")) == made


@pytest.mark.usefixtures("finished")
def test_rebuild_runs_all_stages_before_a_stage() -> None:
    result = kdmt("distill", "tiny.yaml", "--rebuild", "--set", "prepare.clean.max_words=100")
    assert result.code == 0
    announced = [line for line in result.err.splitlines() if "rebuilt" in line]
    assert [line.partition(":")[0] for line in announced] == ["prepare"]  # its files are the same as before
    assert "distill: up to date, nothing to do" in result.err


@pytest.mark.usefixtures("finished")
def test_a_student_on_distilled_data_depends_on_distill() -> None:
    (TINY / "distill" / "distilled.de").write_text("edited by hand\n", encoding="utf-8")
    result = student("distilled")
    assert result.code == 2
    assert "distill is not up to date: its output distilled.de was changed" in result.err
    assert student("raw").err == "student raw seed 1: up to date, nothing to do\n"


@pytest.mark.usefixtures("finished")
def test_raw_and_distilled_data_can_be_mixed() -> None:
    result = student("raw", "students.raw.data=mixed")
    assert result.code == 0
    assert f"{2 * 80} pairs" in result.err
    manifest = json.loads((TINY / "students/raw/seed_1/manifest.json").read_text(encoding="utf-8"))
    assert {name.split("/")[0] for name in manifest["inputs"] if "train.en-de" in name} == {"prepare", "distill"}


@pytest.mark.usefixtures("finished")
def test_unknown_and_missing_students_are_refused() -> None:
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
def test_a_model_that_cannot_be_built_is_refused_before_the_first_stage(override: str, message: str) -> None:
    result = kdmt("prepare", "tiny.yaml", "--set", override)
    assert result.code == 2
    assert result.err.startswith(f"kdmt: error: {message}")
    assert not Path("runs").exists()


# ----------------------------------------------------------------------------------------------------- initial weights


@pytest.mark.usefixtures("finished")
def test_an_initial_checkpoint_is_an_input() -> None:
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
