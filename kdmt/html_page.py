"""Self-contained HTML pages: a frame with the style of all pages, and tables.

A page has no script and loads nothing. It follows the light or dark colours of the browser. All functions escape text
unless an argument is named as HTML.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 1rem 0 2rem; }}
caption {{ text-align: left; font-weight: 600; padding: .3rem 0; }}
th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #8886; text-align: left; }}
.figure {{ text-align: right; font-variant-numeric: tabular-nums; }}
code {{ font-size: .85rem; overflow-wrap: anywhere; }}
{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def page_html(title: str, body_html: str, *, style: str = "") -> str:
    """Return a page.

    Args:
        title: title of the page and its heading.
        body_html: HTML below the heading.
        style: further lines of CSS.
    """
    return _PAGE.format(title=html.escape(title), body=body_html, style=style)


def table_html(caption: str, header: Sequence[str], lines: Iterable[Sequence[str]], figures: Sequence[bool]) -> str:
    """Return a table.

    Args:
        caption: heading of the table; empty for none.
        header: headings of the columns; all empty for none.
        lines: cells of each line.
        figures: whether each column has figures, which are aligned on the right.
    """
    rows = [f"<table>\n<caption>{html.escape(caption)}</caption>" if caption else "<table>"]
    if any(header):
        rows.append(_row_html("th", header, figures))
    rows += [_row_html("td", cells, figures) for cells in lines]
    return "\n".join([*rows, "</table>"])


def _row_html(tag: str, cells: Sequence[str], figures: Sequence[bool]) -> str:
    opening = [f'<{tag} class="figure">' if is_figure else f"<{tag}>" for is_figure in figures]
    inside = [f"{start}{html.escape(cell)}</{tag}>" for start, cell in zip(opening, cells, strict=True)]
    return f"<tr>{''.join(inside)}</tr>"
