"""Processes that are really killed, at random moments, and the next run, which continues from their files."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_pipeline
from commands import KDMT, TIMEOUT_SECONDS, run_here, start
from tiny_pipeline import hash_tree

pytestmark = pytest.mark.pipeline

UPDATES = 200
TRAIN = [  # a checkpoint at every fifth update, of which the last two and those of the average are kept
    f"teacher.train.max_updates={UPDATES}",
    "teacher.train.save_interval_updates=5",
    "teacher.train.validate_interval_updates=50",
    "teacher.train.log_interval_updates=10",
]
DISTILL = ["distill.block_size=4", "teacher.train.max_updates=2", "teacher.train.validate_interval_updates=2"]
NUM_BLOCKS = 100


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("kill"))


def prepare(folder: Path) -> Path:
    tiny_pipeline.write_pipeline(folder)
    tiny_pipeline.write_text(folder, {"train": 4 * NUM_BLOCKS, "valid": 6, "test": 5})
    run_here(folder, "prepare", "tiny.yaml")
    return folder


@pytest.fixture(scope="module")
def undisturbed(prepared: Path) -> dict[str, str]:
    """Return the hashes of the checkpoints and pointers of a teacher trained without interruption."""
    run_here(prepared, "teacher", "tiny.yaml", sets=TRAIN)
    return take_away(prepared / "runs/tiny/teacher")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of its own with a small teacher, which no test takes away."""
    folder = prepare(tmp_path_factory.mktemp("kill-distilling"))
    run_here(folder, "teacher", "tiny.yaml", sets=DISTILL)
    return folder


@pytest.fixture(scope="module")
def undisturbed_distilled(taught: Path) -> dict[str, str]:
    """Return the hashes of the distilled files of the small teacher, made without interruption."""
    run_here(taught, "distill", "tiny.yaml", sets=DISTILL)
    return take_away(taught / "runs/tiny/distill")


@pytest.fixture
def moments() -> random.Random:
    """Return random moments that differ in each test run; the seed is shown if a test fails."""
    seed = time.time_ns() % 1_000_000
    print(f"moments of seed {seed}")
    return random.Random(seed)


def take_away(stage: Path) -> dict[str, str]:
    """Move a stage away and return the hashes of its files, without its log of speeds."""
    hashes = {name: sha for name, sha in hash_tree(stage).items() if name != "metrics.jsonl"}
    stage.rename(stage.with_name(f"{stage.name}.{time.time_ns()}"))
    return hashes


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Return as soon as `ready` is true or the process has ended."""
    while process.poll() is None and not ready():
        time.sleep(0.001)


def checkpoints(run_folder: Path) -> list[Path]:
    return [path for path in run_folder.glob("checkpoint_*") if path.name.partition("_")[2].isdigit()]


def stop(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send a signal and return the standard error of the process until its end."""
    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    return err


def kill_training(prepared: Path, ready: Callable[[Path], bool], delay: float = 0.0) -> bool:
    """Train until `ready` and for `delay` seconds more, then kill -9; return whether the process was still running."""
    process = start(prepared, "teacher", "tiny.yaml", sets=TRAIN)
    wait_until(lambda: ready(prepared / "runs/tiny/teacher"), process)
    time.sleep(delay)
    stop(process, signal.SIGKILL)
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


def test_killed_training_resumes_exactly(prepared: Path, undisturbed: dict[str, str], moments: random.Random) -> None:
    teacher = prepared / "runs/tiny/teacher"
    assert kill_training(prepared, lambda folder: bool(checkpoints(folder)), moments.uniform(0, 0.3))
    assert not (teacher / "manifest.json").exists()
    _, err = run_here(prepared, "teacher", "tiny.yaml", sets=TRAIN)
    assert "teacher: going on: it was started and not finished\n" in err
    assert "teacher: going on from checkpoint_" in err
    hashes = take_away(teacher)
    assert hashes["average/model.safetensors"] == undisturbed["average/model.safetensors"]
    assert hashes == undisturbed


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 143, id="TERM"),
        pytest.param(signal.SIGHUP, 129, id="HUP", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 138, id="USR1", marks=pytest.mark.slow),
    ],
)
def test_stopped_training_reports_how_to_resume(
    prepared: Path, undisturbed: dict[str, str], number: signal.Signals, code: int
) -> None:
    process = start(prepared, "teacher", "tiny.yaml", sets=TRAIN)
    wait_until(lambda: bool(checkpoints(prepared / "runs/tiny/teacher")), process)
    err = stop(process, number)
    assert process.returncode == code
    last = err.splitlines()[-1]
    assert last.startswith(f"kdmt: stopped by {number.name}; saved runs/tiny/teacher/checkpoint_")
    assert last.endswith("; run it again to go on")
    saved = Path(last.partition("; saved ")[2].partition(";")[0])
    assert (prepared / saved / "model.safetensors").is_file()
    _, err = run_here(prepared, "teacher", "tiny.yaml", sets=TRAIN)
    assert f"going on from {saved.name}" in err
    assert take_away(prepared / "runs/tiny/teacher") == undisturbed


