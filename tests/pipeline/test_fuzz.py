"""A short run of `make fuzz`, and tests that the fuzzer notices each kind of fault."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz.case import Case, Command, drawn
from fuzz.kinds import KINDS
from fuzz.runner import Input, Runner, planned
from fuzz.server import Ended, run_command
from fuzz.verdict import judge, look_at
from fuzz.world import World

pytestmark = pytest.mark.pipeline

REPOSITORY = Path(__file__).parents[2]
COMMAND = Command(("translate", "model"), changes=("made/",), makes="made")


@pytest.mark.slow
def test_hostile_inputs_end_in_success_or_in_one_clear_line() -> None:
    """Run one input of each kind; `make fuzz` has hundreds."""
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fuzz", "--seed", "1", "--inputs", str(len(KINDS)), "--limit-seconds", "300"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = dict(re.findall(r"^figure: fuzz_(\w+) (\d+) ", done.stdout, re.MULTILINE))
    assert figures == {
        "inputs": str(len(KINDS)),
        "tracebacks": "0",
        "hangs": "0",
        "harmed": "0",
        "bad_messages": "0",
        "accepted": "0",
    }


def test_inputs_are_spread_over_the_kinds() -> None:
    inputs = planned(300)
    assert len(set(inputs)) == 300
    counts = [sum(each.kind == kind for each in inputs) for kind in KINDS]
    assert min(counts) >= 18
    assert max(counts) - min(counts) <= 1


def test_an_input_depends_only_on_its_name() -> None:
    numbers = [drawn(1, "corpora", 17).random() for _ in range(2)]
    assert numbers[0] == numbers[1]
    others = {drawn(*name).random() for name in ((2, "corpora", 17), (1, "blocks", 17), (1, "corpora", 18))}
    assert len(others | set(numbers)) == 4


# ------------------------------------------------------------------------------------------ broken programs are noticed


def _succeed() -> None:
    print("done")


def _refuse() -> None:
    print("kdmt: error: model: there is no such checkpoint", file=sys.stderr)
    sys.exit(2)


def _raise() -> None:
    raise ValueError("unexpected")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _end_with_another_code() -> None:
    sys.exit(1)


def _wait() -> None:
    time.sleep(600)


def _start_another_that_waits() -> None:
    if os.fork() == 0:
        time.sleep(600)
    time.sleep(600)


def _say_nothing() -> None:
    sys.exit(2)


def _say_it_twice() -> None:
    print("kdmt: error: one\nkdmt: error: two", file=sys.stderr)
    sys.exit(2)


def _say_more_afterwards() -> None:
    print("kdmt: error: one\nand more", file=sys.stderr)
    sys.exit(2)


def _say_much() -> None:
    print(f"kdmt: error: {'x' * 5_000}", file=sys.stderr)
    sys.exit(2)


def _say_it_in_red() -> None:
    print("kdmt: error: \x1b[31mred", file=sys.stderr)
    sys.exit(2)


def _warn() -> None:
    print("/lib/torch/nn.py:1: UserWarning: this is slow", file=sys.stderr)


def _change() -> None:
    Path("kept/file").write_text("other")


def _remove() -> None:
    Path("kept/file").unlink()
    _refuse()


def _leave_a_file() -> None:
    Path("stray").write_text("x")
    _refuse()


def _leave_half() -> None:
    Path("made").mkdir()
    _refuse()


def _make() -> None:
    Path("made").mkdir()
    Path("made/file").write_text("new")


def _move_aside() -> None:
    Path("runs/tiny/stage").rename("runs/tiny/stage.previous")
    _refuse()


def _begin() -> None:
    Path("runs/tiny/stage/manifest.json").rename("runs/tiny/stage/plan.json")
    _refuse()


def _forget() -> None:
    Path("runs/tiny/stage/manifest.json").unlink()
    _refuse()


def _use_all_memory() -> None:
    bytearray(1 << 40)


@pytest.mark.parametrize(
    ("program", "kinds"),
    [
        (_succeed, []),
        (_refuse, []),
        (_make, []),
        (_move_aside, []),
        (_begin, []),
        (_forget, ["harmed"]),
        (_raise, ["traceback"]),
        (_die, ["traceback"]),
        (_end_with_another_code, ["traceback"]),
        (_use_all_memory, ["traceback"]),
        (_wait, ["hang"]),
        (_start_another_that_waits, ["hang"]),
        (_say_nothing, ["message"]),
        (_say_it_twice, ["message"]),
        (_say_more_afterwards, ["message"]),
        (_say_much, ["message"]),
        (_say_it_in_red, ["message"]),
        (_warn, ["message"]),
        (_change, ["harmed"]),
        (_remove, ["harmed"]),
        (_leave_a_file, ["harmed"]),
        (_leave_half, ["harmed"]),
    ],
)
def test_a_broken_program_is_noticed(tmp_path: Path, program: Callable[[], None], kinds: list[str]) -> None:
    for path in (tmp_path / "kept/file", tmp_path / "runs/tiny/stage/manifest.json"):
        path.parent.mkdir(parents=True)
        path.write_text("kept")
    before = look_at(tmp_path)
    ended = _run(program, tmp_path)
    assert [fault.kind for fault in judge(ended, COMMAND, before, look_at(tmp_path))] == kinds


def _run(program: Callable[[], None], folder: Path) -> Ended:
    waits = program in (_wait, _start_another_that_waits)
    return run_command(COMMAND.arguments, folder, entry=program, limit_seconds=0.5 if waits else 300.0)


def test_a_program_reads_its_input_and_writes_its_output(tmp_path: Path) -> None:
    def echo() -> None:
        sys.stdout.write(f"{sys.argv} {sys.stdin.read()}")

    ended = run_command(("a", "b"), tmp_path, stdin=b"c\n", entry=echo)
    assert ended == Ended(0, b"['kdmt', 'a', 'b'] c\n", b"")


def test_missing_lines_are_noticed(tmp_path: Path) -> None:
    command = Command(("translate",), lines=2)
    ended = run_command(command.arguments, tmp_path, entry=_succeed)
    (fault,) = judge(ended, command, {}, {})
    assert fault.text == "2 lines expected on standard output, there are 1"


class _File(World):
    """A world with one file."""

    def copy(self, _: object, to: Path) -> None:
        (to / "input").write_text((self.folder / "input").read_text())


@pytest.fixture
def make_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Runner]:
    """Return a function that makes a runner for a program, with further fields of the case.

    Its only kind of input, `files`, is a damaged file.
    """

    def make(program: Callable[[], None], **about: bool) -> Runner:
        def damage(_: object, folder: Path) -> Case:
            (folder / "input").write_text("damaged")
            return Case("input: damaged", (Command(("read", "input")),), **about)

        (tmp_path / "world").mkdir()
        (tmp_path / "world/input").write_text("whole")
        monkeypatch.setitem(KINDS, "files", type(KINDS["corpora"])((), damage))
        return Runner(_File(tmp_path / "world"), seed=1, entry=program)

    return make


@pytest.mark.parametrize("stays", [True, False])
def test_a_file_that_blocks_the_next_run_is_noticed(make_runner: Callable[..., Runner], stays: bool) -> None:
    """Run a program that refuses a damaged file and, because of a file that it left, the whole file afterwards."""

    def refuse_damaged() -> None:
        if stays and Path("runs/lock").exists():
            print("kdmt: error: runs/lock: another process is at work", file=sys.stderr)
            sys.exit(2)
        if Path("input").read_text() == "damaged":
            Path("runs").mkdir()
            Path("runs/lock").write_text("")
            print("kdmt: error: input: damaged", file=sys.stderr)
            sys.exit(2)

    result = make_runner(refuse_damaged).run(Input("files", 0))
    assert result.codes == (2,)
    assert [fault.kind for fault in result.faults] == (["harmed"] if stays else [])


@pytest.mark.parametrize("refused", [True, False])
def test_accepted_damage_is_noticed(make_runner: Callable[..., Runner], refused: bool) -> None:
    result = make_runner(_succeed, refused=refused).run(Input("files", 0))
    assert result.codes == (0,)
    assert [fault.kind for fault in result.faults] == (["accepted"] if refused else [])
