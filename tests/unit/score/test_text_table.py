"""Tables for the terminal."""

from __future__ import annotations

from kdmt.score.text_table import draw, make_table

HEADER, LINES = ["name", "a\nb"], [["[red]x", "1.0 ± 0.5"], ["long name of a system", "2"]]


def drawn(width: int, *, ascii_only: bool) -> list[str]:
    table = make_table("title", HEADER, LINES, [False, True], ascii_only=ascii_only)
    return draw(lambda console: console.print(table), width=width, ascii_only=ascii_only).splitlines()


def test_figures_are_on_the_right_and_brackets_are_text() -> None:
    lines = drawn(60, ascii_only=False)
    assert lines[0].strip() == "title"
    assert [line for line in lines if "[red]x" in line] == ["[red]x                  1.0 ± 0.5"]
    assert [line for line in lines if "long" in line] == ["long name of a system           2"]


def test_a_narrow_terminal_wraps_names_and_not_figures() -> None:
    assert any(line.endswith("1.0 ± 0.5") for line in drawn(24, ascii_only=False))


def test_ascii_output_has_no_other_character() -> None:
    assert all(line.isascii() for line in drawn(60, ascii_only=True))
    assert any("1.0 +/- 0.5" in line for line in drawn(60, ascii_only=True))
