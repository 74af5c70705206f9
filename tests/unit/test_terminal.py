"""Output on a terminal: control characters are escaped and passwords removed, and progress bars still work."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from tiny_pipeline import kdmt, read_pty, working_in

from kdmt.terminal import PrintableStream, printable, without_logins

RED, TITLE, CLEAR = "\x1b[31m", "\x1b]0;title\x07", "\x9b2J"


@pytest.mark.parametrize("keep", ["", "\n\t"])
def test_no_control_character_is_left(keep: str) -> None:
    """Check all Unicode characters of the categories Cc, Zl, Zp and Cs, and the bidirectional controls."""
    everything = "".join(map(chr, range(0x110000)))
    text = printable(everything, keep=keep)
    bidirectional = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    left = {
        character
        for character in set(text)
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")
        or unicodedata.bidirectional(character) in bidirectional
    }
    assert left == set(keep)
    letters = "".join(c for c in everything if unicodedata.category(c)[0] in "LMNPS")
    assert printable(letters, keep=keep) == letters
    assert printable("می‌خواهم 👩‍👩‍👧 a\u00a0b\u3000c", keep=keep) == "می‌خواهم 👩‍👩‍👧 a\u00a0b\u3000c"  # joiners, spaces


def test_escaped_text_is_readable() -> None:
    assert printable(f"{RED}a\nb\x9b\u202e\udcff") == r"\x1b[31ma\nb\x9b\u202e\udcff"


def test_a_long_text_is_cut() -> None:
    assert printable("x" * 10, limit=10) == "x" * 10
    assert printable("x" * 11, limit=10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host/a@b?c=@", "https://***@host/a@b?c=@"),
        ("no http://secret@host:80 or https://u:s@cr%40et@host", "no http://***@host:80 or https://***@host"),
        ("https://host/@user/x", "https://host/@user/x"),
        ("me@host", "me@host"),
        ("https://user:se/cr#et@host/x", "https://***@host/x"),
        ("http://127.0.0.1:8080/@user/x", "http://127.0.0.1:8080/@user/x"),
        ("https://host/a?mail=b@c", "https://host/a?mail=b@c"),
    ],
)
def test_logins_of_urls_are_left_out(url: str, shown: str) -> None:
    assert without_logins(url) == printable(url) == shown


def test_a_stream_keeps_its_lines() -> None:
    text = io.StringIO()
    stream = PrintableStream(text)
    print(f"{RED}a", "b\tc", file=stream)
    stream.writelines(["x\r", "y\n"])
    assert text.getvalue() == "\\x1b[31ma b\tc\nx\\ry\n"
    assert not stream.isatty()
    assert not hasattr(stream, "buffer")


@pytest.mark.parametrize(
    "arguments",
    [
        ("prepare", f"{RED}{TITLE}{CLEAR}.yaml"),
        ("prepare", "bad.yaml"),
        ("prepare", "good.yaml", "--set", f"{RED}=1"),
        ("prepare", "good.yaml", "--set", f"teacher={RED}{CLEAR}"),
        ("translate", f"{RED}folder"),
        ("translate", f"{os.fsdecode(bytes([255]))}{RED}"),
        ("rescore", "good.yaml", f"{RED}a", f"{RED}b"),
        (f"{RED}command",),
        ("prepare", f"--{RED}option"),
        ("import-checkpoint", f"{RED}.pt", "OUT", "--data", "."),
        ("import-fairseq", f"{RED}data-bin", "new.yaml"),
        ("generate", f"{RED}data-bin", "--path", f"{RED}.pt"),
        ("export", f"{RED}", "OUT", "--to", "onnx"),
    ],
    ids=range(13),
)
def test_messages_have_no_control_characters(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with working_in(tmp_path):
        Path("bad.yaml").write_text('"\\e[31mkey\\a": 1\nname: "\\x9b2J"\n', encoding="utf-8")
        Path("good.yaml").write_text("name: x\n", encoding="utf-8")
        result = kdmt(*arguments)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert {c for c in result.out + result.err if unicodedata.category(c) == "Cc"} <= {"\n"}


def test_a_progress_bar_works_on_a_terminal_and_names_are_escaped() -> None:
    """Check on a real terminal that rich's own control characters arrive and those in names and messages do not."""
    program = """
import sys, warnings
from kdmt import cli
from kdmt.flow.progress import sentence_progress
from kdmt.log import messages_on_stderr

def app():
    with messages_on_stderr(), sentence_progress("evil\\x1b]0;name\\x07", 3) as advance:
        advance(1)
        warnings.warn("evil\\x1b]0;warning\\x07")
        print("evil\\x1b]0;print\\x07", file=sys.stderr)
        advance(2)
    raise ValueError("evil\\x1b]0;error\\x07")
cli.app = app
cli.main()
"""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stderr=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200", "NO_COLOR": ""},
    ) as process:
        os.close(follower)
        text = read_pty(leader)
    assert process.returncode == 1
    assert "\x1b[" in text
    assert "\x1b]" not in text
    for name in ("name", "warning", "print", "error"):
        assert f"evil\\x1b]0;{name}\\x07" in text
