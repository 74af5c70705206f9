"""The distilled files are the same bytes from one process, several processes, Ray actors, shards, and after kills."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_pipeline
from commands import TIMEOUT_SECONDS, run, run_here, start
from tiny_pipeline import hash_tree

pytestmark = pytest.mark.pipeline

SETS = (
    "distill.block_size=8",
    "distill.engine=auto",
    "teacher.train.max_updates=20",
    "students.sampled={data: sampled}",
    "distill.pool={beam: 2, samples: 4, epsilon: 0.05}",
)
STAGES = ("distill", "sampled", "pool")
SLOWLY = 0.02  # seconds between two checks
NUM_BLOCKS = 50


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a pipeline run up to the teacher, with enough text for many blocks."""
    folder = tmp_path_factory.mktemp("workers")
    tiny_pipeline.write_pipeline(folder)
    tiny_pipeline.write_text(folder, {"train": 8 * NUM_BLOCKS, "valid": 6, "test": 5})
    for stage in ("prepare", "teacher"):
        run_here(folder, stage, "tiny.yaml", sets=SETS)
    return folder


@pytest.fixture(scope="module")
def inline(taught: Path) -> dict[str, str]:
    """Return the hashes of the files made by one process without interruptions."""
    run_here(taught, "distill", "tiny.yaml", sets=SETS)
    made = take_away(taught)
    assert len([name for name in made if "/blocks/" in name]) == len(STAGES) * NUM_BLOCKS
    return made


@pytest.fixture(autouse=True)
def _nothing_left(taught: Path) -> Iterator[None]:
    """Remove the files that a failed test has left."""
    yield
    for stage in STAGES:
        shutil.rmtree(taught / "runs/tiny" / stage, ignore_errors=True)


@pytest.fixture
def moments() -> random.Random:
    """Return random moments that differ in each test run; the seed is shown if a test fails."""
    seed = time.time_ns() % 1_000_000
    print(f"moments of seed {seed}")
    return random.Random(seed)


def take_away(folder: Path) -> dict[str, str]:
    """Remove the distilled files and return their hashes."""
    made = {}
    for stage in STAGES:
        tree = hash_tree(folder / "runs/tiny" / stage)
        assert not [name for name in tree if ".partial" in name]
        # config.json records the settings of workers, which do not affect the result
        made |= {f"{stage}/{name}": sha for name, sha in tree.items() if name != "config.json"}
        shutil.rmtree(folder / "runs/tiny" / stage)
    return made


def family_of(pid: int) -> set[int]:
    """Return the process ids of all descendants of a process."""
    found: set[int] = set()
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return found
    for child in map(int, children):
        found |= {child} | family_of(child)
    return found