def start_on_terminal(folder: Path) -> tuple[int, int]:
    """Start the training on its own terminal, as a shell does; return the process id and the terminal's other end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        sets = [part for setting in TRAIN for part in ("--set", setting)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KDMT_")}
        os.execve(KDMT, [str(KDMT), "teacher", "tiny.yaml", *sets], {**environment, "TERM": "xterm"})
    return pid, terminal


@pytest.mark.slow
def test_training_on_a_closed_terminal_resumes_exactly(prepared: Path, undisturbed: dict[str, str]) -> None:
    """Check that training saves although it can no longer write to the terminal, which also has a progress bar."""
    teacher = prepared / "runs/tiny/teacher"
    pid, terminal = start_on_terminal(prepared)
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        os.set_blocking(terminal, False)
        while not checkpoints(teacher):
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
            screen.read(1 << 16)  # so that it can go on writing
            time.sleep(0.001)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    saved = (teacher / "last").read_text().strip()
    _, err = run_here(prepared, "teacher", "tiny.yaml", sets=TRAIN)
    assert f"going on from {saved}" in err
    assert take_away(teacher) == undisturbed


@pytest.mark.slow
def test_a_hangup_under_nohup_is_ignored(prepared: Path, undisturbed: dict[str, str]) -> None:
    teacher = prepared / "runs/tiny/teacher"
    command = ["nohup", str(KDMT), "teacher", "tiny.yaml", *(part for one in TRAIN for part in ("--set", one))]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KDMT_")}
    process = subprocess.Popen(
        command, cwd=prepared, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: bool(checkpoints(teacher)), process)
    assert not (teacher / "manifest.json").exists()
    err = stop(process, signal.SIGHUP)
    assert process.returncode == 0
    assert f"teacher: done at update {UPDATES}" in err
    assert take_away(teacher) == undisturbed


ONLINE = {
    "ema": ["word_kd={}", "online={kind: ema, decay: 0.9}"],
    "joint": ["word_kd={}", "online={kind: joint, model: {arch: transformer_tiny, max_source_positions: 64}}"],
    "mutual": ["word_kd={}", "online={kind: mutual, peers: 2}"],
    "on_policy": ["word_kd={select: global, queue: 300}", "on_policy={rate: 0.5, max_len_b: 5}", "self_supervised={}"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(ONLINE))
def test_a_killed_student_with_a_teacher_resumes_exactly(prepared: Path, moments: random.Random, kind: str) -> None:
    """Check that the moving teacher, the memory and the random numbers are resumed too."""
    folder = prepared / "runs/tiny/students/raw/seed_1"
    sets = [f"students.raw.{setting}" for setting in ONLINE[kind]]
    sets += [setting.replace("teacher.", "students.raw.", 1) for setting in TRAIN]
    if kind == "on_policy":  # the only one that needs a teacher
        run_here(prepared, "teacher", "tiny.yaml", sets=DISTILL)
        sets += DISTILL
    arguments = ("student", "tiny.yaml", "--student", "raw")
    run_here(prepared, *arguments, sets=sets)
    undisturbed = take_away(folder)
    process = start(prepared, *arguments, sets=sets)
    wait_until(lambda: bool(checkpoints(folder)), process)
    time.sleep(moments.uniform(0, 0.5))
    stop(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    _, err = run_here(prepared, *arguments, sets=sets)
    assert "going on from checkpoint_" in err
    assert take_away(folder) == undisturbed
    if kind == "on_policy":
        take_away(prepared / "runs/tiny/teacher")


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGHUP, id="HUP"),
        pytest.param(signal.SIGUSR1, id="USR1", marks=pytest.mark.slow),
    ],
)
def test_stopped_distilling_loses_no_finished_block(
    taught: Path, undisturbed_distilled: dict[str, str], number: signal.Signals
) -> None:
    folder = taught / "runs/tiny/distill/blocks"
    process = start(taught, "distill", "tiny.yaml", sets=DISTILL)
    wait_until(lambda: len(list(folder.glob("[0-9]*"))) >= 3, process)
    err = stop(process, number)
    assert process.returncode == 128 + number
    assert err.endswith(f"kdmt: stopped by {number.name}; saved every finished block; run it again to go on\n")
    done = {path: identity(path) for path in folder.glob("[0-9]*")}
    run_here(taught, "distill", "tiny.yaml", sets=DISTILL)
    assert {path: identity(path) for path in done} == done
    assert take_away(taught / "runs/tiny/distill") == undisturbed_distilled


def test_killed_distilling_loses_no_finished_block(
    taught: Path, undisturbed_distilled: dict[str, str], moments: random.Random
) -> None:
    distill = taught / "runs/tiny/distill"
    done = kill_distilling(taught, moments.randint(1, NUM_BLOCKS // 3))
    assert 0 < len(done) < NUM_BLOCKS
    _, err = run_here(taught, "distill", "tiny.yaml", sets=DISTILL)
    assert "distill: going on: it was started and not finished\n" in err
    assert {path: identity(path) for path in done} == done
    assert take_away(distill) == undisturbed_distilled


def kill_distilling(prepared: Path, blocks: int) -> dict[Path, tuple[int, int]]:
    """Distill until there are `blocks` blocks, then kill -9; return the finished ones."""
    folder = prepared / "runs/tiny/distill/blocks"
    process = start(prepared, "distill", "tiny.yaml", sets=DISTILL)
    wait_until(lambda: len(list(folder.glob("[0-9]*"))) >= blocks, process)
    stop(process, signal.SIGKILL)
    return {path: identity(path) for path in folder.glob("[0-9]*")}


def identity(path: Path) -> tuple[int, int]:
    """Return a value that differs if the file is written again, even with the same content."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


