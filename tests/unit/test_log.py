"""Messages: silent for programs that use the library, plain lines on standard error for the command line."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest

from kdmt.log import get_logger, messages_on_stderr, shows_bars


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


def test_a_program_that_configures_nothing_sees_no_message() -> None:
    program = "from kdmt.log import get_logger\nget_logger('kdmt.a').warning('w')\nget_logger('kdmt.a').error('e')"
    finished = run_python(program)
    assert (finished.stdout, finished.stderr) == ("", "")


def test_a_program_that_configures_logging_gets_the_messages() -> None:
    program = (
        "import logging, sys\nfrom kdmt.log import get_logger\n"
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(name)s %(levelname)s %(message)s')\n"
        "get_logger('kdmt.a').info('half done')"
    )
    assert run_python(program).stdout == "kdmt.a INFO half done\n"


def test_the_command_line_writes_plain_lines_to_the_current_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with messages_on_stderr():
        replaced = io.StringIO()
        monkeypatch.setattr(sys, "stderr", replaced)
        get_logger("kdmt.a").info("prepare: 100% of 5 done")
        get_logger("kdmt.a").debug("not shown")
    get_logger("kdmt.a").info("after the command")
    assert replaced.getvalue() == "prepare: 100% of 5 done\n"
    assert capsys.readouterr().out == ""


def test_messages_are_written_once_where_the_root_logger_is_configured(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    root.addHandler(handler)
    try:
        with messages_on_stderr():
            get_logger("kdmt.a").warning("once")
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err == "once\n"


def test_the_logger_is_as_before_afterwards() -> None:
    logger = logging.getLogger("kdmt")
    before = (list(logger.handlers), logger.level, logger.propagate)
    with pytest.raises(ValueError, match="in between"), messages_on_stderr():
        raise ValueError("in between")
    assert (list(logger.handlers), logger.level, logger.propagate) == before


@pytest.mark.parametrize(("is_terminal", "shown"), [(True, True), (False, False)])
def test_bars_are_shown_on_a_terminal_by_the_command_line_alone(
    monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool, shown: bool
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    assert not shows_bars()
    with messages_on_stderr():
        assert shows_bars() is shown
