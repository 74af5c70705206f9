"""Characters that a tokenizer keeps if each script has its own coverage (`tokenizer.character_coverage: auto`).

One coverage for all characters of several languages is wrong for some of them: 0.9995 drops the characters of a
language with little text, and 1.0 keeps thousands of rare Chinese characters. Here a script with thousands of
characters has the coverage that SentencePiece recommends for such languages, and those of other scripts are all kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import regex

# Scripts with more than a thousand characters. Each has a coverage of its own; hiragana and katakana are small scripts.
LARGE_SCRIPTS = ("Han", "Hangul", "Yi", "Tangut")
LARGE_COVERAGE = 0.9995
_SCRIPT_OF = regex.compile("|".join(rf"(?P<{name}>\p{{Script={name}}})" for name in LARGE_SCRIPTS))


def count_characters(lines: Iterable[str]) -> Counter[str]:
    """Return the number of times that each character occurs, without whitespace and `\\0`."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line)
    return Counter({char: count for char, count in counts.items() if not char.isspace() and char != "\0"})


def script_of_character(char: str) -> str | None:
    """Return the script of a character in `LARGE_SCRIPTS`; None for other scripts.

    Examples:
        >>> script_of_character("漢"), script_of_character("ひ")
        ('Han', None)
    """
    found = _SCRIPT_OF.match(char)
    return None if found is None else found.lastgroup


def covering_characters(counts: Mapping[str, int], *, coverage: float = LARGE_COVERAGE) -> str:
    """Return the characters that are kept, in the order of their code points.

    Of a large script, they are the most frequent ones (the lower code point first if there are several with a count),
    until their share of the script's occurrences is at least the coverage. Of other scripts, they are all.

    Args:
        counts: number of occurrences of each character.
        coverage: share of the occurrences of each large script, above 0 and at most 1.
    """
    by_script: dict[str | None, list[str]] = {}
    for char in counts:
        by_script.setdefault(script_of_character(char), []).append(char)
    kept = set(by_script.pop(None, ()))
    for chars in by_script.values():
        kept.update(_most_frequent(chars, counts, coverage))
    return "".join(sorted(kept))


def _most_frequent(chars: list[str], counts: Mapping[str, int], coverage: float) -> list[str]:
    total, covered = sum(counts[char] for char in chars), 0
    kept = []
    for char in sorted(chars, key=lambda char: (-counts[char], char)):
        if covered >= coverage * total:
            break
        kept.append(char)
        covered += counts[char]
    return kept
