"""Groups of rows that differ only in the seed, and the names of systems, engines and ways of decoding in reports."""

from __future__ import annotations

from collections.abc import Iterable

from kdmt.score.score_files import ScoreRow

Group = list[ScoreRow]  # rows that differ only in the seed


def group_rows(rows: Iterable[ScoreRow]) -> list[Group]:
    """Return the rows of each system, engine and way of decoding, in order of first appearance."""
    groups: dict[tuple[str, str, str], Group] = {}
    for row in rows:
        groups.setdefault((row.system, engine_name(row), way_name(row)), []).append(row)
    return list(groups.values())


def way_name(row: ScoreRow) -> str:
    """Return the way of decoding as a cell of a table: a beam size, a number of iterations, or k of wait-k."""
    if row.wait_k is not None:
        return f"wait-{row.wait_k}"
    return str(row.beam) if row.iterations is None else f"{row.iterations} it."


def engine_name(row: ScoreRow) -> str:
    """Return the engine with its type of numbers and its threads."""
    return f"{row.engine} {row.compute_type}, {row.threads} thread{'s' if row.threads != 1 else ''}"


def decoding_name(row: ScoreRow) -> str:
    """Return the engine and the way of decoding, such as `ctranslate2 int8, beam 5`."""
    way = f"beam {row.beam}" if row.iterations is None else f"{row.iterations} iterations"
    way = way if row.wait_k is None else f"wait-{row.wait_k}"
    return f"{row.engine} {row.compute_type}, {way}"
