"""The wheel: built from the sources, installed into an empty environment, and used outside the repository.

`make wheel-test` runs it. It installs torch and all dependencies from the package index, which takes about a minute.
"""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import kdmt

ROOT = Path(__file__).parents[2]
SOURCES = ("kdmt", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
TORCH = "torch==2.13.0"  # as in the Makefile: the exact version comes from the ordinary index
# the toy pipeline of the template, with a few updates of one student each
QUICK = {
    "teacher.train": "{max_updates: 20, max_tokens: 2048, warmup_updates: 10, lr: 0.005}",
    "students": "{raw: {data: raw, model: &m {arch: transformer_tiny}, train: &t {max_updates: 10, max_tokens: 2048}}, "
    "distilled: {data: distilled, model: *m, train: *t}}",
    "distill.decode": "{beam: 1, max_len_a: 0.0, max_len_b: 10}",
    "score": "{beams: [1], speed_sentences: 2, bootstrap_samples: 20, max_len_a: 0.0, max_len_b: 10}",
}
pytestmark = [pytest.mark.pipeline, pytest.mark.slow]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:  # a copy, because building leaves files in the source tree
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / "src" / name)
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "src"], folder)
    (built,) = folder.glob("*.whl")
    return built


def run(command: list[str | Path], folder: Path) -> str:
    """Run a command without this environment's packages; return its standard output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KDMT"))}
    finished = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    tracked = run(["git", "-C", ROOT, "ls-files", "kdmt"], ROOT).splitlines()
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("kdmt/")}
    assert held == set(tracked)


def test_the_metadata_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata: Message = email.message_from_string(archive.read(name).decode())
    assert metadata["Name"] == "kdmt"
    assert metadata["Version"] == kdmt.__version__
    assert metadata["Author"] == "kdmt contributors"
    assert "MIT" in (metadata["License-Expression"] or metadata["License"])
    assert metadata["Summary"]
    assert metadata["Keywords"]
    assert len(metadata.get_all("Classifier", [])) >= 10
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_an_empty_environment_runs_the_toy_pipeline(wheel: Path, tmp_path: Path) -> None:
    run([sys.executable, "-m", "venv", tmp_path / "env"], tmp_path)
    python, command = tmp_path / "env/bin/python", tmp_path / "env/bin/kdmt"
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    run([*pip, TORCH], tmp_path)
    run([*pip, wheel], tmp_path)
    run([python, "-m", "pip", "check"], tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    assert run([command, "--version"], work) == f"kdmt {kdmt.__version__}\n"
    assert run([command, "new", "toy.yaml", "--template", "toy"], work) == "toy.yaml\ntoy-corpus\n"
    sets = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]
    scores = run([command, "run", "toy.yaml", *sets], work)
    assert all(system in scores for system in ("teacher", "raw", "distilled"))
    status = run([command, "status", "toy.yaml", *sets], work)
    assert status.count("up to date") == len(status.splitlines()) - 1
    program = (
        "import kdmt, sys\nmodel = kdmt.load('runs/toy/students/distilled/seed_1')\n"
        "print(kdmt.__file__)\nassert len(model.translate(['The dog sleeps.'], beam=2)) == 1"
    )
    assert run([python, "-c", program], work).startswith(str(tmp_path / "env"))
    plugin = Path(run([command, "fairseq-plugin"], work).strip())
    assert (plugin / "__init__.py").is_file()
