"""A student in three stages as commands: killed in a stage, resumed to the same result, and scored as one system."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import tiny_pipeline
from commands import TIMEOUT_SECONDS, run_here, start
from tiny_pipeline import hash_tree

pytestmark = pytest.mark.pipeline

UPDATES = 60  # of the second stage, so that there is time to kill it
STAGES = [
    {"data": "raw"},
    {"data": "distilled", "max_updates": UPDATES, "lr": 0.005},
    {"data": "sampled", "word_kd": {"divergence": "js", "alpha": 1.0}, "lr": 0.001, "patience": 2},
]
SETS = [f"students.raw.stages={json.dumps(STAGES)}", "distill.sample.top_k=5"]
RAW = Path("runs/tiny/students/raw/seed_1")
NAMES = [f"student raw seed 1 stage {number}" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working folder of a pipeline whose student was trained in all stages without a stop."""
    folder = tmp_path_factory.mktemp("stages")
    tiny_pipeline.write_pipeline(folder)
    _, err = run_here(folder, "run", "tiny.yaml", "--to", "student", "--student", "raw", sets=SETS)
    assert [name for name in NAMES if f"{name}: starting\n" in err] == NAMES
    return folder


def results(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of checkpoints, pointers and manifests of all stages."""
    kept = ("checkpoint_", "best", "last", "average", "manifest.json")
    return {name: sha for name, sha in hash_tree(folder).items() if name.partition("/")[2].startswith(kept)}


def test_each_stage_has_its_data_and_the_checkpoint_of_the_stage_before(trained: Path) -> None:
    manifests = [json.loads((trained / RAW / f"stage_{n}/manifest.json").read_text()) for n in (1, 2, 3)]
    sources = [{name.partition("/")[0] for name in each["inputs"]} for each in manifests]
    assert sources == [
        {"prepare"},
        {"prepare", "distill", "stage_1"},
        {"prepare", "sampled", "teacher", "stage_2"},
    ]
    assert [each["facts"]["update"] for each in manifests][:2] == [4, UPDATES]


def test_a_stage_that_was_killed_resumes_exactly(trained: Path) -> None:
    folder = trained / RAW
    undisturbed = results(folder)
    shutil.rmtree(folder)
    process = start(trained, "student", "tiny.yaml", "--student", "raw", sets=SETS)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not list(folder.glob("stage_2/checkpoint_*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (folder / "stage_1/manifest.json").is_file()
    assert not (folder / "stage_2/manifest.json").exists()
    _, err = run_here(trained, "student", "tiny.yaml", "--student", "raw", sets=SETS)
    assert f"{NAMES[0]}: up to date, nothing to do\n" in err
    assert f"{NAMES[1]}: going on: it was started and not finished\n" in err
    assert f"{NAMES[1]}: going on from checkpoint_" in err
    assert f"{NAMES[2]}: starting\n" in err
    assert results(folder) == undisturbed


def test_the_student_is_one_system(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdmt.score.report_page.charts.has_charts", lambda: False)  # they take seconds
    out, _ = run_here(trained, "status", "tiny.yaml", "--json", sets=SETS)
    states = {stage["name"]: stage["state"] for stage in json.loads(out)["stages"]}
    assert [states[name] for name in NAMES] == ["up to date"] * 3
    run_here(trained, "score", "tiny.yaml", sets=SETS)
    rows = json.loads((trained / "runs/tiny/scores.json").read_text())
    scored = [(row["system"], row["beam"]) for row in rows if "missing" not in row]
    assert scored == [(name, beam) for name in ("teacher", "raw") for beam in (1, 2)]
    out, _ = run_here(trained, "translate", RAW, stdin="ba be bi\n")
    assert out == run_here(trained, "translate", RAW / "stage_3", stdin="ba be bi\n")[0]
