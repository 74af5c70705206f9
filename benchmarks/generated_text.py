"""Parallel text of any size for benchmarks: words with Zipf frequencies, lengths of real sentences, planted faults.

The most frequent words are function words of English and German, so that a rule for languages keeps most pairs; all
others are invented from syllables. A target has the words with the same ranks in reverse order.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

VOCABULARY_WORDS = 200_000
CHUNK_PAIRS = 50_000
HELD_OUT_PAIRS = 1_000
# shares of the pairs
DUPLICATES = 0.05  # of the pair before
NEAR_DUPLICATES = 0.02  # of the pair before, with another word on each side
COPIES = 0.01  # of the source as target
OVERLAPS = 0.001  # a test sentence with words around it
WRONG_NUMBERS = 0.01
WRONG_TARGETS = 0.005  # of another length

SYLLABLES = {  # beginnings, vowels and ends
    "en": ("b c d f g h l m n p r s t w th sh ch st br cl", "a e i o u ea ou", "n r t s d ly"),
    "de": ("b d f g h k l m n r s t w sch st br pf z", "a e i o u ei ie ä ö ü", "n r t s ch ung"),
}
FUNCTION_WORDS = {
    "en": (
        "the of and to in a is that for it with as was on be by are this from at which or have an not but they had he "
        "were their has been one all can more when there if will also would other who its than we out about into "
        "these some so them only time two may could then do first any my now such like our over"
    ),
    "de": (
        "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat "
        "dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur bis "
        "mehr durch man sein wurde sei wenn können doch seine unter wir soll ich eines kann gegen schon"
    ),
}


def generate(folder: Path, pairs: int, *, compressed: bool = False) -> None:
    """Write `train`, `valid` and `test` in English and German (`train.en`), the training text as gzip if asked for."""
    rng = np.random.default_rng(1)
    text = _Text(rng)
    held_out = [_join(*pair) for pair in text.sentences(rng, 2 * HELD_OUT_PAIRS)]
    for split, own in (("valid", held_out[:HELD_OUT_PAIRS]), ("test", held_out[HELD_OUT_PAIRS:])):
        for side, lang in enumerate(("en", "de")):
            (folder / f"{split}.{lang}").write_text("".join(f"{pair[side]}\n" for pair in own), encoding="utf-8")
    paths = [folder / f"train.{lang}{'.gz' if compressed else ''}" for lang in ("en", "de")]
    with (
        gzip.open(paths[0], "wb", 1) if compressed else paths[0].open("wb") as source,
        gzip.open(paths[1], "wb", 1) if compressed else paths[1].open("wb") as target,
    ):
        for start in range(0, pairs, CHUNK_PAIRS):
            chunk = list(_chunk(rng, text, min(CHUNK_PAIRS, pairs - start), held_out))
            for file, side in ((source, 0), (target, 1)):
                file.write("".join(f"{pair[side]}\n" for pair in chunk).encode())


class _Text:
    """Words of both languages by rank, and their frequencies."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.words = {lang: _make_words(rng, lang) for lang in ("en", "de")}
        frequencies = 1.0 / np.arange(3, VOCABULARY_WORDS + 3)
        self.cumulative = np.cumsum(frequencies / frequencies.sum())

    def sentences(self, rng: np.random.Generator, count: int) -> Iterator[tuple[list[str], list[str]]]:
        """Yield the words of both sides of pairs; the median length is 16 words, the mean 19."""
        lengths = np.clip(np.rint(np.exp(rng.normal(2.77, 0.6, size=count))), 2, 100).astype(np.int64)
        ranks = np.searchsorted(self.cumulative, rng.random(int(lengths.sum()))).clip(max=VOCABULARY_WORDS - 1)
        ends = np.cumsum(lengths)
        english, german = self.words["en"], self.words["de"]
        flat = ranks.tolist()
        for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True):
            row = flat[start:end]
            yield [english[rank] for rank in row], [german[rank] for rank in reversed(row)]


def _make_words(rng: np.random.Generator, lang: str) -> list[str]:
    """Return distinct words: function words, then invented ones of one to four syllables, frequent ones shorter."""
    onsets, vowels, codas = (sounds.split() for sounds in SYLLABLES[lang])
    open_syllables = ["".join(parts) for parts in itertools.product(onsets, vowels)]
    words = dict.fromkeys(FUNCTION_WORDS[lang].split())
    while len(words) < VOCABULARY_WORDS:
        length = 1 + (len(words) > 500) + (len(words) > 8_000) + (len(words) > 120_000)
        ends = rng.integers(len(codas), size=10_000)
        for row, end in zip(rng.integers(len(open_syllables), size=(10_000, length)), ends, strict=True):
            words["".join(open_syllables[number] for number in row) + codas[end]] = None
            if len(words) in (501, 8_001, 120_001):
                break
    return list(words)[:VOCABULARY_WORDS]


def _chunk(
    rng: np.random.Generator, text: _Text, count: int, held_out: list[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    kinds = (None, "duplicate", "near", "copy", "overlap", "number", "target")
    shares = (DUPLICATES, NEAR_DUPLICATES, COPIES, OVERLAPS, WRONG_NUMBERS, WRONG_TARGETS)
    chosen = np.searchsorted(np.cumsum([1 - sum(shares), *shares]), rng.random(count)).clip(max=len(shares)).tolist()
    numbers = rng.integers(1, 3000, size=(count, 2)).tolist()
    before = ["the"], ["der"]
    for kind, (one, other), (source, target) in zip(chosen, numbers, text.sentences(rng, count), strict=True):
        name = kinds[kind]
        if name == "duplicate":
            source, target = before
        elif name == "near":
            source, target = ([*side[:-1], own[-1]] for side, own in zip(before, (source, target), strict=True))
        elif name == "copy":
            target = source
        elif name == "overlap":
            source, target = (
                [*side[:2], line.lower(), side[-1]]
                for side, line in zip((source, target), held_out[one % len(held_out)], strict=True)
            )
        elif name == "target":
            target = target * 6
        elif name == "number" or one % 8 == 0:
            source, target = [*source, str(one)], [*target, str(other if name == "number" else one)]
        before = source, target
        yield _join(source, target)


def _join(source: list[str], target: list[str]) -> tuple[str, str]:
    left, right = " ".join(source), " ".join(target)
    return f"{left[:1].upper()}{left[1:]}.", f"{right[:1].upper()}{right[1:]}."
