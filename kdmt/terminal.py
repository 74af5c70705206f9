"""Safe messages for a terminal: text from a file, server or archive cannot control the terminal or show a password.

Control characters are escaped where text is written (`printable_stderr`, `printable`), and not separately in each
message. The user and password of URLs are replaced in the same functions.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

# C0, C1 and DEL; line and paragraph separators; characters that change the writing direction; surrogates, to which
# Python decodes the bytes of file names that are not UTF-8
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_KEPT_BY_STREAMS = "\n\t"
# from the beginning of the host part of a URL to its last @; or, for a password with an unescaped /, after a colon that
# does not begin a port number
_LOGIN = re.compile(r"(?<=://)(?:[^\s/?#]*@|[^\s/?#:@]*:(?![0-9]{1,5}[/?#])[^\s'\"]*@)")


def printable(text: str, *, limit: int | None = None, keep: str = "") -> str:
    r"""Return text with control characters escaped, such as `\x1b`, and without the logins of URLs.

    Args:
        text: text to show.
        limit: maximum number of characters; longer text is truncated and ends in an ellipsis.
        keep: control characters that are not escaped.
    """
    text = without_logins(text)
    if not text.isprintable():
        text = _CONTROLS.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)
    if limit is not None and len(text) > limit:
        text = f"{text[: limit - 1]}…"
    return text


def without_logins(text: str) -> str:
    """Return text with the user and password of each URL replaced by `***`."""
    return _LOGIN.sub("***@", text) if "://" in text else text


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class PrintableStream:
    """A text stream that escapes control characters, except line ends and tabs."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text, keep=_KEPT_BY_STREAMS))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # libraries would bypass this class through the buffer
            raise AttributeError(name)
        return getattr(self.stream, name)


@contextmanager
def printable_stderr() -> Iterator[None]:
    """Escape all output of Python code to standard error while the body runs, including warnings and tracebacks."""
    before = sys.stderr
    with ExitStack() as opened:
        # `sys.stderr` is None if it is closed, and `print` would use standard output instead
        stream = before or opened.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        sys.stderr = cast(TextIO, PrintableStream(stream))
        try:
            yield
        finally:
            sys.stderr = before


def unescaped_stderr() -> TextIO:
    """Return standard error without `printable_stderr`, for output that moves the cursor."""
    stream = sys.stderr
    while isinstance(stream, PrintableStream):
        stream = stream.stream
    return stream


@contextmanager
def progress_bar(*columns: str | ProgressColumn) -> Iterator[Progress]:
    """Show a progress bar on standard error, whose own control characters are not escaped."""
    from rich import console, progress

    # rich replaces standard error by its own stream, which the inner `printable_stderr` wraps
    with progress.Progress(*columns, console=console.Console(file=unescaped_stderr())) as bar, printable_stderr():
        yield bar
