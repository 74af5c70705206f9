"""Messages for names that are not in the index, with the nearest names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from kdmt.errors import UserError

_NUM_NAMES = 5


def unknown_name(name: str, known: Iterable[str], *, what: str) -> UserError:
    """Return the error for a name that is not in the index.

    Args:
        name: the name as the user wrote it, with its kind, for example `opus: ParaCrawl/v10`.
        known: names of the same kind, without the kind.
        what: what the name should be, for example `a release of OPUS`.
    """
    nearest = nearest_names(name.partition(": ")[2], known)
    advice = f"; the nearest are {', '.join(nearest)}" if nearest else ""
    return UserError(f"{name}: not known as {what}{advice}. 'kdmt find SOURCE TARGET' lists the data sets of a pair")


def nearest_names(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that are most similar, regardless of case: at most five, the nearest first."""
    by_lower: dict[str, str] = {}
    for each in known:
        by_lower.setdefault(each.lower(), each)
    wanted = name.lower()
    inside = [lower for lower in by_lower if wanted and wanted in lower][:_NUM_NAMES]
    similar = difflib.get_close_matches(wanted, by_lower, n=_NUM_NAMES, cutoff=0.6)
    return [by_lower[lower] for lower in dict.fromkeys([*similar, *inside])][:_NUM_NAMES]
