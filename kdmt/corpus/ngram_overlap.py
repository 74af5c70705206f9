"""Search for training lines that share n-grams with held-out sentences.

A unit is a word, or a character in text without spaces between words. Case, punctuation and compatibility forms of
characters are ignored. A training line overlaps with a held-out sentence

- of at least `ngram` words if they have a common n-gram of `ngram` words, as Brown et al. (2020) compare training and
  test data of GPT-3;
- of 5 words or more, but fewer than `ngram`, if the line has at least a share of `overlap` of the distinct trigrams of
  the sentence.

Sentences of fewer than 5 words are only compared as a whole (`decontaminate.py`). In text without spaces, each of these
numbers of words is multiplied by the number of characters of a word (`kdmt.languages.characters_per_word`).

Words and n-grams are 64-bit hashes. A line is compared with a sentence only if it has one of the sentence's rarest
n-grams: if t of q n-grams are needed, every such line has at least one of any q - t + 1 of them.
"""

from __future__ import annotations

import functools
import math
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdmt.corpus.combining import limit_marks
from kdmt.corpus.hashing import MULTIPLIER, Hashes, hash_windows, mix

MIN_WORDS = 5  # of a sentence that is compared by its n-grams
SHORT_NGRAM = 3  # words of an n-gram of sentences with fewer words than `ngram`
_INVERSE = np.uint64(pow(int(MULTIPLIER), -1, 1 << 64))

Indices = npt.NDArray[np.int64]
Lines = tuple[Sequence[str], Sequence[str]]  # sources and targets
Forms = Callable[[str], Iterable[str]]  # forms of a held-out line that training lines are compared with


@dataclass(frozen=True)
class Overlap:
    """An overlap of a line, given its index, with a held-out sentence, given its side and its number from 1."""

    index: int
    side: str
    line: int


@dataclass(frozen=True)
class _Sentence:
    side: str
    line: int
    ngrams: frozenset[int]
    needed: int  # number of these n-grams that an overlapping line has


@dataclass(frozen=True)
class _Triggers:
    """The n-grams of one size that make a line a candidate.

    Attributes:
        size: number of units of an n-gram.
        hashes_M: n-grams in ascending order; one occurs once for each of its sentences.
        sentence_M: index of the sentence.
        table: array of booleans [power of 2], true at the upper bits of the n-grams.
    """

    size: int
    hashes_M: Hashes
    sentence_M: Indices
    table: npt.NDArray[np.bool_]

    def find(self, hashes_N: Hashes) -> npt.NDArray[np.intp]:
        """Return the indices of the n-grams that are among these."""
        possible = np.flatnonzero(self.table[(hashes_N >> _shift(self.table)).astype(np.intp)])
        places = np.searchsorted(self.hashes_M, hashes_N[possible]).clip(max=len(self.hashes_M) - 1)
        return possible[self.hashes_M[places] == hashes_N[possible]]

    def sentences(self, ngram: np.uint64) -> Indices:
        """Return the indices of the sentences of an n-gram."""
        return self.sentence_M[slice(*np.searchsorted(self.hashes_M, [ngram, ngram + np.uint64(1)]))]


@dataclass(frozen=True)
class SideIndex:
    """The n-grams of the held-out sentences of one language.

    Attributes:
        characters_per_word: 0 if words are separated by spaces.
        sentences: sentences that are compared by their n-grams.
        triggers: n-grams of both sizes that make a line a candidate.
    """

    characters_per_word: int
    sentences: tuple[_Sentence, ...]
    triggers: tuple[_Triggers, ...]

    def find(self, lines: Sequence[str]) -> list[Overlap]:
        """Return the overlaps of lines, in the order of the lines."""
        if not self.sentences or not lines:
            return []
        units_U, line_U = hash_units("\n".join(lines), by_character=self.characters_per_word > 0)
        found = [overlap for triggers in self.triggers for overlap in self._find(triggers, units_U, line_U)]
        # a line may overlap with several forms of a sentence
        return sorted(dict.fromkeys(found), key=lambda overlap: overlap.index)

    def _find(self, triggers: _Triggers, units_U: Hashes, line_U: Indices) -> Iterable[Overlap]:
        hashes_M = hash_windows(units_U, triggers.size)
        hits = triggers.find(hashes_M)
        hits = hits[line_U[hits] == line_U[hits + triggers.size - 1]]  # without those that go beyond a line
        candidates = {
            (line, sentence)
            for line, ngram in zip(line_U[hits].tolist(), hashes_M[hits], strict=True)
            for sentence in triggers.sentences(ngram).tolist()
        }
        of_line: dict[int, set[int]] = {}
        for line, number in sorted(candidates):
            if line not in of_line:
                start, stop = np.searchsorted(line_U, [line, line + 1])
                of_line[line] = set(hashes_M[start : stop - triggers.size + 1].tolist())
            sentence = self.sentences[number]
            if len(of_line[line] & sentence.ngrams) >= sentence.needed:
                yield Overlap(line, sentence.side, sentence.line)


@dataclass(frozen=True)
class NgramOverlaps:
    """The n-grams of all held-out sets, for both languages; `target` is None if targets are not compared."""

    source: SideIndex
    target: SideIndex | None

    def find(self, lines: Lines) -> list[Overlap]:
        """Return the overlaps of either side of pairs."""
        of_target = [] if self.target is None else self.target.find(lines[1])
        return self.source.find(lines[0]) + of_target


