"""The teacher and student stages through the command line: what is up to date, rebuilt or continued."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from slow_parameters import some_of
from tiny_pipeline import (
    TEACHER_TRAIN,
    hash_tree,
    kdmt,
    run_stages,
    working_in,
)
from training_runs import (
    RAW,
    STILL,
    TEACHER,
    TINY,
    end_before_the_manifest,
    metrics,
    results,
    student,
    weights,
    without_times,
)

from kdmt.config import recipes
from kdmt.files import write_json
from kdmt.models.checkpoint_folder import resolve_checkpoint
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


@pytest.mark.slow
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


LONGER = "students.raw.train.max_updates=8"
GIVEN_A_RUN = {
    "translate": lambda: kdmt("translate", RAW, stdin=b"ba be bi\n"),
    "generate": lambda: kdmt("generate", "runs/tiny/prepare/data-bin", "--path", RAW, "--cpu"),
    "export": lambda: kdmt("export", "--to", "ctranslate2", RAW, "exported"),
    "rescore": lambda: kdmt("rescore", RAW, "text/test.en", "text/test.de", "--workers", "1"),
    "init_from": lambda: student("distilled", f"students.distilled.train.init_from={RAW}"),
    "distill.teachers": lambda: kdmt("distill", "tiny.yaml", "--set", f"distill.teachers=[{RAW}]"),
    "word_kd.teachers": lambda: student("distilled", f"students.distilled.word_kd={{teachers: [{RAW}]}}"),
}


@pytest.fixture(scope="module")
def interrupted(_finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a run that was killed before it wrote the average of its extension, and the files of that average."""
    folder = tmp_path_factory.mktemp("interrupted")
    shutil.copytree(_finished_once, folder, dirs_exist_ok=True)

    def kill(*_: object) -> None:
        raise Killed

    with working_in(folder):
        choice = json.loads((RAW / "chosen.json").read_text(encoding="utf-8"))
        write_json(RAW / "chosen.json", choice | {"checkpoint": "average"})
        before = hash_tree(RAW / "average")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunFolder, "write_averages", kill)
            with pytest.raises(Killed):
                student("raw", LONGER)
        assert hash_tree(RAW / "average") == before
        shutil.copytree(RAW, folder / "killed")
        assert student("raw", LONGER).code == 0
        average = hash_tree(RAW / "average")
        assert average["model.safetensors"] != before["model.safetensors"]
        assert (RAW / "average/average_of").read_text() == "6\n8\n"
    return folder / "killed", average


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("command", GIVEN_A_RUN)
def test_a_run_with_an_interrupted_extension_is_read_as_the_average_of_its_end(
    command: str, interrupted: tuple[Path, dict[str, str]]
) -> None:
    killed, average = interrupted
    shutil.rmtree(RAW)
    shutil.copytree(killed, RAW)
    result = GIVEN_A_RUN[command]()
    assert result.code == 0, result.err
    assert hash_tree(RAW / "average") == average


@pytest.mark.usefixtures("finished")
def test_an_interrupted_extension_is_finished_after_its_average_was_made(
    interrupted: tuple[Path, dict[str, str]],
) -> None:
    killed, average = interrupted
    shutil.rmtree(RAW)
    shutil.copytree(killed, RAW)
    assert GIVEN_A_RUN["translate"]().code == 0
    assert student("raw", LONGER).code == 0
    assert hash_tree(RAW / "average") == average


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("command", some_of(GIVEN_A_RUN, 3))
def test_auto_of_a_run_is_accepted_wherever_a_run_is(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "RAW", RAW / "auto")
    result = GIVEN_A_RUN[command]()
    assert result.code == 0, result.err


