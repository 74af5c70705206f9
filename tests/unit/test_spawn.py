"""Spawned processes: which code they run, and that the main program is unchanged."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from kdmt.spawn import spawn_context

SCRIPT = """
import sys
from concurrent.futures import ProcessPoolExecutor
from kdmt.spawn import spawn_context
from {module} import {function}

print("main", flush=True)
main = sys.modules["__main__"]
before = (main.__file__, main.__spec__)
with ProcessPoolExecutor(1, mp_context=spawn_context()) as pool:
    print(pool.submit({function}, {argument}).result())
assert (main.__file__, main.__spec__) == before
"""


def run_script(tmp_path: Path, **values: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(**values), encoding="utf-8")
    return subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    finished = run_script(tmp_path, module="os.path", function="basename", argument="'a/b'")
    assert finished.stdout == "main\nb\n", finished.stderr


def test_functions_of_the_main_module_can_be_sent_if_it_is_run_again() -> None:
    assert spawn_context(runs_main=True).get_start_method() == "spawn"
    assert spawn_context().get_start_method() == "spawn"


def test_the_main_module_is_restored_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    before = getattr(main, "__file__", None), main.__spec__
    monkeypatch.setattr("multiprocessing.popen_spawn_posix.Popen.__init__", _fail)
    with pytest.raises(OSError, match="no process"):
        spawn_context().Process(target=print).start()
    assert (getattr(main, "__file__", None), main.__spec__) == before


def _fail(*_: object) -> None:
    raise OSError("no process")


def test_results_are_returned() -> None:
    with ProcessPoolExecutor(2, mp_context=spawn_context()) as pool:
        assert list(pool.map(abs, [-1, 2])) == [1, 2]
