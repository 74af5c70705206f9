"""The 10,000 pairs of lines on which cleaning rules are compared with those of OpusFilter and OpusCleaner.

They are made of the words of the labelled pairs, with numbers, addresses, tags, repetitions, long words and words of
other languages in any mixture, so that each rule drops a part of them. Only the standard library is used.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

LABELLED = Path(__file__).resolve().parent / "cleaning" / "labelled_pairs.tsv"
NUM_PAIRS = 10_000
LANGUAGES = ("de", "fr", "cs", "ru", "ar")
TAGS = ("b", "i", 'p class="x"', "br/", 'a href="y"')
URLS = ("https://example.org/a", "http://example.org", "www.example.com", "un.org/x?y=1", "info@un.org")


def make_pairs() -> list[tuple[str, str, str]]:
    """Return target language, source and target of each pair; the source language is English."""
    draw = random.Random(7)
    rows = [line.split("\t") for line in LABELLED.read_text(encoding="utf-8").splitlines()[1:]]
    clean = {
        language: [(row[3], row[4]) for row in rows if row[1] == language and row[2] == "none"]
        for language in LANGUAGES
    }
    words = [word for pairs in clean.values() for pair in pairs for side in pair for word in side.split()]
    return [_pair(draw, language, clean[language], words) for language in LANGUAGES * (NUM_PAIRS // len(LANGUAGES))]


def _pair(draw: random.Random, language: str, clean: list[tuple[str, str]], words: list[str]) -> tuple[str, str, str]:
    sides = [list(side.split()) for side in draw.choice(clean)]
    length = draw.randrange(1, 25)
    sides = [side[: max(1, length + draw.randrange(-2, 3))] for side in sides]
    if draw.random() < 0.4:  # the same number or address on both sides, in most cases
        extra = draw.choice((*URLS, str(draw.randrange(100_000)), str(draw.randrange(1900, 2030))))
        for side in sides:
            other = draw.random() < 0.2
            side.insert(draw.randrange(len(side) + 1), draw.choice((*URLS, "17", "x")) if other else extra)
    if draw.random() < 0.1:
        sides[1] = list(sides[0])
        for _ in range(draw.randrange(3)):
            sides[1][draw.randrange(len(sides[1]))] = draw.choice(words)
    for side in sides:
        _spoil(draw, side, words)
    return (language, *(" ".join(side) for side in sides))  # type: ignore[return-value]


def _spoil(draw: random.Random, side: list[str], words: list[str]) -> None:
    """Change a side in one way, with a probability of a third."""
    place = draw.randrange(len(side))
    kind = draw.randrange(24)
    if kind == 0:
        side.insert(place, "".join(draw.choices("abcdefgh", k=draw.randrange(20, 300))))
    elif kind == 1:
        side[place] = f"<{draw.choice(TAGS)}>{side[place]}"
    elif kind == 2:
        side[place : place + 1] = side[place : place + draw.randrange(1, 4)] * draw.randrange(2, 5)
    elif kind == 3:
        side[:] = [letter for word in side[:4] for letter in word]
    elif kind == 4:
        side[place:] = [draw.choice(("--", "12", "***", "|", "%", "3.5")) for _ in range(draw.randrange(1, 12))]
    elif kind == 5:
        side[place:] = draw.choices(words, k=draw.randrange(1, 10))
    elif kind == 6:
        side.extend(draw.choices(words, k=draw.randrange(1, 200)))
    elif kind == 7:
        side[place] = draw.choice(("1,000", "10.5", "-7", "+3", "5th", "x2"))


def digest(pairs: list[tuple[str, str, str]]) -> str:
    """Return the SHA-256 of the pairs."""
    return hashlib.sha256("\n".join("\t".join(pair) for pair in pairs).encode()).hexdigest()
