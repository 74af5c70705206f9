"""Checks of the corpora of a pipeline: counts for report.json, and a warning for each finding."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdmt.config import Context
from kdmt.corpus.context import without_context
from kdmt.corpus.decontaminate import comparison_key
from kdmt.corpus.lines import iterate_lines
from kdmt.corpus.rules.tidying import remove_invisible
from kdmt.corpus.swapped import MAX_LINES, Sides
from kdmt.corpus.text_files import Malformed
from kdmt.types import PAD, SPECIALS, UNK

Pair = tuple[str, str]
Finding = tuple[dict[str, Any], list[str]]  # values for report.json, and warnings

_LEAST_SHARED = 0.05  # share of a test set that another held-out set must contain for a warning; less may be chance


def check_malformed(found: Mapping[str, Malformed]) -> Finding:
    """Count the malformed rows that were left out of each corpus.

    Args:
        found: name of the corpus -> its malformed rows.

    Returns:
        Values for report.json, and warnings.
    """
    report = {name: malformed.as_dict() for name, malformed in found.items() if malformed.total}
    warnings = [
        f"{name}: {count:,} malformed rows were left out: {kind} ({', '.join(found[name].first_lines[kind])}"
        f"{', ...' if count > len(found[name].first_lines[kind]) else ''})"
        for name in report
        for kind, count in found[name].counts.items()
    ]
    return report, warnings


def check_held_out(held_out: Mapping[str, Sequence[Pair]]) -> Finding:
    """Count empty lines of held-out sets, and sentences that a test set shares with the validation set or another one.

    Args:
        held_out: split -> its pairs; without further translations of the validation set, which are no separate set.

    Returns:
        Values for report.json, and warnings.
    """
    report: dict[str, Any] = {}
    warnings: list[str] = []
    for split, pairs in held_out.items():
        report[split] = {"lines": len(pairs)}
        for side, lines in zip(("source", "target"), zip(*pairs, strict=True), strict=True):
            report[split][f"empty_{side}"] = count = sum(not remove_invisible(line).strip() for line in lines)
            if count:
                warnings.append(f"{split}: {count:,} of {len(pairs):,} {side} lines are empty")
    keys = {split: [(comparison_key(s), comparison_key(t)) for s, t in pairs] for split, pairs in held_out.items()}
    for first, second in itertools.combinations(keys, 2):
        shared = _count_shared(keys[first], keys[second], sides=1 if "valid" in (first, second) else 2)
        report[second].setdefault("shared", {})[first] = shared
        if shared and shared >= _LEAST_SHARED * len(keys[second]):
            what = "source sentences" if first == "valid" else "pairs"
            warnings.append(
                f"{second}: {shared:,} of {len(keys[second]):,} {what} are those of {first}"
                + (": what is chosen by the validation set is not tested by them" if first == "valid" else "")
            )
    return report, warnings


def _count_shared(first: Sequence[tuple[bytes, ...]], second: Sequence[tuple[bytes, ...]], *, sides: int) -> int:
    known = {keys[:sides] for keys in first}
    return sum(keys[:sides] in known for keys in second if all(keys[:sides]))


def check_sides(
    sides: tuple[Path, Path],
    parts: Mapping[str, int],
    held_out: Mapping[str, Sequence[Pair]],
    *,
    context: Context | None = None,
) -> Finding:
    """Count the pairs whose source and target seem to be exchanged, by comparison with the validation set.

    Args:
        sides: files of the training text, source and target.
        parts: name of each corpus of the training text -> its number of lines, in the order of the text.
        held_out: split -> its pairs, in the same form as the training text, without context.
        context: how the sources of the training text have their context; None if they have none.

    Returns:
        Values for report.json, and warnings.
    """
    valid = Sides(held_out["valid"])
    samples = {split: list(_spread(iter(pairs), len(pairs))) for split, pairs in held_out.items() if split != "valid"}
    sources = (without_context(line, context) for line in iterate_lines(sides[0]))
    lines = zip(sources, iterate_lines(sides[1]), strict=True)
    samples |= {name: list(_spread(itertools.islice(lines, count), count)) for name, count in parts.items()}
    report: dict[str, Any] = {}
    warnings: list[str] = []
    for name, pairs in samples.items():
        found = valid.compare(pairs)
        report[name] = {"compared": found.num_pairs, "exchanged": found.num_exchanged}
        if found.is_suspicious:
            warnings.append(
                f"{name}: source and target seem to be exchanged in {found.num_exchanged:,} of the "
                f"{found.num_pairs:,} pairs that were compared with valid"
            )
    return report, warnings


def _spread(pairs: Iterator[Pair], count: int) -> Iterator[Pair]:
    """Yield about `MAX_LINES` evenly spaced pairs of the `count` pairs, all if there are fewer."""
    return itertools.islice(pairs, 0, None, max(1, count // MAX_LINES))


def check_specials(counts: Mapping[str, Mapping[str, int]], *, ids: bool = False) -> Finding:
    """Report the special symbols inside sentences of the training set.

    Args:
        counts: language -> symbol -> number of occurrences.
        ids: whether the counts are of ids of the symbols in a data-bin, and not of words of text with their spelling.

    Returns:
        Values for report.json, and warnings.
    """
    report = {lang: dict(found) for lang, found in counts.items() if found}
    what = "ids of {} inside sentences" if ids else "words {}"
    warnings = [
        f"the {lang} side of the training set has {found[symbol]:,} {what.format(symbol)}"
        + (": they count as <unk>" if not ids or symbol == SPECIALS[PAD] else "")
        for lang, found in report.items()
        for symbol in SPECIALS[:UNK]
        if symbol in found
    ]
    return report, warnings


def report_findings(findings: Mapping[str, Finding], say: Callable[[str], None]) -> dict[str, Any]:
    """Pass every warning to `say`, and return the values for report.json."""
    for _, warnings in findings.values():
        for warning in warnings:
            say(f"prepare: warning: {warning}")
    return {name: report for name, (report, _) in findings.items()}
