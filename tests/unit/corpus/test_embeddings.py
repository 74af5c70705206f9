"""Embeddings by an external command: answers, faults, and an interrupted run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from kdmt.corpus.embeddings import EmbeddingCommand, open_embeddings
from kdmt.errors import UserError

LINES = [f"line {number} ü" for number in range(2500)]
GOOD = """
import json, sys
for number, line in enumerate(sys.stdin):
    text = json.loads(line)["text"]
    {fault}
    print(json.dumps({{"embedding": [len(text), ord(text[-1]), int(text.split()[1])]}}), flush=True)
"""


def command(tmp_path: Path, fault: str = "pass", *, timeout: float = 60.0) -> EmbeddingCommand:
    program = tmp_path / "embed.py"
    program.write_text(GOOD.format(fault=fault), encoding="utf-8")
    return EmbeddingCommand(f"{shlex.quote(sys.executable)} {shlex.quote(str(program))}", timeout)


def expected() -> list[list[float]]:
    return [[len(line), ord("ü"), number] for number, line in enumerate(LINES)]


def test_embeddings_are_in_the_order_of_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    command(tmp_path).write(path, lambda: LINES, len(LINES), "sha")
    assert open_embeddings(path, len(LINES)).tolist() == expected()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["e.npy", "e.npy.json", "embed.py"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("number == 1200 and sys.exit(3)", "ended with code 3 after 1,2"),
        ("if number == 1200: print('{'); continue", "answer for line 1201 is not JSON: '{'"),
        ("if number == 1200: print('{\"embedding\": []}'); continue", "line 1201 has no list of numbers"),
        ("if number == 1200: print('{\"embedding\": [1, true, 2]}'); continue", "line 1201 has no list of numbers"),
        ("if number == 1200: print('{\"embedding\": [1, NaN, 2]}'); continue", "line 1201 is not JSON"),
        ("if number == 1200: print('{\"embedding\": [1, 2]}'); continue", "line 1201 has 2 numbers, those before 3"),
        ("if number == 1200: print('{\"embedding\": [1, 2, 1e39]}'); continue", "line 1201 has a number that is too"),
        (
            "if number == 1200: print('{\"embedding\": [1, 2, ' + '9' * 400 + ']}'); continue",
            "1201 has a number that is too",
        ),
        pytest.param(
            *("number == 1200 and __import__('time').sleep(60)", "no answer for line 1201 within 8 s"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_fault_keeps_what_was_computed_and_the_next_run_continues(tmp_path: Path, fault: str, message: str) -> None:
    path = tmp_path / "e.npy"
    with pytest.raises(UserError, match=message):
        command(tmp_path, fault, timeout=8.0 if "sleep" in fault else 60.0).write(
            path, lambda: LINES, len(LINES), "sha"
        )
    assert not path.exists()
    with (tmp_path / "e.npy.part").open("ab") as file:
        file.write(b"torn")  # an incomplete row
    # the command of the next run does not see the first lines again
    command(tmp_path, "assert int(text.split()[1]) >= 1200").write(path, lambda: LINES, len(LINES), "sha")
    assert open_embeddings(path, len(LINES)).tolist() == expected()


def test_another_text_does_not_continue_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        command(tmp_path, "number == 1200 and sys.exit(3)").write(tmp_path / "e.npy", lambda: LINES, 2500, "sha")
    with pytest.raises(UserError, match=r"e\.npy\.part: begun for another text or by another command"):
        command(tmp_path).write(tmp_path / "e.npy", lambda: LINES, 2500, "other")


def test_a_command_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="/no/command: cannot be run"):
        EmbeddingCommand("/no/command").write(tmp_path / "e.npy", lambda: LINES, 2500, "sha")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    with pytest.raises(UserError, match="there is no such file"):
        open_embeddings(path, 3)
    path.write_text("no array", encoding="utf-8")
    with pytest.raises(UserError, match=r"e\.npy: not a \.npy file"):
        open_embeddings(path, 3)
    for array in (np.ones(3), np.ones((3, 2), dtype=np.int64)):
        np.save(path, array)
        with pytest.raises(UserError, match="floating-point numbers with two dimensions"):
            open_embeddings(path, 3)
    np.save(path, np.ones((4, 2)))
    with pytest.raises(UserError, match="4 embeddings for 3 lines"):
        open_embeddings(path, 3)
