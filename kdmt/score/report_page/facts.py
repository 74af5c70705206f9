"""Record of a table of the report page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """A table of the page.

    Attributes:
        title: heading of the table.
        header: headings of the columns; empty for a table of names and values.
        lines: cells of each line.
        figures: whether each column has figures, which are aligned on the right.
    """

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    figures: Sequence[bool]