@pytest.mark.usefixtures("finished")
def test_a_choice_by_a_changed_setting_has_the_signature_of_the_metric_and_trains_nothing() -> None:
    chosen, checkpoint = json.loads((RAW / "chosen.json").read_text()), hash_tree(RAW / "checkpoint_4")
    assert chosen["of"] == "auto"
    assert "tok:" in chosen["signature"]
    result = student("raw", "students.raw.train.average=best")
    assert "'auto' is average_best" in result.err
    changed = json.loads((RAW / "chosen.json").read_text())
    assert (changed["of"], changed["signature"]) == ("best", chosen["signature"])
    assert hash_tree(RAW / "checkpoint_4") == checkpoint


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
def test_a_run_has_the_values_of_its_recipe_and_not_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = "students.raw.recipe=transformer_iwslt_de_en"
    result = student("raw", recipe)
    change = "the setting students.raw.train.weight_decay changed from 0.0 to 0.0001"
    assert f"; {change}" in result.err
    assert "students.raw.train.lr " not in result.err  # the file has a value
    saved = json.loads((RAW / "config.json").read_text(encoding="utf-8"))["students"]["raw"]
    assert (saved["recipe"], saved["train"]["weight_decay"]) == ("transformer_iwslt_de_en", 0.0001)
    assert (saved["train"]["lr"], saved["model"]["share_decoder_input_output_embed"]) == (0.01, True)

    written_out = [
        "students.raw.train.weight_decay=0.0001",
        "students.raw.model.share_decoder_input_output_embed=true",
    ]
    assert "nothing to do" in student("raw", *written_out).err

    later = json.loads(json.dumps(recipes.recipes()))  # as a later version may have it
    later["transformer_iwslt_de_en"]["train"]["weight_decay"] = 0.5
    monkeypatch.setattr(recipes, "recipes", lambda: later)
    result = student("raw", recipe)
    assert "rebuilt: the setting students.raw.train.weight_decay changed from 0.0001 to 0.5 (the old one" in result.err


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


# -------------------------------------------------------------------------------------------------- stages of a student

IN_STAGES = "students.raw.stages=[{max_updates: 4}, {data: distilled, lr: 0.004, patience: 3}]"
FIRST, SECOND = RAW / "stage_1", RAW / "stage_2"


