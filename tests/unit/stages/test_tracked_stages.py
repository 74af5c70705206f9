"""Tracking of a whole pipeline by stand-ins for trackers: what arrives, and that outputs are the same."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from bad_input import message_of
from tiny_pipeline import hash_tree, kdmt, settings, to_yaml

from kdmt.tracking import trackers
from kdmt.tracking.trackers import TrackedRun

TINY = Path("runs/tiny")
LOGGED: list[tuple[str, int, dict[str, float]]] = []


class Kept:
    """Tracker that keeps what it gets, and draws random numbers as a package may."""

    def start(self, run: TrackedRun) -> None:
        self.run = run
        LOGGED.append((f"start {run.name}", run.first_step, {}))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        import numpy as np

        random.random()
        np.random.rand()
        LOGGED.append((self.run.name, step, dict(values)))

    def finish(self) -> None:
        """Close nothing."""


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, dict[str, float]]]:
    LOGGED.clear()
    monkeypatch.setitem(trackers._KINDS, "wandb", trackers._Kind(Kept, "json"))
    return LOGGED


@pytest.mark.usefixtures("finished")
def test_metrics_of_all_stages_arrive_and_outputs_are_the_same(kept: list[tuple[str, int, dict[str, float]]]) -> None:
    def outputs() -> dict[str, str]:
        measured = ("metrics.jsonl", "scores.json", "report.html", "config.json", "tracking.json")
        hashes = hash_tree(TINY)
        return {
            name: sha256
            for name, sha256 in hashes.items()
            if not name.endswith(measured) and not name.startswith(("score/decoded/", "score/manifest", "."))
        }

    before = outputs()
    assert "up to date" in kdmt("score", "tiny.yaml", "--set", "tracking=[wandb]").err
    assert kept == []
    for name in ("distill", "students/distilled", "score"):
        (TINY / name).rename(TINY.parent / name.replace("/", "_"))
    assert kdmt("run", "tiny.yaml", "--set", "tracking=[wandb]").code == 0
    assert outputs() == before

    names = [name for name, _, _ in kept]
    assert [name for name in names if name.startswith("start")] == [
        "start distill",
        "start student distilled seed 1",
        "start score",
    ]
    figures = {name: {} for name in names} | {name: values for name, _, values in kept if name in ("distill", "score")}
    facts = json.loads((TINY / "distill" / "manifest.json").read_text(encoding="utf-8"))["facts"]
    assert figures["distill"]["distill/num_lines"] == facts["num_lines"]
    assert figures["distill"]["distill/scores/mean"] == facts["scores"]["mean"]
    rows = json.loads((TINY / "scores.json").read_text(encoding="utf-8"))
    assert figures["score"]["score/raw.seed_1.test.beam2/bleu"] == next(
        row["bleu"] for row in rows if (row["system"], row["beam"]) == ("raw", 2)
    )
    log = (TINY / "students" / "distilled" / "seed_1" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    expected = [(record["update"], f"{record['kind']}/nll", record["nll"]) for record in map(json.loads, log)]
    training = [(step, values) for name, step, values in kept if name == "student distilled seed 1"]
    assert [(step, key, values[key]) for step, values in training for key in values if key.endswith("/nll")] == expected


@pytest.mark.usefixtures("finished")
def test_a_tracker_that_fails_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Kept):
        def log(self, *_: object) -> None:
            raise OSError("No space left on device")

    monkeypatch.setitem(trackers._KINDS, "mlflow", trackers._Kind(Failing, "json"))
    sets = ("--set", "tracking=[mlflow]", "--set", "students.raw.train.max_updates=6")
    result = kdmt("student", "tiny.yaml", "--student", "raw", *sets)
    assert result.code == 0
    warning = "warning: tracking: mlflow failed and gets no further records: OSError: No space left on device"
    assert result.err.count(warning) == 1
    assert "done at update 6" in result.err


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("tracking=[tensorboard, trackio]", "tracking: 'tensorboard'"),
        ("teacher.train.tensorboard=true", "teacher.train.tensorboard: 'tensorboard'"),
        ("students.raw.train.tensorboard=true", "students.raw.train.tensorboard: 'tensorboard'"),
    ],
)
@pytest.mark.parametrize("command", ["prepare", "run"])
def test_a_missing_package_is_an_error_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, command: str, override: str, path: str
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    message = message_of(kdmt(command, "tiny.yaml", "--set", override))
    assert message == f"{path} needs a package that is not installed: pip install 'kdmt[tensorboard]'"
    assert not Path("runs").exists()


@pytest.mark.usefixtures("pipeline")
def test_a_tracker_that_is_unknown_or_named_twice_is_refused() -> None:
    for names, expected in ((["wandb", "wandb"], "holds a name twice"), (["neptune"], "tracking.0")):
        Path("tiny.yaml").write_text(to_yaml(settings() | {"tracking": names}), encoding="utf-8")
        assert expected in message_of(kdmt("prepare", "tiny.yaml"))


@pytest.mark.usefixtures("finished")
def test_tensorboard_of_one_training_is_tracked_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    LOGGED.clear()
    monkeypatch.setitem(trackers._KINDS, "tensorboard", trackers._Kind(Kept, "json"))
    sets = ("--set", "students.raw.train.tensorboard=true", "--set", "students.raw.train.max_updates=6")
    assert kdmt("student", "tiny.yaml", "--student", "raw", *sets).code == 0
    assert {(name, step) for name, step, _ in LOGGED if step > 4} == {
        ("start student raw seed 1", 5),
        ("student raw seed 1", 5),
        ("student raw seed 1", 6),
    }