@pytest.mark.slow
def test_training_killed_many_times_resumes_exactly(
    prepared: Path, undisturbed: dict[str, str], moments: random.Random
) -> None:
    """Kill twenty times at random moments; every second kill waits until a checkpoint is being written."""
    teacher = prepared / "runs/tiny/teacher"
    kills = attempts = 0
    while kills < 20:
        attempts += 1
        assert attempts <= 40, f"only {kills} of {attempts} attempts found a training to kill"
        seen = {path.name for path in teacher.glob(".partial-*")}

        def writing(folder: Path, seen: set[str] = seen) -> bool:
            return any(path.name not in seen for path in folder.glob(".partial-checkpoint_*"))

        before = {path.name for path in checkpoints(teacher)}

        def training(folder: Path, before: set[str] = before) -> bool:
            return any(path.name not in before for path in checkpoints(folder))

        in_writing = attempts % 2 == 0
        delay = moments.uniform(0, 0.005) if in_writing else moments.uniform(0, 0.3)
        killed = kill_training(prepared, writing if in_writing else training, delay)
        kills += killed
        if not killed:  # the run had ended
            assert take_away(teacher) == undisturbed
    run_here(prepared, "teacher", "tiny.yaml", sets=TRAIN)
    assert take_away(teacher) == undisturbed


@pytest.mark.slow
def test_distilling_killed_many_times_gives_the_same_files(
    taught: Path, undisturbed_distilled: dict[str, str], moments: random.Random
) -> None:
    done: dict[Path, tuple[int, int]] = {}
    for _ in range(6):
        now = kill_distilling(taught, min(len(done) + moments.randint(1, 15), NUM_BLOCKS))
        assert done.items() <= now.items()
        done = now
    run_here(taught, "distill", "tiny.yaml", sets=DISTILL)
    assert {path: identity(path) for path in done} == done
    assert take_away(taught / "runs/tiny/distill") == undisturbed_distilled


@pytest.mark.slow
def test_killed_preparing_leaves_an_earlier_state(prepared: Path, moments: random.Random) -> None:
    """Check that it is in its own folder, or in the previous one if the new state was complete."""
    folder = prepared / "runs/tiny/prepare"
    made = hash_tree(folder)
    for _ in range(4):
        process = start(prepared, "prepare", "tiny.yaml", sets=["prepare.clean.max_words=50"])
        wait_until(folder.with_name("prepare.partial").joinpath("plan.json").exists, process)
        time.sleep(moments.uniform(0, 0.1))
        stop(process, signal.SIGKILL)
        assert made in (hash_tree(folder), hash_tree(folder.with_name("prepare.previous")))
    run_here(prepared, "prepare", "tiny.yaml")
    assert hash_tree(folder) == made
