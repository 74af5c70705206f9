"""Two ranks under torchrun at the command line: the first one runs the stages, with the same files as one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_pipeline
from commands import TIMEOUT_SECONDS, run, run_here
from tiny_pipeline import hash_tree

pytestmark = pytest.mark.pipeline

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "kdmt"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun")
    tiny_pipeline.write_pipeline(folder)
    tiny_pipeline.write_text(folder)
    return folder


def start_ranks(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KDMT_")}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*LAUNCHER, *arguments], cwd=folder, env={**environment, "OMP_NUM_THREADS": "1"}, stderr=pipe, text=True
    )


def run_ranks(folder: Path, *arguments: str, code: int = 0) -> str:
    process = start_ranks(folder, *arguments)
    _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == code, err
    return err


@pytest.mark.slow
def test_stages_can_alternate_between_one_process_and_two(prepared: Path) -> None:
    run_here(prepared, "prepare", "tiny.yaml")
    stderr = run_ranks(prepared, "teacher", "tiny.yaml")
    assert stderr.count("teacher: starting") == 1  # the second rank prints nothing
    assert stderr.count("cpu with 1 threads, 2 ranks") == 1
    assert "teacher: done at update" in stderr
    teacher = prepared / "runs/tiny/teacher"
    trained = hash_tree(teacher)
    assert (teacher / "manifest.json").is_file()

    stderr = run_ranks(prepared, "teacher", "tiny.yaml")
    assert "teacher: up to date, nothing to do" in stderr
    assert "up to date" in run(prepared, "teacher", "tiny.yaml")[1]  # also for one process
    assert hash_tree(teacher) == trained

    run(prepared, "distill", "tiny.yaml")
    stderr = run_ranks(prepared, "student", "tiny.yaml")
    assert stderr.count(": done at update") == 2  # one after the other, each with both ranks
    run(prepared, "score", "tiny.yaml")


def test_two_ranks_run_a_whole_pipeline(tmp_path: Path) -> None:
    tiny_pipeline.write_pipeline(tmp_path)
    messages = run_ranks(tmp_path, "run", "tiny.yaml")
    assert messages.count(": starting\n") == 6  # each stage once: the second rank prints nothing
    assert messages.count(", 2 ranks") == 3
    assert (tmp_path / "runs/tiny/scores.json").is_file()
    _, again = run_here(tmp_path, "run", "tiny.yaml")
    assert again.count(": up to date, nothing to do\n") == 6


@pytest.mark.slow
def test_two_ranks_train_all_stages_of_a_student(prepared: Path) -> None:
    run_here(prepared, "prepare", "tiny.yaml")
    raw = tiny_pipeline.settings()["students"]["raw"]
    stages = ("--set", f"students.staged={json.dumps({**raw, 'stages': [{}, {'lr': 0.001}]})}")
    stderr = run_ranks(prepared, "student", "tiny.yaml", "--student", "staged", *stages)
    assert [stderr.count(f"student staged seed 1 stage {number}: starting") for number in (1, 2)] == [1, 1]
    assert stderr.count(", 2 ranks") == 2
    assert "stage 2: up to date" in run_ranks(prepared, "student", "tiny.yaml", "--student", "staged", *stages)
    assert (prepared / "runs/tiny/students/staged/seed_1/last").read_text() == "stage_2\n"


@pytest.mark.slow
def test_an_error_on_the_first_rank_ends_all_ranks(prepared: Path) -> None:
    stderr = run_ranks(prepared, "teacher", "tiny.yaml", "--set", "teacher.model.encoder_attention_heads=3", code=1)
    assert stderr.count("kdmt: error: ") >= 1
    assert "attention heads" in stderr
    assert 'Traceback (most recent call last):\n  File "/' not in stderr.partition("torch.distributed")[0]
    stderr = run_ranks(prepared, "score", "tiny.yaml", "--set", "prepare.clean.max_words=9", code=1)
    assert stderr.count("is not up to date") == 1


@pytest.mark.parametrize(
    ("receiver", "number"),
    [
        pytest.param("rank", signal.SIGTERM, id="TERM-to-a-rank", marks=pytest.mark.slow),
        pytest.param("rank", signal.SIGUSR1, id="USR1-to-a-rank", marks=pytest.mark.slow),
        pytest.param("launcher", signal.SIGHUP, id="HUP-to-torchrun", marks=pytest.mark.slow),
    ],
)
def test_signal_to_one_rank_stops_all_at_the_same_update(prepared: Path, receiver: str, number: signal.Signals) -> None:
    """Check signals as sent by a batch system at the time limit, or by torchrun when its terminal closes."""
    long = ("--set", "teacher.train.max_updates=2000", "--set", "teacher.train.save_interval_updates=10")
    run_here(prepared, "prepare", "tiny.yaml")
    folder = prepared / "runs/tiny/teacher"
    if folder.exists():
        folder.rename(folder.with_name(f"teacher.{time.time_ns()}"))
    process = start_ranks(prepared, "teacher", "tiny.yaml", *long)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint_70").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(ranks[-1]) if receiver == "rank" else process.pid, number)
    _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (
        err.count(f"stopped by {number.name}; saved runs/tiny/teacher/checkpoint_") == 1
    )  # only the first rank reports it
    assert "Connection closed by peer" not in err
    saved = (folder / "last").read_text().strip()
    update = int(saved.removeprefix("checkpoint_"))
    assert update < 2000
    assert (folder / saved / "training_state.safetensors").is_file()
    end = ("--set", f"teacher.train.max_updates={update + 1}", "--set", "teacher.train.save_interval_updates=10")
    assert f"going on from {saved}" in run_ranks(prepared, "teacher", "tiny.yaml", *end)
