"""Artificial languages in which every source sentence has a small, known set of right translations: its modes.

Each source word has one translation in each dialect of the target language. A right translation of a sentence has all
of its words from the same dialect, in the order of the source; a reference is in a dialect that is drawn uniformly.

`two`: 100 words with two translations each, in the dialects A and B. Sentences have 5 to 15 words. Each word of a
translation determines all others. A decoder that samples its positions independently is right with probability
2 * 2^-n for a sentence of n words.

`three`: 99 words in three classes of equal size, and three dialects. Dialects A and B share the translation of a word
of the first class, B and C in the second class, A and C in the third. Sentences have 8 to 15 words. The most probable
translation of a word is the shared one, with probability 2/3. The shared translations of the words of a sentence agree
on a dialect unless all three classes occur, so a decoder that takes the most probable word at each position
independently is right with probability 3 (2/3)^n - 3 (1/3)^n (`argmax_validity`).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

LanguageName = Literal["two", "three"]
Verdict = Literal["valid", "mixed", "wrong"]
VERDICTS: tuple[Verdict, ...] = ("valid", "mixed", "wrong")


@dataclass(frozen=True)
class ModeLanguage:
    """A pair of a source language and a target language with dialects.

    Attributes:
        name: key in `LANGUAGES`.
        dialects: one letter for each dialect.
        lexicon: source word -> its translation in each dialect, in the order of `dialects`.
        lengths: minimum and maximum number of words of a sentence.
    """

    name: LanguageName
    dialects: str
    lexicon: Mapping[str, tuple[str, ...]]
    lengths: tuple[int, int]


def _two_dialects() -> ModeLanguage:
    lexicon = {f"w{index:02}": (f"a{index:02}", f"b{index:02}") for index in range(100)}
    return ModeLanguage("two", "ab", lexicon, lengths=(5, 15))


# translations of the words of each class in the dialects A, B and C; a prefix names the dialects that have the word
_CLASSES = (("ab", "ab", "c"), ("a", "bc", "bc"), ("ac", "b", "ac"))


def _three_dialects() -> ModeLanguage:
    words = {f"w{index:02}": _CLASSES[index % len(_CLASSES)] for index in range(99)}
    lexicon = {word: tuple(prefix + word[1:] for prefix in prefixes) for word, prefixes in words.items()}
    return ModeLanguage("three", "abc", lexicon, lengths=(8, 15))


LANGUAGES: Mapping[LanguageName, ModeLanguage] = {"two": _two_dialects(), "three": _three_dialects()}


# ------------------------------------------------------------------------------------------------------- sentences


def sample_source(rng: random.Random, language: ModeLanguage) -> str:
    """Return a sentence: its length is drawn uniformly, then each of its words."""
    words, (shortest, longest) = list(language.lexicon), language.lengths
    length = shortest + _below(rng, longest - shortest + 1)
    return " ".join(words[_below(rng, len(words))] for _ in range(length))


def sample_translation(rng: random.Random, language: ModeLanguage, source: str) -> str:
    """Return the translation of a sentence into a dialect that is drawn uniformly."""
    return translations(language, source)[_below(rng, len(language.dialects))]


def _below(rng: random.Random, count: int) -> int:
    """Return an integer below `count`; unlike `randrange`, it does not depend on the version of Python."""
    return int(rng.random() * count)


def translations(language: ModeLanguage, source: str) -> tuple[str, ...]:
    """Return the translation of a sentence into each dialect. Translations into two dialects can be equal.

    Raises:
        ValueError: if the sentence is empty or has a word that is not in the lexicon.
    """
    return tuple(" ".join(words) for words in zip(*_alternatives(language, source), strict=True))


def target_distribution(language: ModeLanguage, source: str) -> dict[str, float]:
    """Return the probability of each right translation of a sentence."""
    counts = Counter(translations(language, source))
    return {target: count / len(language.dialects) for target, count in counts.items()}


def entropy(distribution: Mapping[str, float]) -> float:
    """Return the entropy of a distribution in nats."""
    return -math.fsum(probability * math.log(probability) for probability in distribution.values())


def most_probable_words(language: ModeLanguage, source: str) -> str:
    """Return the most probable word at each position; of words with equal probability, that of the earliest dialect."""
    return " ".join(Counter(words).most_common(1)[0][0] for words in _alternatives(language, source))


def _alternatives(language: ModeLanguage, source: str) -> list[tuple[str, ...]]:
    """Return the translations of each word of a sentence."""
    words = source.split()
    if unknown := sorted(set(words) - set(language.lexicon)):
        raise ValueError(f"{unknown[0]!r} is no word of the language {language.name!r}")
    if not words:
        raise ValueError("a sentence has at least one word")
    return [language.lexicon[word] for word in words]


# --------------------------------------------------------------------------------------------------------- outputs


def classify(language: ModeLanguage, source: str, output: str) -> Verdict:
    """Return whether an output is a right translation.

    Returns:
        `valid` if the output is the translation into one of the dialects; `mixed` if each word is the translation of
        its source word into some dialect, but there is no dialect for all of them; `wrong` for any other output.

    Examples:
        >>> [classify(LANGUAGES["two"], "w01 w02", output) for output in ("b01 b02", "a01 b02", "a01")]
        ['valid', 'mixed', 'wrong']
    """
    words, alternatives = output.split(), _alternatives(language, source)
    if len(words) != len(alternatives) or any(
        word not in options for word, options in zip(words, alternatives, strict=True)
    ):
        return "wrong"
    return "valid" if " ".join(words) in translations(language, source) else "mixed"


# --------------------------------------------------------------------------------------------------- probabilities


def argmax_validity(num_words: int) -> Fraction:
    """Return the probability that the most probable words are a right translation in the language `three`.

    The shared translations of a sentence are one dialect's unless all three classes occur. Each of n random words is
    outside a given class with probability 2/3, and outside two given classes with probability 1/3. By inclusion and
    exclusion, at least one class is missing with probability 3 (2/3)^n - 3 (1/3)^n.
    """
    return 3 * Fraction(2, 3) ** num_words - 3 * Fraction(1, 3) ** num_words


def sampling_validity(language: ModeLanguage, num_words: int) -> Fraction:
    """Return the probability that words which are sampled independently at each position are a right translation.

    `two`: each of the two translations has probability 2^-n.

    `three`: a word of a given dialect has probability 2/3 in two of the classes and 1/3 in the other one, on average
    5/9. The translations into two dialects are the same if all words are in the class that these dialects share; they
    are then counted once. The result is 3 (5/9)^n - 3 (2/9)^n, the mean over random sentences.
    """
    if language.name == "two":
        return 2 * Fraction(1, 2) ** num_words
    return 3 * Fraction(5, 9) ** num_words - 3 * Fraction(2, 9) ** num_words