def record(run: Path) -> dict[str, dict[str, object]]:
    return json.loads((run / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained_in_stages(_finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in_stages")
    shutil.copytree(_finished_once, folder, dirs_exist_ok=True)
    with working_in(folder):
        shutil.rmtree(RAW)
        result = student("raw", IN_STAGES)
        assert result.code == 0, result.err
    return folder / RAW


@pytest.fixture
def in_stages(trained_in_stages: Path, finished: Path) -> Path:
    """Return the working folder of a finished pipeline in which the student `raw` is trained in two stages."""
    shutil.rmtree(RAW)
    shutil.copytree(trained_in_stages, RAW)
    return finished


@pytest.mark.usefixtures("in_stages")
def test_each_stage_has_its_own_settings_data_and_checkpoint_of_the_stage_before() -> None:
    first, second = record(FIRST), record(SECOND)
    assert {name.partition("/")[0] for name in first["inputs"]} == {"prepare"}
    assert {name.partition("/")[0] for name in second["inputs"]} == {"prepare", "distill", "stage_1"}
    assert not [name for name in second["inputs"] if name.startswith("prepare/data-bin/train.")]
    chosen = json.loads((FIRST / "chosen.json").read_text())["checkpoint"]
    folder = FIRST / (FIRST / "best").read_text().strip() if chosen == "best" else FIRST / chosen
    assert second["inputs"]["stage_1"] == hash_tree(folder)["model.safetensors"]
    names = [f"students.raw.{name}" for name in ("data", "train.lr", "train.patience")]
    assert [first["settings"][name] for name in names] == ["raw", 0.01, 0]
    assert [second["settings"][name] for name in names] == ["distilled", 0.004, 3]
    assert [line["update"] for line in metrics(SECOND, "train")] == [1, 2, 3, 4]
    # of the last of 4 updates of warmup, the fourth of which reaches the learning rate
    assert [metrics(run, "train")[-1]["lr"] for run in (FIRST, SECOND)] == pytest.approx([0.0075, 0.003], rel=1e-4)


@pytest.mark.usefixtures("finished")
def test_the_first_stage_is_the_training_of_a_student_without_stages(trained_in_stages: Path) -> None:
    alone, settings_alone = results(RAW), record(RAW)["settings"]
    shutil.rmtree(RAW)
    shutil.copytree(trained_in_stages, RAW)
    assert results(FIRST) == alone
    assert record(FIRST)["settings"] == settings_alone


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("begin_from", ["best", "last", "average"])
def test_a_stage_begins_from_the_chosen_checkpoint_of_the_stage_before(begin_from: str) -> None:
    """With a learning rate this small no weight changes."""
    still = ", ".join(setting.replace("=", ": ") for setting in STILL)
    stages = f"students.raw.stages=[{{validate_interval_updates: 1}}, {{{still}, begin_from: {begin_from}}}]"
    shutil.rmtree(RAW)
    assert student("raw", stages).code == 0
    checkpoints = {name: resolve_checkpoint(FIRST / name) for name in ("best", "last", "average")}
    expected = weights(checkpoints[begin_from])
    for name, value in weights(SECOND / "checkpoint_2").items():
        assert np.array_equal(value, expected[name]), name
    others = {name for name, folder in checkpoints.items() if folder != checkpoints[begin_from]}
    assert others
    for name in others:
        assert not np.array_equal(
            weights(checkpoints[name])["src_embed.tokens.weight"], expected["src_embed.tokens.weight"]
        )


@pytest.mark.usefixtures("in_stages")
def test_stages_that_are_up_to_date_are_not_made_again() -> None:
    made = hash_tree(Path("runs"))
    assert student("raw", IN_STAGES).err == (
        "student raw seed 1 stage 1: up to date, nothing to do\nstudent raw seed 1 stage 2: up to date, nothing to do\n"
    )
    assert hash_tree(Path("runs")) == made


@pytest.mark.usefixtures("in_stages")
def test_a_change_of_a_stage_redoes_it_and_the_stages_after_it() -> None:
    first, second = hash_tree(FIRST), hash_tree(SECOND)
    result = student("raw", IN_STAGES, "students.raw.stages.1.lr=0.002")
    assert "student raw seed 1 stage 1: up to date, nothing to do\n" in result.err
    assert "student raw seed 1 stage 2: rebuilt: the setting students.raw.stages.1.lr changed" in result.err
    assert (hash_tree(FIRST), hash_tree(SECOND.with_name("stage_2.previous"))) == (first, second)
    assert "taken back from stage_2.previous" in student("raw", IN_STAGES).err
    assert hash_tree(SECOND) == second

    result = student("raw", IN_STAGES, "students.raw.stages.0.lr=0.02")
    assert "student raw seed 1 stage 1: rebuilt: the setting students.raw.stages.0.lr changed" in result.err
    assert "student raw seed 1 stage 2: rebuilt: the input stage_1 changed" in result.err


@pytest.mark.usefixtures("in_stages")
def test_more_updates_extend_the_last_stage() -> None:
    result = student("raw", IN_STAGES, "students.raw.stages.1.max_updates=6")
    assert "stage 2: going on: the setting students.raw.stages.1.max_updates changed from 4 to 6" in result.err
    assert "going on from checkpoint_4" in result.err
    extended = results(SECOND)
    shutil.rmtree(SECOND)
    assert student("raw", IN_STAGES, "students.raw.stages.1.max_updates=6").code == 0
    assert results(SECOND) == extended


@pytest.mark.usefixtures("in_stages")
@pytest.mark.parametrize("killed", ["in the first stage", "between the stages", "in the second stage"])
def test_stages_resume_exactly(killed: str) -> None:
    straight = {run: results(run) for run in (FIRST, SECOND)}
    if killed != "in the second stage":
        shutil.rmtree(SECOND)
    if killed != "between the stages":
        run = FIRST if killed == "in the first stage" else SECOND
        end_before_the_manifest(run)
        for name in ("checkpoint_4", "average"):
            shutil.rmtree(run / name)
    result = student("raw", IN_STAGES)
    assert result.code == 0
    assert ("going on from checkpoint_2" in result.err) == (killed != "between the stages")
    assert ("stage 1: up to date" in result.err) == (killed != "in the first stage")
    assert {run: results(run) for run in (FIRST, SECOND)} == straight


@pytest.mark.usefixtures("in_stages")
def test_a_stage_of_an_older_version_keeps_the_order_of_batches_that_it_began_with() -> None:
    """Such a record has no number of the order."""
    assert (record(SECOND)["settings"]["batch_order"], "batch_order" in record(FIRST)["settings"]) == (2, False)
    own = results(SECOND)
    values = record(SECOND)
    del values["settings"]["batch_order"]
    shutil.rmtree(SECOND)
    SECOND.mkdir()
    write_json(SECOND / "plan.json", {name: values[name] for name in ("settings", "extend", "inputs")})
    assert student("raw", IN_STAGES).code == 0
    assert record(SECOND)["settings"]["batch_order"] == 1
    straight = results(SECOND)
    assert straight != own
    values = record(SECOND)
    del values["settings"]["batch_order"]
    write_json(SECOND / "manifest.json", values)
    assert "stage 2: up to date, nothing to do" in student("raw", IN_STAGES).err
    end_before_the_manifest(SECOND)
    for name in ("checkpoint_4", "average"):
        shutil.rmtree(SECOND / name)
    assert "going on from checkpoint_2" in student("raw", IN_STAGES).err
    assert results(SECOND) == straight


@pytest.mark.usefixtures("finished")
def test_a_loss_with_memory_resumes_exactly_in_a_later_stage() -> None:
    stages = "students.raw.stages=[{}, {data: mixed, word_kd: {select: global, queue: 50}, online: {kind: ema}}]"
    shutil.rmtree(RAW)
    assert student("raw", stages).code == 0
    straight = results(SECOND)
    end_before_the_manifest(SECOND)
    for name in ("checkpoint_4", "average"):
        shutil.rmtree(SECOND / name)
    assert "going on from checkpoint_2" in student("raw", stages).err
    assert results(SECOND) == straight


@pytest.mark.usefixtures("in_stages")
def test_each_seed_runs_all_stages() -> None:
    result = student("raw", IN_STAGES, "students.raw.seeds=[1, 2]")
    lines = [line for line in result.err.splitlines() if line.endswith((": starting", "nothing to do"))]
    assert lines == [
        "student raw seed 1 stage 1: up to date, nothing to do",
        "student raw seed 1 stage 2: up to date, nothing to do",
        "student raw seed 2 stage 1: starting",
        "student raw seed 2 stage 2: starting",
    ]
    for stage in ("stage_1", "stage_2"):
        assert results(RAW.with_name("seed_2") / stage) != results(RAW / stage)


@pytest.mark.usefixtures("finished")
def test_a_stage_of_a_non_autoregressive_student_has_its_own_loss_and_the_same_model() -> None:
    shutil.rmtree(RAW)
    stages = "students.raw.stages=[{}, {data: distilled, nat: {glancing: [[0, 0.5]]}}]"
    assert student("raw", "students.raw.nat={family: ctc, upsample: 2}", stages).code == 0
    settings = [record(run)["settings"] for run in (FIRST, SECOND)]
    assert [each["students.raw.nat.glancing"] for each in settings] == [None, [[0, 0.5]]]
    assert weights(resolve_checkpoint(FIRST)).keys() == weights(resolve_checkpoint(SECOND)).keys()


@pytest.mark.usefixtures("finished")
def test_a_student_with_ssrus_is_trained_translates_and_is_not_exported_to_ctranslate2() -> None:
    shutil.rmtree(RAW)
    model = "students.raw.model={arch: student_tiny, decoder_layers: 2, tied_decoder_layers: true, "
    sizes = {f"{side}_{name}": 16 for side in ("encoder", "decoder") for name in ("embed_dim", "ffn_embed_dim")}
    settings = model + json.dumps(sizes)[1:-1].replace('"', "") + "}"
    assert student("raw", settings).code == 0
    assert student("raw", settings).err.endswith("student raw seed 1: up to date, nothing to do\n")
    config = json.loads((resolve_checkpoint(RAW) / "model.json").read_text())["config"]
    assert (config["layout"], config["decoder"], config["tied_decoder_layers"]) == ("marian", "ssru", True)
    translated = kdmt("translate", str(RAW), stdin=b"ba be\n")
    assert (translated.code, translated.out.count("\n")) == (0, 1)
    refused = kdmt("export", "--to", "ctranslate2", str(RAW), "out")
    assert refused.code == 2
    assert "SSRUs" in refused.err
    assert not Path("out").exists()


@pytest.mark.usefixtures("finished")
def test_only_a_stage_that_learns_from_a_cache_needs_it() -> None:
    stages = "students.raw.stages=[{}, {word_kd: {source: cache}}]"
    result = student("raw", stages)
    assert "student raw seed 1 stage 1: starting\n" in result.err
    assert result.code == 2
    assert "knowledge of raw is not up to date: it was never made. Run `kdmt knowledge` first" in result.err
    assert kdmt("knowledge", "tiny.yaml", "--set", stages).code == 0
    assert student("raw", stages).code == 0
    assert "knowledge/raw" in record(SECOND)["inputs"]
    assert "knowledge/raw" not in record(FIRST)["inputs"]


@pytest.mark.usefixtures("in_stages")
def test_a_stage_may_learn_from_the_stage_before_and_not_from_itself() -> None:
    teachers = "students.raw.stages.1.word_kd.teachers"
    for path in (SECOND, RAW):
        result = student("raw", IN_STAGES, f"students.raw.stages.1.word_kd={{teachers: [{path}]}}")
        assert result.code == 2
        assert f"{teachers}.0: student raw seed 1 stage 2 would be made from itself: {SECOND} lies in its" in result.err
    result = student("raw", IN_STAGES, f"students.raw.stages.1.word_kd={{teachers: [{FIRST}]}}")
    assert result.code == 0, result.err


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
        (
            "students.raw.stages=[{}, {max_target_tokens: 65}]",
            "students.raw.stages.1.max_target_tokens (65) is more than students.raw.model.max_target_positions (64)",
        ),
        (
            "students.raw.stages=[{nat: {family: ctc}}, {nat: {family: dag}}]",
            "students.raw.stages.1.nat.family: 'dag' has other parameters than 'ctc' in the first stage: all stages",
        ),
        (
            "students.raw={model: {arch: transformer_tiny}, nat: {family: ctc, deep_supervision: 1.0}, "
            "stages: [{}, {nat: {dslp: true}}]}",
            "students.raw.stages.1.nat.dslp: True has other parameters than False in the first stage: all stages",
        ),
        (
            "students.raw.stages=[{}, {nat: {family: ctc}}]",
            "students.raw.stages.1.nat: the first stage trains an autoregressive model, this one a non-autoregressive",
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


# ------------------------------------------------------------------------------------------------- stages of a teacher

SHORT = ("teacher.train.max_updates=4", "teacher.train.validate_interval_updates=2")
TEACHER_STAGES = (*SHORT, "teacher.stages=[{}, {lr: 0.004, max_updates: 3, begin_from: last}]")


@pytest.mark.usefixtures("pipeline")
def test_a_teacher_in_stages_is_read_as_its_last_stage_and_resumes_exactly() -> None:
    run_stages("prepare", "teacher", sets=SHORT)
    whole = results(TEACHER)
    run_stages("teacher", sets=TEACHER_STAGES)
    first, second = TEACHER / "stage_1", TEACHER / "stage_2"
    assert results(first) == whole  # the run without stages is the one of the first stage
    made = record(second)
    assert made["inputs"]["stage_1"] == hash_tree(first / "checkpoint_4")["model.safetensors"]
    rates = [record(run)["settings"]["teacher.train.lr"] for run in (first, second)]
    assert rates == [TEACHER_TRAIN["lr"], 0.004]
    assert made["settings"]["batch_order"] == 2
    assert not [name for name in made["settings"] if name.startswith(("teacher.stages", "teacher.begin_from"))]
    assert (TEACHER / "last").read_text() == "stage_2\n"
    assert resolve_checkpoint(TEACHER / "average") == second / "average"

    straight = results(second)
    end_before_the_manifest(second)
    for path in (*second.glob("checkpoint_3"), second / "average", second / "average_best"):
        shutil.rmtree(path)
    run_stages("teacher", sets=TEACHER_STAGES)
    assert results(second) == straight
    (again,) = run_stages("teacher", sets=TEACHER_STAGES)
    assert again.err.count("up to date") == 2
