"""Tables for the terminal."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text  # brackets in Text are not interpreted as markup


def make_table(
    title: str, header: Sequence[str], lines: Sequence[Sequence[str]], figures: Sequence[bool], *, ascii_only: bool
) -> Table:
    """Return a table. In a narrow terminal, cells are wrapped except those with figures.

    Args:
        title: heading of the table, wrapped to its width; empty for none.
        header: headings of the columns.
        lines: cells of each line, at least one line.
        figures: whether each column has figures, which are aligned on the right.
        ascii_only: whether to use only ASCII for signs.
    """
    if ascii_only:  # before the widths of the columns are computed
        lines = [[in_ascii(cell) for cell in cells] for cells in lines]
    table = Table(
        title=Text(title) if title else None, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    for name, is_figure, cells in zip(header, figures, zip(*lines, strict=True), strict=True):
        widest = max(len(part) for text in (name, *cells) for part in text.split("\n"))
        if is_figure:
            table.add_column(Text(name), justify="right", no_wrap=True, min_width=widest)
        else:
            table.add_column(Text(name), overflow="fold", min_width=min(widest, 12))
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    return table


def draw(write: Callable[[Console], None], *, width: int, ascii_only: bool) -> str:
    """Return what a function writes to a console, as plain text without spaces at the ends of lines.

    Args:
        write: function that writes to the console.
        width: number of columns of the terminal.
        ascii_only: whether to use only ASCII for lines and signs.
    """
    text = io.StringIO()
    write(Console(file=text, width=width, color_system=None, force_terminal=False, legacy_windows=False))
    drawn = in_ascii(text.getvalue()) if ascii_only else text.getvalue()
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"


def in_ascii(text: str) -> str:
    """Replace the signs of the tables by ASCII characters; names of systems are not changed."""
    return text.replace("±", "+/-").replace("–", "-").replace("─", "-")