def is_worker(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Return as soon as `ready` is true or the process has ended."""
    while process.poll() is None and not ready():
        time.sleep(SLOWLY)


def wait_for_the_end_of(pids: set[int]) -> None:
    end = time.monotonic() + 120
    while any(map(is_alive, pids)):
        assert time.monotonic() < end, f"processes are left: {pids}"
        time.sleep(SLOWLY)


def blocks(folder: Path) -> int:
    return sum(len(list((folder / "runs/tiny" / stage / "blocks").glob("0*"))) for stage in STAGES)


def processes(workers: int) -> tuple[str, ...]:
    return (*SETS, "distill.executor=processes", f"distill.workers={workers}")


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_processes_make_the_same_bytes(taught: Path, inline: dict[str, str], workers: int) -> None:
    _, err = run(taught, "distill", "tiny.yaml", sets=processes(workers))
    assert f"{NUM_BLOCKS} of {NUM_BLOCKS} blocks" in err
    logs = [path.name for path in (taught / "runs/tiny/distill/logs").iterdir()]
    assert sorted(logs) == [f"worker-00{number}.log" for number in range(workers)]
    assert take_away(taught) == inline


def test_shards_make_the_same_bytes(taught: Path, inline: dict[str, str]) -> None:
    """Run two shards at the same time, and the third later with a worker process."""
    both = [start(taught, "distill", "tiny.yaml", "--shard", f"{shard}/3", sets=SETS) for shard in (2, 0)]
    for process in both:
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0, err
    run(taught, "distill", "tiny.yaml", "--shard", "1/3", sets=processes(1))
    assert blocks(taught) == len(STAGES) * NUM_BLOCKS
    run_here(taught, "distill", "tiny.yaml", sets=SETS)
    assert take_away(taught) == inline


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_actors_of_a_ray_cluster_make_the_same_bytes(taught: Path, inline: dict[str, str]) -> None:
    _, err = run(taught, "distill", "tiny.yaml", sets=(*SETS, "distill.executor=ray"))
    assert f"{NUM_BLOCKS} of {NUM_BLOCKS} blocks" in err
    logs = {path.name for path in (taught / "runs/tiny/distill/logs").iterdir()}
    assert take_away(taught) == inline
    assert logs  # of an actor on each of the two nodes, although one of them may start after the last block
    assert logs <= {"worker-000.log", "worker-001.log"}


@pytest.mark.slow
def test_a_killed_worker_does_not_change_the_files(taught: Path, inline: dict[str, str]) -> None:
    process = start(taught, "distill", "tiny.yaml", sets=processes(2))
    wait_until(lambda: blocks(taught) > 3, process)
    family = family_of(process.pid)
    victim = min(filter(is_worker, family))
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, err
    wait_for_the_end_of(family)
    logs = "".join(path.read_text() for path in (taught / "runs/tiny/distill/logs").iterdir())
    assert "driver: " in logs
    assert "the worker died (signal 9)" in logs
    assert take_away(taught) == inline


def test_a_killed_driver_leaves_no_worker_and_loses_no_block(taught: Path, inline: dict[str, str]) -> None:
    process = start(taught, "distill", "tiny.yaml", sets=processes(2))
    wait_until(lambda: blocks(taught) > 3, process)
    family = family_of(process.pid)
    assert len(list(filter(is_worker, family))) == 2
    process.kill()
    process.communicate(timeout=TIMEOUT_SECONDS)
    wait_for_the_end_of(family)
    folder = taught / "runs/tiny/distill/blocks"
    done = {path: path.stat().st_ino for path in folder.glob("0*")}
    assert 3 < len(done) < NUM_BLOCKS
    _, err = run_here(taught, "distill", "tiny.yaml", sets=SETS)
    assert f"{len(done)} of {NUM_BLOCKS} blocks are there" in err
    assert {path: path.stat().st_ino for path in done} == done
    assert take_away(taught) == inline


@pytest.mark.slow
def test_a_pool_whose_driver_is_killed_three_times(taught: Path, inline: dict[str, str]) -> None:
    folder = taught / "runs/tiny/pool/blocks"

    def done() -> int:
        return len(list(folder.glob("0*")))

    for _ in range(3):
        process, before = start(taught, "distill", "tiny.yaml", sets=processes(2)), done()
        wait_until(lambda least=before + 5: done() > least, process)
        family = family_of(process.pid)
        process.kill()
        process.communicate(timeout=TIMEOUT_SECONDS)
        wait_for_the_end_of(family)
        assert before < done() < NUM_BLOCKS
    _, err = run(taught, "distill", "tiny.yaml", sets=processes(1))
    assert "distill: up to date" in err
    assert take_away(taught) == inline


@pytest.mark.slow
def test_distilling_by_processes_killed_many_times(
    taught: Path, inline: dict[str, str], moments: random.Random
) -> None:
    """Kill workers and the driver twenty times in one run, at random moments."""
    process = start(taught, "distill", "tiny.yaml", sets=processes(2))
    family: set[int] = set()
    kills = attempts = 0
    while kills < 20:
        attempts += 1
        assert attempts <= 200
        time.sleep(moments.uniform(0, 4.0))
        now = family_of(process.pid)
        family |= now
        workers = sorted(filter(is_worker, now))
        kill_driver = moments.random() < 0.4
        if process.poll() is None and (kill_driver or workers):
            victim = process.pid if kill_driver else moments.choice(workers)
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
            kills += 1
        if kill_driver or process.poll() is not None:
            _, err = process.communicate(timeout=TIMEOUT_SECONDS)
            if process.returncode == 2:  # the same process was killed three times in a row
                assert "no worker can be opened: " in err or "failed three times" in err
            else:
                assert process.returncode in (0, -signal.SIGKILL), err
            wait_for_the_end_of(family)
            if process.returncode == 0:  # the run had ended
                assert take_away(taught) == inline
            process = start(taught, "distill", "tiny.yaml", sets=processes(2))
    _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, err
    wait_for_the_end_of(family)
    run(taught, "distill", "tiny.yaml", sets=SETS)
    assert take_away(taught) == inline


@pytest.mark.slow
def test_a_cluster_started_by_kdmt_cannot_be_joined_without_its_token(tmp_path: Path) -> None:
    """Start Ray in one process as the executor does, and try to connect from another process without its token."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    starter = """
import sys
from kdmt.workers.ray_actors import connected, import_ray
ray = import_ray(starts=True)
with connected(ray, None):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
    joiner = """
import sys
from kdmt.workers.ray_actors import connected, import_ray
from kdmt.errors import UserError
try:
    with connected(import_ray(starts=False), sys.argv[1]):
        print("joined")
except UserError as error:
    print(error)
"""
    command = [sys.executable, "-c", starter]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        stranger = environment | {"RAY_AUTH_MODE": "disabled"}
        stdout = subprocess.run(
            [sys.executable, "-c", joiner, address], env=stranger, capture_output=True, text=True, check=True
        ).stdout
        process.communicate("")
    assert stdout.startswith(f"no Ray cluster to join at {address}: ")
    assert stdout.count("\n") == 1
    assert process.returncode == 0
    assert not (tmp_path / ".ray/auth_token").exists()  # the token is only in the environment
