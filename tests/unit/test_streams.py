"""Standard streams through real pipes: a closed pipe, closed streams, other encodings, a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kdmt

PACKAGES = str(Path(kdmt.__file__).parents[1])
TEXT = "naïve ± жук"
PREPARE = "import sys\nfrom kdmt.streams import *\nprotect_streams()\n"


def environment(**settings: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": PACKAGES, **settings}


def pipe_without_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def kdmt_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kdmt", *arguments]


def program(*lines: str) -> list[str]:
    source = PREPARE + "\n".join(lines)
    assert source.isascii()  # an argument is encoded in the encoding of the locale
    return [sys.executable, "-c", source]


@pytest.mark.parametrize("arguments", [["--help"], ["fairseq-plugin"]], ids=" ".join)
def test_a_closed_pipe_of_standard_output_gives_no_error_message(arguments: list[str]) -> None:
    """Check the behaviour of commands such as `kdmt ... | head`."""
    writing = pipe_without_reader()
    done = subprocess.run(kdmt_command(*arguments), stdout=writing, stderr=subprocess.PIPE, env=environment())
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_error_also_at_the_last_write() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            kdmt_command("fairseq-plugin"), stdout=full, stderr=subprocess.PIPE, text=True, env=environment()
        )
    assert done.returncode == 2
    assert done.stderr.startswith("kdmt: error: ")
    assert "disk is full" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_closed_pipe_of_standard_error_does_not_end_the_program(tmp_path: Path) -> None:
    writing = pipe_without_reader()
    work = "from pathlib import Path\nfor line in range(1000): print('update', line, file=sys.stderr, flush=True)"
    lines = [work, "sys.stderr.write('no end of line')", f"Path({str(tmp_path / 'saved')!r}).touch()", "print('done')"]
    done = subprocess.run(program(*lines), stdout=subprocess.PIPE, stderr=writing, env=environment())
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"done\n")
    assert (tmp_path / "saved").exists()


def test_messages_do_not_go_to_standard_output_if_standard_error_is_closed() -> None:
    command = program("print('message', file=sys.stderr)", "print('data')", "sys.stderr.isatty()")
    done = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *command], capture_output=True, env=environment())
    assert (done.returncode, done.stdout) == (0, b"data\n")


def test_no_file_gets_the_descriptor_of_a_closed_stream(tmp_path: Path) -> None:
    path = tmp_path / "file"
    command = program(f"file = open({str(path)!r}, 'w')", "print('text')", "sys.stdout.flush()", "file.write('own')")
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command], env=environment())
    assert done.returncode == 0
    assert path.read_text() == "own"


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        (">&-", "kdmt: error: standard output is closed: there is nowhere to write to\n"),
        ("<&-", "kdmt: error: standard input is closed: there is nothing to read from\n"),
    ],
)
def test_a_closed_stream_for_data_is_an_error(redirection: str, message: str) -> None:
    command = kdmt_command("translate", "nowhere")
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *command], stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert (done.returncode, done.stderr) == (2, message)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:strict"])
def test_text_is_escaped_for_the_terminals_encoding_and_data_is_utf8(encoding: str) -> None:
    lines = [f"print({TEXT!a}, shows_unicode(), flush=True)", f"with output_text() as out: out.write({TEXT!a} + '\\n')"]
    done = subprocess.run(
        program(*lines), capture_output=True, env=environment(PYTHONIOENCODING=encoding, PYTHONUTF8="0"), check=True
    )
    text, data, end = done.stdout.split(b"\n")
    escaped = f"{TEXT} False".encode(encoding.partition(":")[0], "backslashreplace")
    assert (text, data, end) == (escaped, TEXT.encode(), b"")


def test_text_is_not_escaped_in_a_utf8_terminal() -> None:
    lines = [f"print({TEXT!a}, shows_unicode())"]
    done = subprocess.run(program(*lines), capture_output=True, env=environment(PYTHONIOENCODING="utf-8"), check=True)
    assert done.stdout.decode() == f"{TEXT} True\n"
