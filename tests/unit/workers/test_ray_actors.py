"""Ray actors as workers, on a cluster of two nodes on this machine."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from executor_workers import ALWAYS, COUNT, Scribes, make_tasks

from kdmt.errors import Interrupted, UserError
from kdmt.workers import ray_actors as ray_executor
from kdmt.workers.ray_actors import RayActors, connected, count_room
from kdmt.workers.tasks import Progress

ray = pytest.importorskip("ray")

OBJECT_STORE_BYTES = 80 * 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def actors(folder: Path, workers: int | None = None, silence_seconds: float = 60.0, **others: Any) -> RayActors:
    return RayActors(workers, 1, False, folder.parent / "logs", silence_seconds, **others)


def read_logs(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted((folder.parent / "logs").iterdir()))


def wait_for_cpus(number: float) -> None:
    """Wait until the actors of the previous test have ended."""
    end = time.monotonic() + 120
    while ray.available_resources().get("CPU", 0) != number:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_failing_actors_do_not_stop_the_other_tasks(folder: Path) -> None:
    """Check exceptions, deaths and a hang in one run, because an actor takes about a second to start."""
    troubles = {0: ("kill", 1), 2: ("raise", 1), 3: ("kill", ALWAYS), 5: ("hang", 1)}
    scribes, reports = Scribes(folder, troubles, seconds=0.05), list[Progress]()
    (killed,) = actors(folder, silence_seconds=2.0).run(scribes, make_tasks(12), reports.append)
    assert (killed.task.number, killed.attempts) == (3, 3)
    assert killed.error == "the worker died (Worker unexpectedly exits with a connection error code 2. End of file.)"
    assert sorted(scribes.done()) == [0, 1, 2, *range(4, 12)]
    last = reports[-1]
    assert (last.sentences, last.total_sentences) == (11 * COUNT, 12 * COUNT)
    assert (last.tasks_done, last.tasks_failed, last.tasks_total) == (11, 1, 12)
    assert {threads for _, _, _, threads, _ in scribes.done().values()} == {"1"}
    log = read_logs(folder)
    assert log.count(" 4 sentences in ") == 11
    assert "block 5, attempt 1 of 3, failed: no message for 2 s" in log
    assert ray.is_initialized()
    wait_for_cpus(2.0)


@pytest.mark.usefixtures("cluster")
def test_progress_is_reported_during_a_task(folder: Path) -> None:
    reports: list[Progress] = []
    actors(folder).run(Scribes(folder, seconds=1.0), make_tasks(1), reports.append)
    assert [each.sentences for each in reports if each.workers and not each.tasks_done][-1] == COUNT // 2
    assert reports[-1].sentences == COUNT
    wait_for_cpus(2.0)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_actors_wait_for_free_resources(folder: Path) -> None:
    reports: list[Progress] = []
    scribes = Scribes(folder, seconds=0.1)
    assert actors(folder, workers=5, opening_seconds=60.0).run(scribes, make_tasks(6), reports.append) == []
    assert max(progress.workers for progress in reports) <= 2
    assert "driver: " not in read_logs(folder)  # waiting is not a failure
    wait_for_cpus(2.0)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    "error",
    [{"troubles": {1: ("user", ALWAYS)}}, pytest.param({"opening": ("user", ALWAYS)}, marks=pytest.mark.slow)],
)
def test_bad_input_ends_the_run(folder: Path, error: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^corpus.de: line 3 is bad$"):
        actors(folder).run(Scribes(folder, **error), make_tasks(20), lambda _: None)
    wait_for_cpus(2.0)


@pytest.mark.usefixtures("cluster")
def test_a_signal_ends_the_run(folder: Path) -> None:
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(Interrupted):
        actors(folder).run(Scribes(folder, seconds=0.2), make_tasks(200), lambda _: None)
    wait_for_cpus(2.0)


@pytest.mark.usefixtures("cluster")
def test_a_cluster_without_a_large_enough_node_is_an_error(folder: Path) -> None:
    executor = RayActors(None, 64, True, folder.parent / "logs", 60.0)
    with pytest.raises(UserError, match="no node of the Ray cluster has 64 CPUs and a GPU"):
        executor.run(Scribes(folder), make_tasks(1), lambda _: None)


@pytest.mark.usefixtures("cluster")
def test_a_set_number_of_workers_waits_for_a_large_enough_node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "_NO_NODE_SECONDS", 0.5)
    executor = RayActors(1, 64, False, folder.parent / "logs", 60.0)
    with pytest.raises(UserError, match=r"no node of the Ray cluster has 64 CPUs$"):
        executor.run(Scribes(folder), make_tasks(1), lambda _: None)


@pytest.mark.slow
def test_no_task_is_lost_with_a_removed_node(cluster: Any, folder: Path) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
    cluster.wait_for_nodes()
    wait_for_cpus(3)
    died = "the worker's node died|the worker cannot be reached"
    # every worker has a task when the node is removed, and no task ends before that is noticed
    scribes, removed = Scribes(folder, gate=3, exclusive=False), []

    def remove_node(progress: Progress) -> None:
        if progress.workers == 3 and progress.tasks_done == 3 and not removed:
            cluster.remove_node(node, allow_graceful=False)
            removed.append(progress)
        if removed and re.search(died, read_logs(folder)):
            (folder / "open").touch()

    assert actors(folder).run(scribes, make_tasks(36), remove_node) == []
    assert "RAY_AUTH_MODE" not in os.environ  # a cluster that is already connected is not changed
    assert len(removed) == 1
    assert sorted(scribes.done()) == list(range(36))
    assert re.search(died, read_logs(folder))


def test_free_resources_are_counted_on_alive_nodes() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 7.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 3.0, "GPU": 4.0}},
        {"Alive": True, "Resources": {"memory": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    assert count_room(nodes, 2, False) == 4
    assert count_room(nodes, 2, True) == 2


@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:9", "no Ray cluster to join at 127.0.0.1:9: .*refused"), ("ray://head:10001", "Ray Client")],
)
def test_an_unreachable_address_is_an_error(address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(UserError, match=message), connected(ray, address):
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def test_missing_ray_is_a_clear_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'kdmt\[ray\]'"):
        actors(folder).run(Scribes(folder), make_tasks(1), lambda _: None)


_AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.mark.parametrize(
    ("given", "starts", "expected"),
    [
        ({}, True, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "<new>"}),
        ({}, False, {}),
        ({"RAY_AUTH_MODE": "disabled"}, True, {"RAY_AUTH_MODE": "disabled"}),
        ({"RAY_AUTH_TOKEN": "mine"}, True, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "mine"}),
        ({"RAY_AUTH_TOKEN_PATH": "/file"}, True, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/file"}),
    ],
)
def test_a_cluster_started_by_kdmt_requires_a_token(
    given: dict[str, str], starts: bool, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _AUTH} | given
    monkeypatch.setattr(os, "environ", environment)
    ray_executor.import_ray(starts=starts)
    found = {name: environment[name] for name in _AUTH if name in environment}
    if expected.get("RAY_AUTH_TOKEN") == "<new>":
        assert re.fullmatch("[0-9a-f]{64}", found["RAY_AUTH_TOKEN"])
        ray_executor.import_ray(starts=True)
        assert environment["RAY_AUTH_TOKEN"] == found["RAY_AUTH_TOKEN"]
        found["RAY_AUTH_TOKEN"] = "<new>"
    assert found == expected
