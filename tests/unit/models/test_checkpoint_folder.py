"""Tests of folders of checkpoints: their order, the newest valid checkpoint, and the pointers of a run."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

import pytest
import torch

from kdmt.errors import UserError
from kdmt.models.architecture import architecture
from kdmt.models.average_record import (
    average_of,
    checkpoint_update,
    is_outdated,
    wanted_of,
    write_average_of,
    write_wanted_of,
)
from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import save_checkpoint
from kdmt.models.checkpoint_choice import Candidate, CandidateName, Choice, write_choice
from kdmt.models.checkpoint_folder import (
    checkpoint_sha256,
    list_checkpoints,
    log_opened,
    newest_valid_checkpoint,
    num_updates,
    point,
    resolve_checkpoint,
    resolve_name,
)
from kdmt.models.transformer import Transformer


def make_model(seed: int) -> Transformer:
    torch.manual_seed(seed)
    config = architecture("transformer_tiny", {"encoder_layers": 1, "decoder_layers": 1})
    return build_transformer(config, src_vocab_size=20, tgt_vocab_size=20)


def make_folders(run: Path, *names: str) -> None:
    for name in names:
        save_checkpoint(run / name, make_model(1))


def test_checkpoints_are_listed_by_update_not_by_name(tmp_path: Path) -> None:
    make_folders(tmp_path, "checkpoint_10", "checkpoint_9", "checkpoint_100", "average")
    (tmp_path / "checkpoint_500.backup").mkdir()
    (tmp_path / "checkpoint_11").write_text("a file")
    assert [checkpoint_update(folder) for folder in list_checkpoints(tmp_path)] == [9, 10, 100]


def test_newest_valid_checkpoint_skips_and_reports_damaged_ones(tmp_path: Path) -> None:
    make_folders(tmp_path, "checkpoint_8", "checkpoint_9", "checkpoint_10")
    (tmp_path / "checkpoint_10" / "model.json").write_text("{}")
    (tmp_path / "checkpoint_9" / "checksums.json").unlink()
    folder, problems = newest_valid_checkpoint(tmp_path)
    assert folder == tmp_path / "checkpoint_8"
    assert [problem.partition(":")[0] for problem in problems] == [
        str(tmp_path / "checkpoint_10" / "model.json"),
        str(tmp_path / "checkpoint_9"),
    ]
    assert newest_valid_checkpoint(tmp_path / "nowhere") == (None, [])


def test_run_without_a_choice_resolves_to_average_then_best_then_last(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a checkpoint folder nor a run"):
        resolve_checkpoint(tmp_path)
    make_folders(tmp_path, "checkpoint_8", "checkpoint_9")
    point(tmp_path / "last", tmp_path / "checkpoint_9")
    assert resolve_checkpoint(tmp_path) == tmp_path / "checkpoint_9"
    point(tmp_path / "best", tmp_path / "checkpoint_8")
    assert resolve_checkpoint(tmp_path) == tmp_path / "checkpoint_8"
    assert resolve_checkpoint(tmp_path / "last") == tmp_path / "checkpoint_9"
    make_folders(tmp_path, "average")
    assert resolve_checkpoint(tmp_path) == tmp_path / "average"
    assert resolve_checkpoint(tmp_path / "checkpoint_8") == tmp_path / "checkpoint_8"


def test_pointer_to_a_missing_folder_is_refused(tmp_path: Path) -> None:
    point(tmp_path / "best", tmp_path / "checkpoint_8")
    with pytest.raises(UserError, match="best: names 'checkpoint_8', and there is no such checkpoint"):
        resolve_checkpoint(tmp_path / "best")


def test_pointers_work_after_the_run_is_moved(tmp_path: Path) -> None:
    make_folders(tmp_path / "run", "checkpoint_8")
    point(tmp_path / "run" / "best", tmp_path / "run" / "checkpoint_8")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert resolve_checkpoint(tmp_path / "moved") == tmp_path / "moved" / "checkpoint_8"


def test_identity_is_the_sha256_of_the_weights_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "average", make_model(1))
    expected = hashlib.sha256((tmp_path / "average" / "model.safetensors").read_bytes()).hexdigest()
    assert checkpoint_sha256(tmp_path / "average") == expected


def test_average_is_outdated_after_the_list_of_checkpoints_changes(tmp_path: Path) -> None:
    make_folders(tmp_path, "checkpoint_8", "checkpoint_9", "average")
    write_average_of(tmp_path / "average", list_checkpoints(tmp_path))
    write_average_of(tmp_path, list_checkpoints(tmp_path))
    assert average_of(tmp_path / "average") == [8, 9]
    assert not is_outdated(tmp_path)
    make_folders(tmp_path, "checkpoint_10")
    write_average_of(tmp_path, list_checkpoints(tmp_path)[1:])
    assert is_outdated(tmp_path)


def test_average_best_is_outdated_if_its_checkpoints_differ(tmp_path: Path) -> None:
    make_folders(tmp_path, "checkpoint_8", "checkpoint_9", "average_best")
    write_average_of(tmp_path / "average_best", list_checkpoints(tmp_path))
    write_wanted_of(tmp_path, list_checkpoints(tmp_path), "average_best")
    assert not is_outdated(tmp_path, "average_best")
    write_wanted_of(tmp_path, list_checkpoints(tmp_path)[:1], "average_best")
    assert is_outdated(tmp_path, "average_best")
    assert wanted_of(tmp_path, "average_best") == [8]
    assert wanted_of(tmp_path, "average") is None


# ------------------------------------------------------------------------------------------------------------- auto


def make_run(run: Path) -> Path:
    """Make a complete run in the form of older versions, without `average_best` and a choice."""
    make_folders(run, "checkpoint_8", "checkpoint_9", "average")
    point(run / "best", run / "checkpoint_8")
    point(run / "last", run / "checkpoint_9")
    write_average_of(run / "average", list_checkpoints(run))
    write_wanted_of(run, list_checkpoints(run))
    return run


def test_auto_of_a_run_of_an_older_version_is_its_average_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path / "run")
    assert resolve_checkpoint(run / "auto") == run / "average"
    assert resolve_name(run, "auto") == "average"
    assert (
        f"{run}: 'auto' is average, since no checkpoint was chosen by validation (it has no chosen.json" in caplog.text
    )
    shutil.rmtree(run / "average")
    assert resolve_checkpoint(run / "auto") == run / "checkpoint_8"
    (run / "best").unlink()
    assert resolve_checkpoint(run / "auto") == run / "checkpoint_9"
    with pytest.raises(UserError, match=r"average_best: missing: an older version of kdmt trained the run"):
        resolve_checkpoint(run / "average_best")


def test_auto_of_a_student_in_stages_is_that_of_the_last_stage(tmp_path: Path) -> None:
    run = make_run(tmp_path / "seed_1" / "stage_2")
    point(tmp_path / "seed_1" / "last", run)
    assert resolve_checkpoint(tmp_path / "seed_1" / "auto") == run / "average"
    candidates: dict[CandidateName, Candidate] = {"best": Candidate([8]), "average": Candidate([8, 9])}
    write_choice(run, Choice("best", "auto", "bleu", None, candidates))
    assert resolve_checkpoint(tmp_path / "seed_1" / "auto") == run / "checkpoint_8"
    assert resolve_name(tmp_path / "seed_1", "auto") == "best"


def test_auto_of_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    assert resolve_name(tmp_path / "nowhere", "auto") == "average"
    with pytest.raises(UserError, match="neither a checkpoint folder nor a run"):
        resolve_checkpoint(tmp_path / "nowhere" / "auto")


@pytest.mark.parametrize(
    ("chosen", "expected"), [("best", "checkpoint_8"), ("average", "average"), ("average_best", "average_best")]
)
def test_auto_is_the_recorded_choice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, chosen: CandidateName, expected: str
) -> None:
    run = make_run(tmp_path / "run")
    make_folders(run, "average_best")
    write_average_of(run / "average_best", [run / "checkpoint_8"])
    write_wanted_of(run, [run / "checkpoint_8"], "average_best")
    made_of: dict[CandidateName, list[int]] = {"best": [8], "average_best": [8], "average": [8, 9]}
    candidates = {name: Candidate(updates) for name, updates in made_of.items()}
    write_choice(run, Choice(chosen, "auto", "bleu", None, candidates))
    assert resolve_checkpoint(run / "auto") == run / expected
    assert resolve_name(run, "auto") == chosen
    assert resolve_name(run, "last") == "last"
    assert resolve_checkpoint(run) == run / expected
    assert not caplog.text
    (run / "best").write_text("checkpoint_9\n")
    assert resolve_name(run, "auto") == chosen
    assert f"{run}: validated since chosen.json was written; 'auto' is still {chosen}" in caplog.text


def test_a_run_whose_chosen_checkpoint_is_missing_opens_another_one_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path / "run")
    write_choice(run, Choice("average_best", "auto", "bleu"))
    assert resolve_checkpoint(run) == run / "average"
    assert f"{run}: average_best, which chosen.json names, is missing" in caplog.text


def test_the_folder_of_stages_opens_the_checkpoint_that_the_last_stage_chose(tmp_path: Path) -> None:
    run = make_run(tmp_path / "seed_1" / "stage_2")
    point(tmp_path / "seed_1" / "last", run)
    assert resolve_checkpoint(tmp_path / "seed_1") == run / "average"
    write_choice(run, Choice("best", "auto", "bleu"))
    assert resolve_checkpoint(tmp_path / "seed_1") == resolve_checkpoint(run) == run / "checkpoint_8"


def test_the_opened_checkpoint_is_logged_with_the_updates_of_an_average(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path / "run")
    caplog.set_level(logging.INFO, logger="kdmt")
    log_opened(run / "average", run / "average")
    assert not caplog.messages
    log_opened(run, run / "average")
    log_opened(run / "best", run / "checkpoint_8")
    assert caplog.messages == [
        f"{run}: opened {run}/average (updates 8, 9)",
        f"{run / 'best'}: opened {run}/checkpoint_8",
    ]


def test_num_updates_is_that_of_the_newest_checkpoint(tmp_path: Path) -> None:
    make_folders(tmp_path, "checkpoint_9", "checkpoint_10")
    assert num_updates(tmp_path) == 10


def test_a_folder_of_stages_that_leads_to_itself_is_no_run(tmp_path: Path) -> None:
    folder = tmp_path / "seed_1"
    folder.mkdir()
    (folder / "stage_1").symlink_to(folder)
    (folder / "last").write_text("stage_1\n")
    with pytest.raises(UserError, match="neither a checkpoint folder nor a run"):
        resolve_checkpoint(folder)
