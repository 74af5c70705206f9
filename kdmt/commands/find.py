"""`kdmt find`: list the published data sets of a language pair, in YAML that can be pasted into a pipeline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from kdmt.corpus.datasets.catalogue import Found, find_datasets, find_monolingual
from kdmt.corpus.datasets.recorded_index import recorded_index
from kdmt.corpus.datasets.records import Dataset
from kdmt.errors import UserError
from kdmt.languages import Direction, parse_language

_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_ROUNDS_UP = 0.9995  # of a unit: with three digits, 999.5 MB is 1 GB
_WIDTH = 40  # column at which comments begin, if the names are shorter


def find(
    source: str,
    target: str | None,
    *,
    test: bool = False,
    min_pairs: int = 0,
    max_pairs: int | None = None,
    all_versions: bool = False,
) -> list[Found]:
    """Return the data sets of a language pair, or the monolingual text in one language.

    Args:
        source: source language.
        target: target language; None for monolingual text in `source`.
        test: whether to return test and development sets only.
        min_pairs: smallest number of pairs; data sets of unknown size are left out if it is positive.
        max_pairs: largest number of pairs of training text, None for no limit; an unknown size is within it.
        all_versions: whether to include releases of which there is a newer version.

    Raises:
        UserError: if a code is no language code, or both are the same.
    """
    for code in (source, target):
        _check_code(code)
    if target is None:
        found = find_monolingual(source, recorded_index())
    elif source == target:
        raise UserError(f"{source}: the source and the target language are the same")
    else:
        found = find_datasets(Direction(source, target), recorded_index(), all_versions=all_versions)
    return [each for each in found if _is_wanted(each, test, min_pairs, max_pairs)]


def _check_code(code: str | None) -> None:
    try:
        if code is not None:
            parse_language(code)
    except ValueError as error:
        raise UserError(str(error)) from None


def _is_wanted(found: Found, test: bool, min_pairs: int, max_pairs: int | None) -> bool:
    pairs = found.dataset.num_pairs
    if (test and found.use != "test") or (pairs or 0) < min_pairs:
        return False
    return max_pairs is None or found.use == "test" or (pairs or 0) <= max_pairs


def find_lines(found: Sequence[Found]) -> Iterator[str]:
    """Yield the data sets as settings of `prepare` in YAML, with sizes, licences and overlaps in comments."""
    if not found:
        yield "# the index has no such data set"
        return
    yield "prepare:"
    for use in ("train", "test", "monolingual"):
        entries = [each for each in found if each.use == use]
        if entries:
            yield f"  {use}:"
        for each in entries:
            entry = f"- {each.dataset.name}" if use != "test" else f"{_key(each)}: {{{each.dataset.name}}}"
            yield f"    {entry:<{_WIDTH}}  # {'; '.join(_facts(each))}"


def _key(found: Found) -> str:
    """Return a name of a test set for its data set: the value, with characters that such names may have."""
    kind, _, value = found.dataset.name.partition(": ")
    name = value if kind in ("sacrebleu", "mtdata") else f"{kind}-{value}" if value != "true" else kind
    return re.sub(r"[^\w+.-]", "-", name, flags=re.ASCII)


def _facts(found: Found) -> Iterator[str]:
    """Yield what is known about a data set: size, licence, overlaps."""
    yield size_and_licence(found.dataset)
    if found.dataset.overlaps:
        yield "overlaps with " + "; ".join(found.dataset.overlaps)


def size_and_licence(dataset: Dataset) -> str:
    """Return the number of pairs, the size of the download and the licence of a data set, for a comment."""
    sizes = [f"{dataset.num_pairs:,} pairs"] if dataset.num_pairs else []
    sizes += [_size(dataset.size_bytes)] if dataset.size_bytes else []
    return f"{', '.join(sizes) or 'size unknown'}; {dataset.licence or 'licence unknown'}"


def _size(num_bytes: int) -> str:
    """Return a size with three significant digits; a column of `kdmt status` has one decimal instead."""
    large_enough = ((unit, factor) for unit, factor in _UNITS if num_bytes >= _ROUNDS_UP * factor)
    unit, factor = next(large_enough, ("bytes", 1))
    return f"{num_bytes / factor:.3g} {unit}"


def find_json(found: Sequence[Found]) -> str:
    """Return the data sets as JSON."""
    records = [
        {
            "name": each.dataset.name,
            "use": each.use,
            "num_pairs": each.dataset.num_pairs,
            "size_bytes": each.dataset.size_bytes,
            "licence": each.dataset.licence,
            "homepage": each.dataset.homepage,
            "overlaps": list(each.dataset.overlaps),
            "entry": each.dataset.entry,
        }
        for each in found
    ]
    return json.dumps(records, indent=2, ensure_ascii=False)
