"""Trackers: the calls of each package, and with the package itself, what is in its files. Nothing uses the network."""

from __future__ import annotations

import sqlite3
import sys
import types
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import pytest

from kdmt.choices import TrackerName
from kdmt.errors import UserError
from kdmt.files import read_json
from kdmt.tracking import trackers
from kdmt.tracking.trackers import TrackedRun, check_packages, make_trackers

SETTINGS = {"train.lr": 0.001, "seed": 1}


def run_in(folder: Path, first_step: int = 0) -> TrackedRun:
    (folder / "teacher").mkdir(exist_ok=True)
    return TrackedRun("toy", "teacher", folder / "teacher", folder / "tracking", SETTINGS, first_step)


def track(name: TrackerName, run: TrackedRun, *records: tuple[int, dict[str, float]]) -> None:
    tracker = make_trackers([name])[name]
    tracker.start(run)
    for step, values in records:
        tracker.log(step, values)
    tracker.finish()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> mock.MagicMock:
    """Return the parent of stand-ins for all packages; its calls are those of the packages."""
    parent = mock.MagicMock()
    modules = {
        "wandb": parent.wandb,
        "trackio": parent.trackio,
        "mlflow": parent.mlflow,
        "mlflow.entities": parent.entities,
        "mlflow.tracking": parent.tracking,
        "torch.utils.tensorboard": parent.tensorboard,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    names = map(str, count(1))
    monkeypatch.setattr(trackers, "_random_name", lambda: next(names))
    parent.tracking.MlflowClient.return_value.create_run.return_value.info.run_id = "r1"
    parent.tracking.MlflowClient.return_value.get_run.return_value.data.params = {"seed": "1"}
    parent.entities.Metric.side_effect = lambda name, value, _, step: (name, value, step)
    parent.entities.Param.side_effect = lambda name, value: (name, value)
    return parent


# -------------------------------------------------------------------------------------------------- calls of packages


def test_tensorboard_discards_the_steps_that_are_logged_again(fake: mock.MagicMock, tmp_path: Path) -> None:
    track("tensorboard", run_in(tmp_path, 11), (11, {"train/loss": 2.5}))
    fake.tensorboard.SummaryWriter.assert_called_once_with(str(tmp_path / "teacher" / "tensorboard"), purge_step=11)
    writer = fake.tensorboard.SummaryWriter.return_value
    assert writer.method_calls == [mock.call.add_scalar("train/loss", 2.5, 11), mock.call.close()]


def test_wandb_continues_its_run_and_logs_the_update_as_a_value(fake: mock.MagicMock, tmp_path: Path) -> None:
    for _ in range(2):
        track("wandb", run_in(tmp_path), (5, {"train/loss": 2.5}))
    for call in fake.wandb.init.call_args_list:
        assert {key: call.kwargs[key] for key in ("project", "name", "id", "resume", "config", "dir")} == {
            "project": "toy",
            "name": "teacher",
            "id": "1",
            "resume": "allow",
            "config": SETTINGS,
            "dir": str(tmp_path / "tracking"),
        }
    fake.wandb.Settings.assert_called_with(console="off", silent=True, disable_git=True, save_code=False)
    fake.wandb.init.return_value.log.assert_called_with({"train/loss": 2.5, "update": 5})
    assert fake.wandb.init.return_value.finish.call_count == 2
    fake.wandb.login.assert_not_called()


def test_wandb_without_a_key_is_an_error_instead_of_a_question(
    fake: mock.MagicMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    fake.wandb.login.return_value = False
    with pytest.raises(RuntimeError, match="WANDB_MODE=offline"):
        track("wandb", run_in(tmp_path))
    fake.wandb.login.assert_called_once_with(prompt=False)
    fake.wandb.init.assert_not_called()


def test_mlflow_continues_its_run_and_changes_no_parameter(fake: mock.MagicMock, tmp_path: Path) -> None:
    values = {f"x<{number}>": float(number) for number in range(150)}
    for _ in range(2):
        track("mlflow", run_in(tmp_path), (7, values))
    fake.tracking.MlflowClient.assert_called_with(tracking_uri=f"sqlite:///{tmp_path / 'tracking' / 'mlflow.db'}")
    client = fake.tracking.MlflowClient.return_value
    assert client.create_run.call_count == 1
    batches = [call.kwargs for call in client.log_batch.call_args_list]
    assert batches[0] == {"params": [("train.lr", "0.001")]}
    assert [len(batch["metrics"]) for batch in batches[1:3]] == [100, 50]
    assert batches[1]["metrics"][0] == ("x_0_", 0.0, 7)
    assert client.set_terminated.call_args_list == [mock.call("r1")] * 2


def test_trackio_continues_its_run_by_name(fake: mock.MagicMock, tmp_path: Path) -> None:
    for _ in range(2):
        track("trackio", run_in(tmp_path), (3, {"valid/nll": 1.5}))
    first, second = (call.kwargs for call in fake.trackio.init.call_args_list)
    assert first == second
    assert first["name"] == "teacher 1"
    assert (first["project"], first["resume"], first["embed"]) == ("toy", "allow", False)
    fake.trackio.init.return_value.log.assert_called_with({"valid/nll": 1.5}, step=3)


@pytest.mark.usefixtures("fake")
def test_a_training_that_is_made_again_is_a_new_run(tmp_path: Path) -> None:
    track("wandb", run_in(tmp_path))
    (tmp_path / "teacher").rename(tmp_path / "teacher.previous")
    track("wandb", run_in(tmp_path))
    assert read_json(tmp_path / "teacher" / "tracking.json") == {"wandb": "2"}
    assert read_json(tmp_path / "teacher.previous" / "tracking.json") == {"wandb": "1"}


def test_every_tracker_has_a_package_and_a_missing_one_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    for name in get_args(TrackerName):
        with pytest.raises(UserError) as error:
            check_packages([name], setting="tracking")
        assert str(error.value) == (
            f"tracking: '{name}' needs a package that is not installed: pip install 'kdmt[{name}]'"
        )
    monkeypatch.setattr(trackers, "find_spec", lambda _: types.SimpleNamespace())
    check_packages(get_args(TrackerName), setting="tracking")


# -------------------------------------------------------------------------------------------------- packages themselves


def installed(name: TrackerName) -> pytest.MarkDecorator:
    is_missing = find_spec(name) is None
    return pytest.mark.skipif(is_missing, reason=f"the package of the extra '{name}' is not installed")


RECORDS = [(10, {"train/loss": 2.5}), (20, {"train/loss": 2.0, "valid/bleu": 12.0})]


@pytest.mark.slow
@installed("tensorboard")
def test_event_files_of_tensorboard_have_the_values(tmp_path: Path) -> None:
    track("tensorboard", run_in(tmp_path), *RECORDS)
    track("tensorboard", run_in(tmp_path, 20), (20, {"train/loss": 1.0}))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(tmp_path / "teacher" / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(10, 2.5), (20, 1.0)]


@pytest.mark.slow
@installed("wandb")
def test_wandb_writes_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    track("wandb", run_in(tmp_path), *RECORDS)
    identifier = read_json(tmp_path / "teacher" / "tracking.json")["wandb"]
    (written,) = (tmp_path / "tracking" / "wandb").glob(f"offline-run-*/run-{identifier}.wandb")
    content = written.read_bytes()
    for text in (b"train/loss", b"valid/bleu", b"train.lr"):
        assert text in content


@pytest.mark.slow
@installed("mlflow")
def test_mlflow_writes_an_sqlite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for records in (RECORDS[:1], RECORDS[1:]):
        track("mlflow", run_in(tmp_path), *records)
    with sqlite3.connect(tmp_path / "tracking" / "mlflow.db") as database:
        metrics = database.execute("select key, step, value from metrics order by key, step").fetchall()
        runs = database.execute("select name, status from runs").fetchall()
        parameters = database.execute("select key, value from params order by key").fetchall()
    assert metrics == [("train/loss", 10, 2.5), ("train/loss", 20, 2.0), ("valid/bleu", 20, 12.0)]
    assert runs == [("teacher", "FINISHED")]
    assert parameters == [("seed", "1"), ("train.lr", "0.001")]


@pytest.mark.slow
@installed("trackio")
def test_trackio_writes_its_local_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    track("trackio", run_in(tmp_path), *RECORDS)
    (path,) = (tmp_path / "trackio").rglob("toy.db")
    with sqlite3.connect(path) as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in rows] == [10, 20]
    assert b"valid/bleu" in str(rows[1][1]).encode()