def only_form(line: str) -> tuple[str]:
    """Return a line as its only form."""
    return (line,)


def index_side(
    held_out: Iterable[tuple[str, Iterable[str]]],
    *,
    ngram: int,
    overlap: float,
    characters_per_word: int = 0,
    forms: Forms = only_form,
) -> SideIndex:
    """Return the n-grams of held-out sets, each given as the name of its side and its lines.

    Args:
        ngram: number of words of an n-gram of long sentences.
        overlap: share of the n-grams of a shorter sentence.
        characters_per_word: 0 if words are separated by spaces.
        forms: function that returns the forms of a held-out line, which are compared each on its own.
    """
    scale = characters_per_word or 1
    long, short = ngram * scale, SHORT_NGRAM * scale
    sentences: dict[int, list[_Sentence]] = {long: [], short: []}
    for side, lines in held_out:
        for number, line in enumerate(lines, start=1):
            found_units = [
                hash_units(limit_marks(form), by_character=characters_per_word > 0)[0] for form in forms(line)
            ]
            for units_U in {units_U.tobytes(): units_U for units_U in found_units}.values():
                if len(units_U) < MIN_WORDS * scale:
                    continue
                size = long if len(units_U) >= long else short
                ngrams = frozenset(hash_windows(units_U, size).tolist())
                needed = 1 if size == long else math.ceil(overlap * len(ngrams) - 1e-9)
                sentences[size].append(_Sentence(side, number, ngrams, needed))
    found = [sentence for own in sentences.values() for sentence in own]
    number_of = {id(sentence): number for number, sentence in enumerate(found)}
    triggers = tuple(
        _choose_triggers(size, [(number_of[id(sentence)], sentence) for sentence in own])
        for size, own in sentences.items()
        if own
    )
    return SideIndex(characters_per_word, tuple(found), triggers)


def _choose_triggers(size: int, sentences: Sequence[tuple[int, _Sentence]]) -> _Triggers:
    frequency = Counter(ngram for _, sentence in sentences for ngram in sentence.ngrams)
    chosen = [
        (ngram, number)
        for number, sentence in sentences
        for ngram in sorted(sentence.ngrams, key=lambda ngram: (frequency[ngram], ngram))[
            : len(sentence.ngrams) - sentence.needed + 1
        ]
    ]
    chosen.sort()
    hashes_M = np.array([ngram for ngram, _ in chosen], dtype=np.uint64)
    table = np.zeros(1 << max(12, (16 * len(chosen)).bit_length()), dtype=bool)
    table[(hashes_M >> _shift(table)).astype(np.intp)] = True
    return _Triggers(size, hashes_M, np.array([number for _, number in chosen], dtype=np.int64), table)


def _shift(table: npt.NDArray[np.bool_]) -> np.uint64:
    return np.uint64(65 - len(table).bit_length())


def hash_units(text: str, *, by_character: bool) -> tuple[Hashes, Indices]:
    """Return the hash of each word or character of lines that are joined by newlines, and the index of its line."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    else:
        text = text.lower()
    # the newline at the end also ends the last word
    codes_C = np.frombuffer(f"{text}\n".encode("utf-32-le", "surrogatepass"), dtype="<u4")
    is_word_C = _word_characters()[codes_C]
    if by_character:
        units = np.flatnonzero(is_word_C)
        hashes_U = mix(codes_C[units].astype(np.uint64))
    else:
        bounds = np.flatnonzero(is_word_C[1:] != is_word_C[:-1]) + 1
        if is_word_C[0]:
            bounds = np.concatenate([np.zeros(1, dtype=np.int64), bounds])
        units, ends = bounds[::2], bounds[1::2]
        hashes_U = _hash_words(codes_C * is_word_C, units, ends)
    ends = np.searchsorted(units, np.flatnonzero(codes_C == ord("\n")))  # of each line, as indices of units
    return hashes_U, np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))


def _hash_words(codes_C: npt.NDArray[np.uint32], starts: Indices, ends: Indices) -> Hashes:
    """Return the hash of each word: the sum of code · multiplier^i over its characters, where i counts from its start.

    Args:
        codes_C: characters of a text, 0 for those that are not part of a word.
        starts, ends: index of the first character of each word, and of the one after the last.
    """
    powers, inverses = _powers(1 << len(codes_C).bit_length())
    sums_C = np.cumsum(codes_C * powers[: len(codes_C)])
    sums_U = sums_C[ends - 1]
    sums_U[1:] -= sums_U[:-1].copy()  # nothing is added between two words
    return mix(sums_U * inverses[starts])


@functools.lru_cache(maxsize=2)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Return the powers of the multiplier from 0 to `count` - 1 and their inverses, modulo 2^64."""
    found = []
    for factor in (MULTIPLIER, _INVERSE):
        factors = np.full(count, factor)
        factors[0] = 1
        found.append(np.cumprod(factors))
    return found[0], found[1]


@functools.cache
def _word_characters() -> npt.NDArray[np.bool_]:
    """Return whether each character is part of a word: a letter, a digit or a combining mark."""
    return np.fromiter(
        (
            character.isalnum() or unicodedata.category(character)[0] == "M"
            for character in map(chr, range(sys.maxunicode + 1))
        ),
        dtype=bool,
        count=sys.maxunicode + 1,
    )
