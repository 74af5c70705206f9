"""Tests give the same results in every environment and have the same names in every process."""

from __future__ import annotations

import locale
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from environment import SET, SIGNALS, hermetic

REPOSITORY = Path(__file__).parents[2]
HOSTILE = {
    "LANG": "tr_TR.UTF-8",
    "LC_ALL": "C",
    "LANGUAGE": "tr",
    "HOME": "/nonexistent",
    "XDG_CACHE_HOME": "/nonexistent",
    "XDG_CONFIG_HOME": "/nonexistent",
    "KDMT_MIRROR": "/nonexistent",
    "KDMT_RUNS": "/nonexistent",
    "OMP_NUM_THREADS": "7",
    "MKL_NUM_THREADS": "7",
    "GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1",
    "COLUMNS": "20",
    "TERM": "xterm-256color",
    "FORCE_COLOR": "1",
    "TZ": "Asia/Kathmandu",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "RAY_ADDRESS": "127.0.0.1:9",
    "SACREBLEU_SEED": "99",
    "SLURM_JOB_ID": "9",
    "HF_HOME": "/nonexistent",
    "HF_TOKEN": "nobody's",
    "PYTHONHASHSEED": "7",
    "PYTHONIOENCODING": "latin-1",
    "PYTHONWARNINGS": "error::DeprecationWarning:kdmt",
    "PYTHONUNBUFFERED": "1",
}
# tests that read each of these variables, in parts of the suite that take seconds
TESTS = (
    "tests/unit/test_environment.py::test_this_process_has_the_environment_for_tests",
    "tests/unit/test_bad_input.py::test_a_missing_pipeline_is_refused",
    "tests/unit/test_bad_input.py::test_a_truncated_download_is_refused",
    "tests/unit/score/test_report.py",
    "tests/unit/train/test_arithmetic.py",
)


def run_pytest(*arguments: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on this repository from a folder, with the environment of a user who has set these variables."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(REPOSITORY), *arguments]
    return subprocess.run(command, cwd=folder, env={**kept, **settings}, capture_output=True, encoding="utf-8")


def test_this_process_has_the_environment_for_tests() -> None:
    assert {name: os.environ.get(name) for name in SET} == SET
    assert not {name for name in HOSTILE if name not in SET and name != "HOME"} & set(os.environ)
    assert Path(os.environ["HOME"]).is_dir()
    assert Path.home() == Path(os.environ["HOME"])
    assert list(Path.home().glob(".ssh")) == []
    assert locale.getencoding() == "UTF-8"
    mask = os.umask(0o077)
    os.umask(mask)
    assert mask == 0o022


def test_signals_that_a_shell_ignores_or_blocks_are_reset() -> None:
    def as_under_nohup() -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    program = "import signal, sys, tempfile\nfrom environment import isolate, SIGNALS\n"
    program += "assert all(signal.getsignal(number) == signal.SIG_IGN for number in SIGNALS)\nisolate(sys.argv[1])\n"
    program += "assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
    program += "assert not any(signal.getsignal(number) == signal.SIG_IGN for number in SIGNALS)\n"
    program += "signal.raise_signal(signal.SIGINT)\n"
    finished = subprocess.run(
        [sys.executable, "-c", program, os.environ["HOME"]],
        cwd=REPOSITORY / "tests",
        preexec_fn=as_under_nohup,
        capture_output=True,
        text=True,
    )
    assert finished.stderr.splitlines()[-1] == "KeyboardInterrupt"


def test_variables_of_programs_and_libraries_are_kept() -> None:
    found = hermetic({**HOSTILE, "PATH": "/bin", "LD_LIBRARY_PATH": "/lib", "PATHS": "/x", "USER": "me"}, home="/home")
    assert found == {**SET, "PATH": "/bin", "LD_LIBRARY_PATH": "/lib", "HOME": "/home"}


def test_a_hostile_environment_changes_no_result(tmp_path: Path) -> None:
    tests = [str(REPOSITORY / test) for test in TESTS]
    previous = os.umask(0o077)
    try:
        done = run_pytest(*tests, folder=tmp_path, **HOSTILE)
    finally:
        os.umask(previous)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert list(tmp_path.iterdir()) == []  # nothing is left in the folder in which pytest is started


@pytest.mark.slow
def test_two_processes_collect_the_same_tests(tmp_path: Path) -> None:
    """Check that two processes collect the same tests with other hash seeds, at other times and in other folders.

    The workers of pytest-xdist need this.
    """
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = run_pytest("--collect-only", str(REPOSITORY / "tests/unit"), folder=folder, PYTHONHASHSEED=str(number))
        assert done.returncode == 0, done.stdout + done.stderr
        found.append([line for line in done.stdout.splitlines() if "::" in line])
    assert len(found[0]) > 1000
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["LC_ALL", "PYTHONUTF8"])
def test_subprocesses_of_tests_use_utf8(name: str) -> None:
    """Check that subprocesses use UTF-8 whatever the encoding of this process."""
    assert name not in os.environ or os.environ[name] == SET.get(name)
    done = subprocess.run([sys.executable, "-c", "print('é')"], capture_output=True, check=True)
    assert done.stdout == "é\n".encode()
