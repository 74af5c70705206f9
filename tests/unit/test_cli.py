"""The command line: version, help, completion, exit codes and output streams."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from bad_input import message_of
from tiny_pipeline import kdmt

import kdmt as package
from kdmt.cli import app

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_version() -> None:
    result = kdmt("--version")
    assert (result.code, result.out, result.err) == (0, f"kdmt {package.__version__}\n", "")


def test_version_equals_that_of_the_changelog_and_the_citation() -> None:
    root = Path(__file__).parents[2]
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[?([0-9.]+)\]?", changelog, re.MULTILINE)[1] == package.__version__  # type: ignore[index]
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {package.__version__}\n" in citation


def test_every_command_is_in_the_help_and_has_a_help_text() -> None:
    overview = kdmt("--help").out
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", overview, re.MULTILINE), command
        own = kdmt(command, "--help")
        assert own.code == 0
        assert f"kdmt {command}" in own.out or command == "generate"


def test_help_of_an_option_is_a_noun_phrase_with_a_full_stop() -> None:
    """Check that help texts begin with a capital, end with a full stop and do not contain `by default`."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            text = getattr(parameter, "help", None)
            if text is None:
                continue
            assert text[0].isupper() or text.startswith(("fairseq", "a in", "b in")), (name, text)
            assert text.endswith("."), (name, text)
            assert "by default" not in text.lower(), (name, text)


def test_every_option_has_a_help_text() -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        missing = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
        assert missing == [], name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_commands(shell: str) -> None:
    words = {"COMP_WORDS": "kdmt sta", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "kdmt sta"}
    request = {"_KDMT_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    finished = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom kdmt.cli import main\nsys.argv = ['kdmt']\nmain()"],
        env={**os.environ, **words, **request},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "status" in finished.stdout
    assert "teacher" not in finished.stdout


def test_messages_go_to_standard_error_and_results_to_standard_output(finished: Path) -> None:  # noqa: ARG001
    result = kdmt("score", "tiny.yaml")
    assert result.err == "score: up to date, nothing to do\n"
    assert "scores: runs/tiny/scores.json" in result.out
    assert "teacher" in result.out


def test_control_characters_in_messages_are_escaped(pipeline: Path) -> None:
    runs = pipeline / "evil\x1b]0;name"
    (runs / "tiny" / "prepare.partial").mkdir(parents=True)
    result = kdmt("prepare", "tiny.yaml", "--runs", runs)
    assert result.code == 0
    assert "\x1b" not in result.err
    assert "evil\\x1b]0;name/tiny/prepare.partial is removed" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "nope"),
        (["run"], "PIPELINE.yaml"),
        (["status", "tiny.yaml", "--nope"], "--nope"),
        (["prepare", "tiny.yaml", "--shard", "1-3"], "--shard '1-3': expected I/N"),
        (["distill", "tiny.yaml", "--shard", "1"], "--shard '1': expected I/N"),
        (["run", "missing.yaml"], "missing.yaml: there is no such pipeline file"),
    ],
)
def test_bad_input_exits_with_code_2(pipeline: Path, arguments: list[str], message: str) -> None:  # noqa: ARG001
    result = kdmt(*arguments)
    assert result.code == 2
    assert message in result.err
    assert result.out == ""
    assert "Traceback" not in result.err


def test_an_error_is_one_line(pipeline: Path) -> None:  # noqa: ARG001
    assert message_of(kdmt("teacher", "tiny.yaml")).startswith("prepare is not up to date: it was never made.")
