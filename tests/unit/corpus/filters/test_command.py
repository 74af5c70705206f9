"""Tests of the filter by an external command: rows, scores, failures, and scores of an earlier run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdmt.config import ExternalFilter
from kdmt.corpus.filters.command import CommandFilter
from kdmt.corpus.filters.scored_filter import KeptText
from kdmt.errors import UserError

LENGTHS = "import sys\nfor line in sys.stdin: print(len(line.rstrip(chr(10))))"


def make_text(folder: Path, count: int) -> KeptText:
    (folder / "source").write_text("".join(f"s{'x' * n}\n" for n in range(count)))
    (folder / "target").write_text("".join(f"ü{n}\n" for n in range(count)))
    return KeptText(folder / "source", folder / "target", np.ones(count, dtype=bool))


class Commands:
    """Filters with a Python program as command, and what they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []

    def score(self, program: str, *, count: int = 5, **settings: Any) -> list[float]:
        path = self.folder / "program.py"
        path.write_text(program)
        command = [sys.executable, str(path), *settings.pop("arguments", [])]
        chosen = ExternalFilter.model_validate({"command": command, "min": 0.0, **settings})
        scored = CommandFilter(chosen, cache=self.folder / "cache", say=self.said.append)
        text = make_text(self.folder, count)
        scored.fit([text])
        return scored.score(text).tolist()


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def test_scores_are_in_the_order_of_the_pairs_in_all_batches(commands: Commands) -> None:
    expected = [float(len(f"s{'x' * n}\tü{n}")) for n in range(23)]
    assert commands.score(LENGTHS, count=23, batch_pairs=7) == expected
    assert len(list((commands.folder / "cache").iterdir())) == 4


def test_columns_have_the_given_order(commands: Commands) -> None:
    program = "import sys\nfor line in sys.stdin:\n    print(line.rstrip(), int(line.startswith('ü')), sep=chr(9))"
    assert commands.score(program, columns=["target", "source"]) == [1.0] * 5
    assert commands.score(program, columns=["source"]) == [0.0] * 5


def test_the_last_column_is_the_score(commands: Commands) -> None:
    assert commands.score("import sys\nfor line in sys.stdin: print(line.rstrip(), '0.25', sep=chr(9))") == [0.25] * 5


def test_scores_of_an_earlier_run_are_used_again(commands: Commands) -> None:
    program = "import sys, pathlib\npathlib.Path(r'{}').open('a').write('run ')\n" + LENGTHS
    program = program.format(commands.folder / "log")
    first = commands.score(program, count=10, batch_pairs=5)
    assert commands.score(program, count=10, batch_pairs=5) == first
    assert (commands.folder / "log").read_text() == "run run "
    assert commands.score(program, count=12, batch_pairs=5)[:10] == first  # a third batch is new
    assert (commands.folder / "log").read_text() == "run run run "
    commands.score(program, count=10, batch_pairs=5, arguments=["--fast"])  # another command
    assert (commands.folder / "log").read_text() == "run " * 5


def test_a_command_that_fails_once_is_started_again(commands: Commands) -> None:
    program = (
        "import sys, pathlib\npath = pathlib.Path(r'{}')\nif not path.exists():\n    path.touch()\n"
        "    sys.exit('out of memory')\n" + LENGTHS
    ).format(commands.folder / "failed")
    assert commands.score(program, count=3) == [4.0, 5.0, 6.0]
    assert len(commands.said) == 1
    assert commands.said[0].endswith("ended with exit status 1: out of memory; it is started again")


def test_a_command_that_always_fails_is_an_error(commands: Commands) -> None:
    with pytest.raises(UserError, match=r"filter: .*program\.py: ended with exit status 3: no model, 2 times"):
        commands.score("import sys; print('no model', file=sys.stderr); sys.exit(3)", retries=1)
    assert len(commands.said) == 1
    assert not list((commands.folder / "cache").iterdir())


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("print(1)", r"wrote 1 lines for 5 pairs"),
        ("print('1\\n' * 6, end='')", r"wrote 6 lines for 5 pairs"),
        ("print('1\\n' * 4 + 'good')", r"line 5 of its output has no score: 'good'"),
        ("import sys\nfor line in sys.stdin: print()", r"line 1 of its output has no score: ''"),
    ],
)
def test_other_output_than_scores_is_an_error(commands: Commands, program: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        commands.score(program)
    assert commands.said == []  # a retry would not help
    assert not list((commands.folder / "cache").iterdir())


def test_batches_before_a_failure_are_kept(commands: Commands) -> None:
    program = (
        "import sys\nlines = sys.stdin.readlines()\nif len(lines[0]) > 12: sys.exit(1)\nfor line in lines: print(1)"
    )
    with pytest.raises(UserError, match="exit status 1"):
        commands.score(program, count=12, batch_pairs=4, retries=0)
    assert len(list((commands.folder / "cache").iterdir())) == 2


def test_large_output_does_not_block(commands: Commands) -> None:
    program = "import sys\nfor line in sys.stdin: print('x' * 5000, 1, sep=chr(9)); print('e' * 5000, file=sys.stderr)"
    assert commands.score(program, count=200) == [1.0] * 200


def test_a_command_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    settings = ExternalFilter(command=["no-such-program"], min=0.0)
    scored = CommandFilter(settings, cache=tmp_path / "cache", say=print)
    with pytest.raises(UserError, match="no-such-program: cannot be run: No such file or directory"):
        scored.score(make_text(tmp_path, 1))


def test_no_pairs_need_no_run(tmp_path: Path) -> None:
    scored = CommandFilter(ExternalFilter(command=["no-such-program"], min=0.0), cache=tmp_path / "cache", say=print)
    assert scored.score(make_text(tmp_path, 0)).tolist() == []
