"""Warnings, with examples, about rules that drop a large share of a corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

MUCH_OF_ALL = 0.2  # largest share of a corpus that all rules together may drop without a warning
MUCH_OF_ONE = 0.1  # the same for a single rule
NUM_EXAMPLES = 10  # per rule, for the data report
_NUM_SHOWN = 3  # per rule, in a warning
_LENGTH = 200  # maximum number of characters of a line of an example
_LENGTH_SHOWN = 60  # maximum number of characters of a line in a message

Texts = tuple[str, ...]  # a pair of lines
Examples = dict[str, list[Texts]]  # rule -> the first pairs that it dropped


def add_examples(examples: Examples, more: Mapping[str, Sequence[Texts]]) -> None:
    """Add examples to those of each rule, up to `NUM_EXAMPLES` per rule."""
    for rule, found in more.items():
        own = examples.setdefault(rule, [])
        own += found[: NUM_EXAMPLES - len(own)]


def cut_texts(*lines: str) -> Texts:
    """Return lines truncated to the maximum length of an example."""
    return tuple(_cut(line, _LENGTH) for line in lines)


def _cut(line: str, length: int) -> str:
    return line if len(line) <= length else f"{line[:length]}..."


def show_texts(texts: Texts) -> str:
    """Return a pair of lines as text for a message; two equal lines are shown once."""
    return " -> ".join(repr(_cut(text, _LENGTH_SHOWN)) for text in dict.fromkeys(texts))


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
            for texts in examples.get(rule, ())[:_NUM_SHOWN]:
                yield f"  {rule}: {show_texts(texts)}"


def _share(count: int, total: int) -> str:
    share = 100 * count / total if total else 0.0
    return f" ({share:.0f}%)" if share >= 1 else ""
