"""The interface of executors: the objects that are sent, and the paths of logs."""

from __future__ import annotations

import pickle
from pathlib import Path

from executor_workers import make_tasks

from kdmt.workers.tasks import Failed, Progress, WorkerSpec, log_path


def test_log_names_sort_in_the_order_of_workers() -> None:
    paths = [log_path(Path("logs"), number) for number in range(12)]
    assert paths == sorted(paths)
    assert len(set(paths)) == 12
    assert paths[3] == Path("logs/worker-003.log")


def test_objects_sent_between_processes_can_be_pickled() -> None:
    task = make_tasks(2)[1]
    for value in (
        WorkerSpec(0, 1, "cpu", Path("worker.log")),
        Failed(task, "oh", 3),
        Progress(1, 2, 3, 4, 5, 6),
    ):
        assert pickle.loads(pickle.dumps(value)) == value
