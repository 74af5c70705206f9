"""Fixtures with a pipeline of a few sentences, for tests of whole stages; see tiny_pipeline.py."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import tiny_directions
import tiny_pipeline
from environment import isolate

# no deadline, because machines may be busy; every process and every run tries the same examples and stores none
hypothesis.settings.register_profile("repeatable", max_examples=40, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")

_HOME = tempfile.mkdtemp(prefix="kdmt-tests-home-")
isolate(_HOME)  # before the modules of the tests are imported, because they may read the environment

STAGES = ("prepare", "teacher", "distill", "student", "score")

gc.disable()  # while tests are collected, because what this makes stays until the end


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Turn the garbage collector on, which does not visit the modules and the tests."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks() -> Iterator[None]:
    """Do not wait for disks: it takes as long as training a tiny model, and tests need not survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """Turn subnormal numbers on again: a stage that runs in this process flushes them to zero."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with tiny.yaml and its text; no stage has been run."""
    tiny_pipeline.write_pipeline(tmp_path)
    monkeypatch.chdir(tmp_path)
    _draw_no_charts(monkeypatch)
    return tmp_path


def _draw_no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let score stages in this process write their page without charts, which take seconds."""
    monkeypatch.setattr("kdmt.score.report_page.charts.has_charts", lambda: False)


@pytest.fixture(scope="session")
def _finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    tiny_pipeline.write_pipeline(folder)
    with tiny_pipeline.working_in(folder), pytest.MonkeyPatch.context() as monkeypatch:
        _draw_no_charts(monkeypatch)
        tiny_pipeline.run_stages(*STAGES)
    return folder


@pytest.fixture
def finished(_finished_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the working folder, with tiny.yaml and a finished run of all stages; the test may change it."""
    shutil.copytree(_finished_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    _draw_no_charts(monkeypatch)
    yield tmp_path
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


@pytest.fixture(scope="session")
def multilingual_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a prepare stage with several directions; the test must not change it."""
    folder = tmp_path_factory.mktemp("multilingual")
    tiny_directions.write_text(folder)
    return tiny_directions.prepared(folder, tiny_directions.document())


@pytest.fixture(scope="session")
def multilingual_model(multilingual_text: Path) -> Path:
    """Return a checkpoint of a multilingual model with random weights; the test must not change it."""
    import random_multilingual  # loads PyTorch, before which the tests of the GPU path have to install their device

    return random_multilingual.write_checkpoint(multilingual_text, multilingual_text.parent / "model")


@pytest.fixture
def other_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder where renaming from or to other folders fails, as if it were on another disk."""
    disk = tmp_path / "big"
    disk.mkdir()

    def refusing(rename: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def renamed(source: Path, target: Path) -> Path:
            folders = [Path(os.path.realpath(Path(path).parent)) for path in (source, target)]
            if len({folder.is_relative_to(disk) for folder in folders}) > 1:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
            return rename(source, target)

        return renamed

    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, refusing(getattr(Path, name)))
    return disk
