"""Trackers behind one protocol. Each imports its package when it starts; none changes what a stage writes.

The usual environment variables apply: `WANDB_MODE`, `WANDB_DIR`, `MLFLOW_TRACKING_URI`, `TRACKIO_DIR` and so on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from kdmt.choices import TrackerName
from kdmt.errors import UserError
from kdmt.files import read_optional_json, write_json

_IDENTIFIERS = "tracking.json"  # file in the folder of a stage: tracker -> identifier of its run
_OFFLINE = ("offline", "disabled", "dryrun")  # values of WANDB_MODE without a server
_BATCH = 100  # parameters and metrics of a request of MLflow
_MAX_PARAMETER = 500  # characters of a parameter of MLflow


@dataclass(frozen=True)
class TrackedRun:
    """Description of a run for trackers.

    Attributes:
        project: name of the pipeline.
        name: name of the training or the stage, such as `student small seed 1`.
        folder: folder of the stage, in which the identifiers of the run are stored, so that it is continued.
        shared: folder for the files of trackers that have one place for all runs.
        settings: settings that the tracker shows with the run, by dotted path.
        first_step: first step that will be logged; a tracker may discard what an interrupted run logged after it.
    """

    project: str
    name: str
    folder: Path
    shared: Path
    settings: Mapping[str, object]
    first_step: int = 0


class Tracker(Protocol):
    """Receiver of metrics. All calls come from one thread."""

    def start(self, run: TrackedRun) -> None:
        """Open the run, or continue it."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log finite values at a step."""

    def finish(self) -> None:
        """Send what is left, and close the run."""


class TensorBoard:
    """Event files in the folder `tensorboard` of the stage."""

    def start(self, run: TrackedRun) -> None:
        """See `Tracker.start`."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, without code, console output or information about the Git repository."""

    def start(self, run: TrackedRun) -> None:
        """See `Tracker.start`.

        Raises:
            RuntimeError: if there is neither an API key nor an offline mode, since wandb would wait for input.
        """
        import wandb

        if os.environ.get("WANDB_MODE") not in _OFFLINE and not wandb.login(prompt=False):
            raise RuntimeError("no API key: run 'wandb login', or set WANDB_MODE=offline")
        run.shared.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=_identifier(run, "wandb", _random_name),
            resume="allow",
            config=dict(run.settings),
            dir=None if "WANDB_DIR" in os.environ else str(run.shared),
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        # a step of their own, because wandb ignores values of a continued run at steps that it has seen
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._run.log({**values, "update": step})

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._run.finish()


class MLflow:
    """A run of MLflow, on the server in `MLFLOW_TRACKING_URI`, else in an SQLite file in the pipeline's folder."""

    def start(self, run: TrackedRun) -> None:
        """See `Tracker.start`."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            run.shared.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{(run.shared / 'mlflow.db').absolute()}"
        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(run.project)
        number = experiment.experiment_id if experiment else self._client.create_experiment(run.project)
        made = _identifier(run, "mlflow", lambda: self._client.create_run(number, run_name=run.name).info.run_id)
        self._id = made
        known = self._client.get_run(made).data.params  # MLflow refuses to change a parameter
        parameters = [
            Param(name, str(value)[:_MAX_PARAMETER]) for name, value in run.settings.items() if name not in known
        ]
        for first in range(0, len(parameters), _BATCH):
            self._client.log_batch(made, params=parameters[first : first + _BATCH])
        self._client.update_run(made, status="RUNNING")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_allowed(name), value, now, step) for name, value in values.items()]
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._id, metrics=metrics[first : first + _BATCH])

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._client.set_terminated(self._id)


class Trackio:
    """A run of Trackio, in its local database unless its environment variables name a server."""

    def start(self, run: TrackedRun) -> None:
        """See `Tracker.start`."""
        import trackio

        self._run = trackio.init(
            project=run.project,
            name=_identifier(run, "trackio", lambda: f"{run.name} {_random_name()}"),
            resume="allow",
            config=dict(run.settings),
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._run.finish()


@dataclass(frozen=True)
class _Kind:
    """A tracker: how to make it, and the package that it needs, which is that of the extra of the same name."""

    make: Callable[[], Tracker]
    package: str


_KINDS: dict[TrackerName, _Kind] = {
    "tensorboard": _Kind(TensorBoard, "tensorboard"),
    "wandb": _Kind(WeightsAndBiases, "wandb"),
    "mlflow": _Kind(MLflow, "mlflow"),
    "trackio": _Kind(Trackio, "trackio"),
}


def make_trackers(names: Iterable[TrackerName]) -> dict[TrackerName, Tracker]:
    """Return new trackers by name; none is started."""
    return {name: _KINDS[name].make() for name in names}


def check_packages(names: Iterable[TrackerName], *, setting: str) -> None:
    """Check that the packages of trackers are installed.

    Args:
        setting: YAML path of the setting that names them, for the message.

    Raises:
        UserError: if one is not.
    """
    for name in names:
        if find_spec(_KINDS[name].package) is None:
            raise UserError(f"{setting}: {name!r} needs a package that is not installed: pip install 'kdmt[{name}]'")


def _identifier(run: TrackedRun, tracker: str, make: Callable[[], Any]) -> str:
    """Return the identifier of a run in a tracker; a new one is made if the folder of the stage has none."""
    path = run.folder / _IDENTIFIERS
    known = read_optional_json(path) or {}
    if not isinstance(known.get(tracker), str):
        known[tracker] = str(make())
        write_json(path, known)
    return str(known[tracker])


def _random_name() -> str:
    return os.urandom(4).hex()


def _allowed(name: str) -> str:
    """Return a name without characters that MLflow refuses."""
    return "".join(char if char.isalnum() or char in "_-. /" else "_" for char in name)
