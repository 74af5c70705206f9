"""Words of standard input that are translated as they arrive: options, and the bytes that are read and written."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from kdmt.commands.models import SearchOptions
from kdmt.commands.simultaneous import translate_simultaneously, translate_words
from kdmt.errors import UserError


class Spelled:
    """A translator that writes each source word in upper case, and the number of words at the end."""

    def begin(self) -> Spelled:
        self.count = 0
        return self

    def read(self, word: str) -> list[str]:
        self.count += 1
        return [word.upper()]

    def end(self) -> list[str]:
        return [str(self.count)]


def translated(data: bytes) -> bytes:
    output = io.BytesIO()
    translate_words(Spelled(), io.BytesIO(data), output)  # type: ignore[arg-type]
    return output.getvalue()


def test_a_line_is_a_sentence() -> None:
    assert translated("ein Hund\n\nläuft".encode()) == "EIN HUND 2\n0\nLÄUFT 1\n".encode()


@pytest.mark.parametrize(("data", "expected"), [("a b\nc", "A B 2\nC 1\n"), (" a", "A 1\n"), ("\na", "0\nA 1\n")])
def test_a_byte_order_mark_is_left_out(data: str, expected: str) -> None:
    assert translated(data.encode("utf-8-sig")) == expected.encode()
    assert translated(data.encode()) == expected.encode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 2}, "--beam 2: words that were written cannot be replaced"),
        ({"lenpen": 1.0}, "--lenpen has no effect with --simultaneous"),
        ({"iterations": 4}, "--iterations has no effect with --simultaneous"),
        ({"length_beam": 3}, "--length-beam has no effect with --simultaneous"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        translate_simultaneously(Path("model"), SearchOptions(**options), wait_k=3)  # type: ignore[arg-type]
