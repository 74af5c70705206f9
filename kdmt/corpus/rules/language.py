"""Rule for the language of both sides, which judges many pairs at once, and swaps the sides of pairs.

A language that is nearly the only one in its script, such as Thai, Greek or Korean, is recognised by its script alone.
An identifier (`kdmt.corpus.language_id`) judges the others.

Shape legend: N pairs; K pairs whose sides may be exchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import regex
from numpy.typing import NDArray

from kdmt.config import Language
from kdmt.corpus.language_id import Identifier, group_of, knows_any, open_identifier, share_of
from kdmt.errors import UserError
from kdmt.languages import parse_language

Flags = NDArray[np.bool_]

LEAST_IN_SCRIPT = 0.5  # share of the letters that are in the script of a language that is recognised by it
LEAST_TO_SWAP = 0.5  # `min` for a pair whose sides are swapped
LETTERS_OF_IDEOGRAPH = 3  # a character of Chinese or Japanese counts as three letters

# Scripts of one language, or of languages that identifiers hardly know besides the largest one.
_OF_ONE_LANGUAGE = frozenset(
    (
        *(
            "Armn",
            "Cher",
            "Ethi",
            "Geor",
            "Grek",
            "Gujr",
            "Guru",
            "Hebr",
            "Khmr",
            "Knda",
            "Kore",
            "Laoo",
            "Mlym",
            "Mymr",
        ),
        *("Nkoo", "Olck", "Orya", "Sinh", "Taml", "Telu", "Thaa", "Thai", "Tibt"),
    )
)
# script of a language -> scripts of its characters, where they differ
_SCRIPTS = {"Kore": ("Hang", "Hani")}
_LETTERS = regex.compile(r"\p{L}+")
_IDEOGRAPHS = regex.compile(r"[\p{Script=Hani}\p{Script=Hira}\p{Script=Kana}]+")


@dataclass(frozen=True)
class Verdicts:
    """Result of the rule for pairs of lines.

    Attributes:
        dropped_N: mask of the pairs that are dropped.
        swapped_N: mask of the pairs whose sides are to be swapped; none of them is dropped.
    """

    dropped_N: Flags
    swapped_N: Flags


@dataclass(frozen=True)
class ExpectedLanguage:
    """Language of one side.

    Attributes:
        code: ISO 639 code.
        script: ISO 15924 code of its script.
        by_script: whether the script alone shows the language.
    """

    code: str
    script: str
    by_script: bool


@dataclass(frozen=True)
class LanguageRule:
    """Drop pairs with a side that is in another language, or swap both sides.

    Attributes:
        settings: settings of the rule.
        sides: language of the source, and of the target.
        identifier: identifier of languages; None if the scripts show both languages.
    """

    name: ClassVar[str] = "language"
    swapped: ClassVar[str] = "swapped"  # name of the count of swapped pairs

    settings: Language
    sides: tuple[ExpectedLanguage, ExpectedLanguage]
    identifier: Identifier | None

    def judge(self, sources: Sequence[str], targets: Sequence[str]) -> Verdicts:
        """Return which pairs are dropped or swapped."""
        judged = (self._judged(sources, 0), self._judged(targets, 1))
        source_N = self._shares(sources, self.sides[0], judged[0])
        target_N = self._shares(targets, self.sides[1], judged[1])
        wrong = (source_N < self._least(0), target_N < self._least(1))
        swapped_N = np.zeros(len(sources), dtype=bool)
        if self.settings.swaps:
            candidates = np.flatnonzero(wrong[0] & wrong[1])
            swapped_N[candidates[self._fit_swapped(sources, targets, candidates)]] = True
        return Verdicts((wrong[0] | wrong[1]) & ~swapped_N, swapped_N)

    def _judged(self, lines: Sequence[str], side: int) -> Flags:
        if self.settings.sides not in ("both", ("source", "target")[side]):
            return np.zeros(len(lines), dtype=bool)
        least = self.settings.min_letters
        return np.array([has_letters(line, least) for line in lines], dtype=bool)

    def _least(self, side: int) -> float:
        return LEAST_IN_SCRIPT if self.sides[side].by_script else self.settings.min

    def _fit_swapped(self, sources: Sequence[str], targets: Sequence[str], candidates: NDArray[np.intp]) -> Flags:
        """Return the mask of the candidates whose source is in the target language and whose target in the other."""
        everything = np.ones(len(candidates), dtype=bool)
        indices = candidates.tolist()
        source_K = self._shares([sources[i] for i in indices], self.sides[1], everything)
        target_K = self._shares([targets[i] for i in indices], self.sides[0], everything)
        return (source_K >= LEAST_TO_SWAP) & (target_K >= LEAST_TO_SWAP)

    def _shares(self, lines: Sequence[str], language: ExpectedLanguage, judged_N: Flags) -> NDArray[np.float64]:
        """Return how well each line fits a language, 0 to 1, and 1 for lines that are not judged [N]."""
        shares_N = np.ones(len(lines))
        chosen = [lines[i] for i in np.flatnonzero(judged_N).tolist()]
        if not chosen:
            return shares_N
        if language.by_script:
            shares_N[judged_N] = [script_share(line, language.script) for line in chosen]
        else:
            assert self.identifier is not None
            probabilities = self.identifier.probabilities(chosen)
            shares_N[judged_N] = share_of(self.identifier, probabilities, language.code)
        return shares_N


def build_language_rule(settings: Language, codes: tuple[str, str]) -> LanguageRule:
    """Return the rule for the codes of the source and the target language.

    Raises:
        UserError: if an identifier is needed and cannot be opened, or does not know a language.
    """
    sides = (_expect(codes[0]), _expect(codes[1]))
    identified = _identified(settings, sides)
    if not identified:
        return LanguageRule(settings, sides, None)
    identifier = open_identifier(_model_of(settings))
    for code in identified:
        if group_of(code).isdisjoint(identifier.languages):
            raise _unknown(code)
    return LanguageRule(settings, sides, identifier)


def check_language_rule(settings: Language, codes: tuple[str, str]) -> None:
    """Check that the rule can be built for languages, usually without opening the identifier.

    Raises:
        UserError: as `build_language_rule`.
    """
    for code in _identified(settings, (_expect(codes[0]), _expect(codes[1]))):
        if not knows_any(_model_of(settings), group_of(code)):
            raise _unknown(code)


def _identified(settings: Language, sides: tuple[ExpectedLanguage, ExpectedLanguage]) -> list[str]:
    """Return the languages of the judged sides for which an identifier is needed; none if scripts show all of them."""
    judged = [side for side, name in zip(sides, ("source", "target"), strict=True) if settings.sides in ("both", name)]
    return [side.code for side in judged if not side.by_script]


def _model_of(settings: Language) -> Path | None:
    return None if settings.model is None else Path(settings.model)


def _unknown(code: str) -> UserError:
    return UserError(
        f"the identifier does not know {code!r}: leave the rule out, judge the other side alone ('sides'), or give a "
        "model that knows it ('identifier: fasttext')"
    )


def _expect(code: str) -> ExpectedLanguage:
    language = parse_language(code)
    return ExpectedLanguage(language.language, language.written_in, language.written_in in _OF_ONE_LANGUAGE)


def count_letters(line: str) -> int:
    """Return the number of letters; a character of Chinese or Japanese counts as three."""
    letters = sum(map(len, _LETTERS.findall(line)))
    if line.isascii():
        return letters
    return letters + (LETTERS_OF_IDEOGRAPH - 1) * sum(map(len, _IDEOGRAPHS.findall(line)))


def has_letters(line: str, least: int) -> bool:
    """Return whether a line has at least `least` letters, counted as `count_letters` does."""
    begin = line[: 2 * least].replace(" ", "")
    if len(begin) >= least and begin.isalpha():  # as most lines begin
        return True
    return count_letters(begin) >= least or count_letters(line) >= least


def script_share(line: str, script: str) -> float:
    """Return the share of the letters of a line that are in a script (ISO 15924), 0 to 1; 1 without letters."""
    letters = sum(map(len, _LETTERS.findall(line)))
    return sum(map(len, _letters_in(script).findall(line))) / letters if letters else 1.0


@functools.cache
def _letters_in(script: str) -> regex.Pattern[str]:
    scripts = "".join(rf"\p{{Script={name}}}" for name in _SCRIPTS.get(script, (script,)))
    return regex.compile(rf"[[{scripts}]&&\p{{L}}]+", regex.VERSION1)
