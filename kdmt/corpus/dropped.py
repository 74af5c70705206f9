"""Warnings, with examples, about rules that drop a large share of a corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

MUCH_OF_ALL = 0.2  # largest share of a corpus that all rules together may drop without a warning
MUCH_OF_ONE = 0.1  # the same for a single rule
NUM_EXAMPLES = 3  # per rule, in a message
NUM_REPORTED = 10  # per rule, in a report
_SHOWN = 60  # maximum number of characters of a line in a message
REPORTED_CHARACTERS = 300  # of a line in a report

Texts = tuple[str, ...]  # a pair of lines
Examples = dict[str, list[Texts]]  # rule -> the first pairs that it dropped


def add_examples(examples: Examples, more: Mapping[str, Sequence[Texts]], most: int = NUM_EXAMPLES) -> None:
    """Add examples to those of each rule, up to `most` per rule."""
    for rule, found in more.items():
        own = examples.setdefault(rule, [])
        own += found[: most - len(own)]


def cut_texts(*lines: str, length: int = _SHOWN) -> Texts:
    """Return lines truncated to the maximum length of an example, by default that of an example in a message."""
    return tuple(line if len(line) <= length else f"{line[:length]}..." for line in lines)


def for_message(examples: Mapping[str, Sequence[Texts]]) -> Examples:
    """Return those of the examples of a report that are shown in a message, as a message shows them."""
    return {rule: [cut_texts(*texts) for texts in found[:NUM_EXAMPLES]] for rule, found in examples.items()}


def show_texts(texts: Texts) -> str:
    """Return a pair of lines as text for a message; two equal lines are shown once."""
    return " -> ".join(map(repr, dict.fromkeys(texts)))


def lost_much(total: int, dropped: Mapping[str, int]) -> bool:
    """Return whether all rules drop more than `MUCH_OF_ALL` of a corpus, or one rule more than `MUCH_OF_ONE`."""
    return sum(dropped.values()) > MUCH_OF_ALL * total or any(lost > MUCH_OF_ONE * total for lost in dropped.values())


def describe_dropped(total: int, dropped: Mapping[str, int]) -> str:
    """Return the counts of the rules, the largest first, such as `max_ratio 3,857 (96%), empty 2`."""
    ordered = sorted((count, rule) for rule, count in dropped.items() if count)[::-1]
    return ", ".join(f"{rule} {count:,}{_share(count, total)}" for count, rule in ordered) or "none"


def warning_lines(
    name: str, what: str, total: int, dropped: Mapping[str, int], examples: Mapping[str, Sequence[Texts]]
) -> Iterator[str]:
    """Yield the lines of a warning if the rules drop a large share of a corpus (see `lost_much`), else nothing.

    Args:
        name: name of the corpus.
        what: description of what is counted, such as "pairs dropped".
        total: number of pairs of the corpus.
        dropped: rule -> number of pairs that it dropped.
        examples: rule -> examples of such pairs.
    """
    if not lost_much(total, dropped):
        return
    lost = sum(dropped.values())
    yield f"warning: {name}: {lost:,} of {total:,} {what}{_share(lost, total)}: {describe_dropped(total, dropped)}"
    worst = max(dropped.values())
    for rule, count in dropped.items():
        if count > MUCH_OF_ONE * total or count == worst:
            for texts in examples.get(rule, ()):
                yield f"  {rule}: {show_texts(texts)}"


def _share(count: int, total: int) -> str:
    share = 100 * count / total if total else 0.0
    return f" ({share:.0f}%)" if share >= 1 else ""
