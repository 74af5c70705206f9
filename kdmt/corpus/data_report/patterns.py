"""Frequent beginnings of dropped pairs, such as `Copyright © 0 by` -> `Copyright © 0`: boilerplate of a corpus."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable

_LENGTH = 40  # characters of each side
_MOST_IN_CHUNK = 500  # per rule
_MOST_IN_CORPUS = 5_000  # per rule
_MOST_LISTED = 500  # per rule of a corpus
MOST_SHOWN = 10
_NUMBER = re.compile(r"\d+")

Pattern = tuple[str, str]  # beginning of the source and of the target, each number replaced by 0
PatternCounts = dict[str, collections.Counter[Pattern]]  # rule -> pattern -> number of pairs that the rule dropped
ListedPatterns = dict[str, list[tuple[str, str, int]]]  # rule -> patterns with their numbers, as JSON values


def pattern_of(source: str, target: str) -> Pattern:
    """Return the beginnings of both sides, with each number replaced by 0 and whitespace by single spaces."""
    return _begin(source), _begin(target)


def _begin(line: str) -> str:
    return " ".join(_NUMBER.sub("0", line[: 2 * _LENGTH]).split())[:_LENGTH]


def prune_chunk(patterns: PatternCounts) -> PatternCounts:
    """Return the most frequent patterns of a chunk of pairs."""
    return {rule: _most_frequent(counts, _MOST_IN_CHUNK) for rule, counts in patterns.items()}


def add_patterns(patterns: PatternCounts, more: PatternCounts) -> None:
    """Add the counts of a chunk to those of a corpus, in bounded memory.

    With very many different patterns, the rarest ones are forgotten, so that counts may be too low.
    """
    for rule, counts in more.items():
        own = patterns.setdefault(rule, collections.Counter())
        own.update(counts)
        if len(own) > 2 * _MOST_IN_CORPUS:
            patterns[rule] = _most_frequent(own, _MOST_IN_CORPUS)


def list_patterns(patterns: PatternCounts) -> ListedPatterns:
    """Return the most frequent patterns of a corpus."""
    return {
        rule: [(*pattern, count) for pattern, count in _most_frequent(counts, _MOST_LISTED).items()]
        for rule, counts in patterns.items()
    }


def frequent_patterns(corpora: Iterable[ListedPatterns]) -> dict[str, list[tuple[Pattern, int]]]:
    """Return the patterns of each rule that occur at least twice in all corpora together, the most frequent first."""
    total: PatternCounts = {}
    for patterns in corpora:
        for rule, listed in patterns.items():
            own = total.setdefault(rule, collections.Counter())
            own.update({(source, target): count for source, target, count in listed})
    found = {rule: _most_frequent(counts, MOST_SHOWN) for rule, counts in total.items()}
    several = {
        rule: [(pattern, count) for pattern, count in counts.items() if count > 1] for rule, counts in found.items()
    }
    return {rule: patterns for rule, patterns in several.items() if patterns}


def _most_frequent(counts: collections.Counter[Pattern], limit: int) -> collections.Counter[Pattern]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return collections.Counter(dict(ordered[:limit]))
