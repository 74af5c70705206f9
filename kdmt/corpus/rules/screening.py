"""Fast tests of many pairs at once, which show that most pairs do not break most rules.

A rule is applied only to the pairs that its test leaves over. A test may leave over pairs that do not break the rule,
but never excludes one that does, so that the tests change nothing but the speed.

Shape legend: N pairs, M places in the text of all lines of a side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from kdmt.corpus.rules.copies import ROUNDING, Copy, NearCopy
from kdmt.corpus.rules.lengths import Empty, LongestWord, MaxCharacters, MaxWords, MeanWord, MinWords
from kdmt.corpus.rules.letters import BrokenCharacters, Letters, Script
from kdmt.corpus.rules.links import Links
from kdmt.corpus.rules.markup import Markup
from kdmt.corpus.rules.numbers import Numbers
from kdmt.corpus.rules.pair_text import KINDS, LETTER, SIGN, WORD_SPACE
from kdmt.corpus.rules.repetitions import LONGEST_PHRASE, RepeatedCharacters, RepeatedPhrases
from kdmt.corpus.rules.rule import DroppingRule
from kdmt.corpus.rules.sentences import Sentences
from kdmt.corpus.rules.tidying import is_plain

Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]

_PAIRS_AT_ONCE = 1_000  # whose arrays fit into the cache of a processor
_SPACE, _NEWLINE, _DOT, _SLASH = b" \n./"
_LATIN, _OTHER = b"L", b"O"
# Byte -> first byte of the letters of Latin-1, space, newline, byte that no plain line has, or another one.
_PLAIN_KINDS = bytes(
    byte
    if byte in b" \n"
    else _LATIN[0]
    if byte == 0xC3
    else _OTHER[0]
    if byte < 0x20 or byte == 0x7F or byte > 0xBF or byte in b"&<"
    else ord("a")
    for byte in range(256)
)
_SLACK = 1e-3  # of a distance, more than the errors of rapidfuzz, which computes with float32
_LEAST_WITH_BLOCKS = 4  # equal characters in a row that are searched for at every second place or more


def suspected_rules(
    rules: Sequence[DroppingRule], sources: Sequence[str], targets: Sequence[str]
) -> list[tuple[DroppingRule, ...]]:
    """Return for each pair the rules that it may break, in their order."""
    found: list[tuple[DroppingRule, ...]] = []
    for start in range(0, len(sources), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        found += _suspected(rules, sources[part], targets[part])
    return found


def _suspected(
    rules: Sequence[DroppingRule], sources: Sequence[str], targets: Sequence[str]
) -> list[tuple[DroppingRule, ...]]:
    pairs = _Pairs(_Side(sources), _Side(targets))
    found: list[tuple[DroppingRule, ...]] = [()] * len(sources)
    for rule in rules:
        test = _TESTS.get(type(rule))
        indices = range(len(sources)) if test is None else np.flatnonzero(test(rule, pairs)).tolist()
        for index in indices:
            found[index] += (rule,)
    return found


def plain_lines(lines: Sequence[str]) -> Flags:
    """Return for which lines `is_plain` is true [N]."""
    parts = [_are_plain(lines[start : start + _PAIRS_AT_ONCE]) for start in range(0, len(lines), _PAIRS_AT_ONCE)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)


def _are_plain(lines: Sequence[str]) -> Flags:
    data = "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")
    if data.count(b"\n") > len(lines):  # a line contains a newline
        return np.array(list(map(is_plain, lines)), dtype=bool)
    kinds_M = np.frombuffer(data.translate(_PLAIN_KINDS), dtype=np.uint8)
    spaces_M, ends_M, latin_M = (kinds_M == ord(kind) for kind in (b" ", b"\n", _LATIN))
    other_M = kinds_M == ord(_OTHER)
    other_M[:-2] |= latin_M[:-2] & latin_M[2:]  # two letters in a row, each of which has two bytes
    other_M[:-1] |= spaces_M[:-1] & (spaces_M | ends_M)[1:]
    other_M[1:] |= spaces_M[1:] & ends_M[:-1]
    other_M[0] |= spaces_M[0]
    flags_N = np.ones(len(lines), dtype=bool)
    flags_N[np.searchsorted(np.flatnonzero(ends_M), np.flatnonzero(other_M))] = False
    return flags_N


class _Side:
    """The lines of one side, and counts of their characters.

    Attributes:
        lines: the lines.
        text: all lines, each with a newline at its end.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        self.text = "\n".join([*lines, ""])
        self._bytes = self.text.encode()
        self._bytes_M = np.frombuffer(self._bytes, dtype=np.uint8)
        self._kinds_M = np.frombuffer(self._bytes.translate(KINDS), dtype=np.uint8)
        self.ends_N = np.flatnonzero(self._bytes_M == _NEWLINE)  # index of the newline of each line, in bytes

    def has(self, places_M: Counts) -> Flags:
        """Return whether each line has one of the places (indices of bytes)."""
        flags_N = np.zeros(len(self.lines), dtype=bool)
        flags_N[np.searchsorted(self.ends_N, places_M)] = True
        return flags_N

    def _count(self, places_M: Counts) -> Counts:
        return np.diff(np.searchsorted(places_M, self.ends_N), prepend=0)

    @cached_property
    def lengths_N(self) -> Counts:
        """Number of characters."""
        return np.fromiter(map(len, self.lines), dtype=np.int64, count=len(self.lines))

    @cached_property
    def _breaks_M(self) -> Counts:
        """Places of spaces and newlines."""
        return np.flatnonzero((self._bytes_M == _SPACE) | (self._bytes_M == _NEWLINE))

    @cached_property
    def spaces_N(self) -> Counts:
        """Number of spaces."""
        return self._count(self._breaks_M) - np.arange(len(self.lines)).clip(max=1)  # without the newline before

    @cached_property
    def ascii_letters_N(self) -> Counts:
        """Number of ASCII letters."""
        return self._count(np.flatnonzero(self._kinds_M == LETTER))

    @cached_property
    def _signs_M(self) -> Counts:
        """Places of the bytes that are in `LineText.signs`."""
        return np.flatnonzero((self._kinds_M == SIGN) & (self._bytes_M != _NEWLINE))

    def has_sign(self, is_sign: NDArray[np.bool_]) -> Flags:
        """Return whether each line has a byte of a class.

        Args:
            is_sign: whether each byte [256] is in the class, all of which count as signs.
        """
        return self.has(self._signs_M[is_sign[self._bytes_M[self._signs_M]]])

    @cached_property
    def has_word_space(self) -> bool:
        """Whether a line has an Ethiopic wordspace."""
        return WORD_SPACE in self.text

    def has_long_word(self, limit: int) -> Flags:
        """Return whether each line has more than `limit` bytes between two spaces."""
        lengths_M = np.diff(self._breaks_M, prepend=-1) - 1
        return self.has(self._breaks_M[lengths_M > limit])

    def may_have_link(self) -> Flags:
        """Return whether each line has a dot before its last two characters, or `://`."""
        dots_M = np.flatnonzero(self._bytes_M == _DOT)
        ends_M = self.ends_N[np.searchsorted(self.ends_N, dots_M)]
        flags_N = self.has(dots_M[dots_M < ends_M - 2])
        if "://" in self.text:
            flags_N |= self.has(np.flatnonzero(self._bytes_M == _SLASH))
        return flags_N

    def count_sentence_ends(self) -> Counts:
        """Return the number of final punctuation marks of ASCII and of signs outside ASCII."""
        return self._count(np.flatnonzero(_IS_END[self._bytes_M]))

    def may_have_run(self, times: int) -> Flags:
        """Return whether each line may have a character `times` times in a row.

        Such a run has three equal characters in a row of which the first is at a multiple of `times // 2`, and the
        same character at the next multiple.
        """
        step = times // 2
        codes_M = np.frombuffer(self.text.encode("utf-32-le"), dtype="<u4")
        first_M = codes_M[:-step:step]
        starts_M = np.flatnonzero(first_M == codes_M[step::step]) * step
        starts_M = starts_M[codes_M[starts_M] == codes_M[starts_M + 1]]
        flags_N = np.zeros(len(self.lines), dtype=bool)
        flags_N[np.searchsorted(np.cumsum(self.lengths_N + 1), starts_M, side="right")] = True
        return flags_N

    def may_repeat_words(self, times: int) -> Flags:
        """Return whether each line may have a phrase of words `times` times in a row.

        The first word of a phrase of n words occurs again after n words each time. Words are compared by their length
        and three of their bytes.
        """
        ends_M = self._breaks_M
        starts_M = np.concatenate([np.zeros(1, dtype=np.int64), ends_M[:-1] + 1])
        words_M = (ends_M - starts_M).astype(np.uint32)
        for places_M in (starts_M, np.minimum(starts_M + 1, ends_M), np.maximum(ends_M - 1, starts_M)):
            words_M = words_M << 8 | self._bytes_M[places_M]
        lines_M = np.repeat(np.arange(len(self.lines)), self.spaces_N + 1)
        longest = min((int(self.spaces_N.max(initial=0)) + 1) // times, LONGEST_PHRASE + 1)
        flags_N = np.zeros(len(self.lines), dtype=bool)
        for period in range(1, longest + 1):
            is_equal_M = words_M[period:] == words_M[:-period]
            first_M = is_equal_M[: len(words_M) - (times - 1) * period].copy()
            for number in range(1, times - 1):
                first_M &= is_equal_M[number * period :][: len(first_M)]
            found = np.flatnonzero(first_M)
            is_whole = lines_M[found] == lines_M[found + (times - 1) * period]
            flags_N[lines_M[found[is_whole]]] = True
        return flags_N


@dataclass(frozen=True)
class _Pairs:
    """Both sides of pairs."""

    source: _Side
    target: _Side

    def either(self, test: Callable[[_Side], Flags]) -> Flags:
        """Return whether a test is true for a side of each pair."""
        return test(self.source) | test(self.target)

    def either_spaced(self, spaced: tuple[bool, bool], test: Callable[[_Side], Flags]) -> Flags:
        """Return whether a test is true for a side of each pair that has spaces between words."""
        flags_N = np.zeros(len(self.source.lines), dtype=bool)
        for is_spaced, side in zip(spaced, (self.source, self.target), strict=True):
            if is_spaced:
                flags_N |= test(side)
        return flags_N

    @property
    def everything_N(self) -> Flags:
        """Mask of all pairs."""
        return np.ones(len(self.source.lines), dtype=bool)


def _class(bytes_of_class: bytes) -> NDArray[np.bool_]:
    return np.isin(np.arange(256), np.frombuffer(bytes_of_class, dtype=np.uint8))


_IS_END = _class(b".!?" + bytes(range(0xD6, 0x100)))  # or the first byte of a final mark outside ASCII
_IS_MARK = _class(b"{}[]<>")
_IS_DIGIT = _class(b"0123456789" + bytes(range(0xD9, 0x100)))  # or the first byte of one of another script
_IS_LOST = _class(bytes(range(0xEE, 0x100)))  # first bytes of characters of lost text


# ------------------------------------------------------------------------------------------------------ tests of rules


def _test_min_words(rule: MinWords, pairs: _Pairs) -> Flags:
    return pairs.either_spaced(rule.spaced, lambda side: side.spaces_N + 1 < rule.limit)


def _test_max_words(rule: MaxWords, pairs: _Pairs) -> Flags:
    return pairs.either_spaced(rule.spaced, lambda side: side.spaces_N >= rule.limit)


def _test_mean_word(rule: MeanWord, pairs: _Pairs) -> Flags:
    def test(side: _Side) -> Flags:
        if side.has_word_space:
            return pairs.everything_N
        means_N = (side.lengths_N - side.spaces_N) / (side.spaces_N + 1)
        return (means_N < rule.settings.min) | (means_N > rule.settings.max)

    return pairs.either_spaced(rule.languages.spaced, test)


def _has_few_letters(side: _Side, share: float) -> Flags:
    """Return whether ASCII letters alone are less than a share of the characters that are not spaces."""
    return side.ascii_letters_N < share * (side.lengths_N - side.spaces_N)


def _test_script(rule: Script, pairs: _Pairs) -> Flags:
    flags_N = np.zeros(len(pairs.source.lines), dtype=bool)
    for script, side in zip(rule.scripts, (pairs.source, pairs.target), strict=True):
        if script is not None:
            flags_N |= _has_few_letters(side, rule.settings.min) if script.has_ascii_letters else pairs.everything_N
    return flags_N


def _test_repeated_characters(rule: RepeatedCharacters, pairs: _Pairs) -> Flags:
    times = rule.settings.max + 1
    if times < _LEAST_WITH_BLOCKS:
        return pairs.everything_N
    return pairs.either(lambda side: side.may_have_run(times))


def _test_repeated_phrases(rule: RepeatedPhrases, pairs: _Pairs) -> Flags:
    times, least = rule.settings.times, rule.settings.times * rule.settings.min_length
    flags_N = np.zeros(len(pairs.source.lines), dtype=bool)
    for spaced, side in zip(rule.languages.spaced, (pairs.source, pairs.target), strict=True):
        is_long_N = side.lengths_N >= least
        if spaced and not side.has_word_space:
            is_long_N &= side.may_repeat_words(times)
        flags_N |= is_long_N
    return flags_N


def _test_near_copy(rule: NearCopy, pairs: _Pairs) -> Flags:
    lengths_N2 = np.stack([pairs.source.lengths_N, pairs.target.lengths_N], axis=1)
    most_N = ((1.0 - rule.settings.max) * lengths_N2.max(axis=1) + ROUNDING).astype(np.int64)
    letters_N = pairs.source.ascii_letters_N - pairs.target.ascii_letters_N
    # the edit distance is at least the difference of the lengths, and of the numbers of letters
    flags_N = (np.abs(lengths_N2[:, 0] - lengths_N2[:, 1]) <= most_N) & (np.abs(letters_N) <= most_N)
    indices = np.flatnonzero(flags_N).tolist()
    sides = ([side.lines[index] for index in indices] for side in (pairs.source, pairs.target))
    limit = 1.0 - rule.settings.max + _SLACK
    flags_N[indices] = cpdist(*sides, scorer=Levenshtein.normalized_distance, score_cutoff=limit) <= limit
    return flags_N


def _test_sentences(rule: Sentences, pairs: _Pairs) -> Flags:
    return pairs.either(lambda side: side.count_sentence_ends() > rule.settings.max_difference + 1)


_TESTS: Mapping[type, Callable[[Any, _Pairs], Flags]] = {
    Empty: lambda _, pairs: pairs.either(lambda side: side.lengths_N == 0),
    MinWords: _test_min_words,
    MaxWords: _test_max_words,
    MaxCharacters: lambda rule, pairs: pairs.either(lambda side: side.lengths_N > rule.limit),
    Copy: lambda _, pairs: np.array(list(map(str.__eq__, pairs.source.lines, pairs.target.lines)), dtype=bool),
    LongestWord: lambda rule, pairs: pairs.either_spaced(
        rule.languages.spaced, lambda side: side.has_long_word(rule.settings.max)
    ),
    MeanWord: _test_mean_word,
    BrokenCharacters: lambda _, pairs: pairs.either(lambda side: side.has_sign(_IS_LOST)),
    Markup: lambda _, pairs: pairs.either(lambda side: side.has_sign(_IS_MARK)),
    Letters: lambda rule, pairs: pairs.either(lambda side: _has_few_letters(side, rule.settings.min)),
    Script: _test_script,
    RepeatedCharacters: _test_repeated_characters,
    RepeatedPhrases: _test_repeated_phrases,
    Numbers: lambda _, pairs: pairs.either(lambda side: side.has_sign(_IS_DIGIT)),
    Links: lambda _, pairs: pairs.either(_Side.may_have_link),
    NearCopy: _test_near_copy,
    Sentences: _test_sentences,
}
