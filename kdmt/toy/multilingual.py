"""Toy languages for several directions: English and two artificial languages, of one grammar with known distributions.

A meaning is a clause: a verb, a subject and an object with at most one adjective each, and perhaps an adverb. Every
language says every meaning; they differ in the order of the parts and in their words:

    en      subject verb object, adjective before the noun; one word for each concept
    qaa     subject object verb, adjective after the noun; each noun has two words, with probabilities 0.7 and 0.3
    qab     verb subject object, adjective before the noun; each verb has two words, with probabilities 0.5 and 0.5

Words are drawn independently, so the probability of a sentence given its meaning is the product over its words. No word
belongs to two concepts or two languages: a sentence has one meaning, and its language is known from each of its words.
ISO 639 reserves the codes qaa to qtz for local use.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Part = Literal["subject", "verb", "object", "adverb"]
Verdict = Literal["valid", "wrong", "off_target"]

_NOUNS = ["dog", "cat", "bird", "horse", "teacher", "farmer", "river", "tree", "house", "book", "song", "stone"]
_VERBS = ["sees", "finds", "wants", "paints", "carries", "hears", "likes", "draws"]
_ADJECTIVES = ["old", "small", "green", "quiet", "happy", "heavy"]
_ADVERBS = ["today", "often", "slowly", "here"]
_KINDS = {"noun": _NOUNS, "verb": _VERBS, "adjective": _ADJECTIVES, "adverb": _ADVERBS}
# first syllables of the words of an artificial language, and of each kind of word
_SYLLABLES = {"qaa": "ka ko ku", "qab": "me mi mu"}
_ENDINGS = {"noun": "r", "verb": "t", "adjective": "s", "adverb": "n"}
_VOWELS = "aeiou"


@dataclass(frozen=True)
class Phrase:
    """A noun with at most one adjective, as English words."""

    noun: str
    adjective: str | None = None


@dataclass(frozen=True)
class Meaning:
    """A clause, as English words."""

    subject: Phrase
    verb: str
    object: Phrase
    adverb: str | None = None


@dataclass(frozen=True)
class ToyLanguage:
    """A language of the grammar.

    Attributes:
        code: ISO 639 code.
        order: order of the parts of a clause; the adverb may be missing.
        adjective_first: whether the adjective is before its noun.
        words: concept, as its English word -> (probability, word) of each of its words.
    """

    code: str
    order: tuple[Part, Part, Part, Part]
    adjective_first: bool
    words: Mapping[str, tuple[tuple[float, str], ...]]


def _artificial_words(
    code: str, synonyms: str, probabilities: tuple[float, float]
) -> dict[str, tuple[tuple[float, str], ...]]:
    """Return the words of an artificial language.

    Args:
        synonyms: kind of word with two words for each concept.
        probabilities: probabilities of these two words.
    """
    found: dict[str, tuple[tuple[float, str], ...]] = {}
    for kind, concepts in _KINDS.items():
        forms = itertools.product(_SYLLABLES[code].split(), "lvd", _VOWELS)
        for concept in concepts:
            count = 2 if kind == synonyms else 1
            own = ["".join(form) + _ENDINGS[kind] for form in itertools.islice(forms, count)]
            found[concept] = tuple(zip(probabilities if count == 2 else (1.0,), own, strict=True))
    return found


_ENGLISH = {word: ((1.0, word),) for words in _KINDS.values() for word in words}
TOY_LANGUAGES: Mapping[str, ToyLanguage] = {
    "en": ToyLanguage("en", ("subject", "verb", "object", "adverb"), True, _ENGLISH),
    "qaa": ToyLanguage(
        "qaa", ("subject", "object", "adverb", "verb"), False, _artificial_words("qaa", "noun", (0.7, 0.3))
    ),
    "qab": ToyLanguage(
        "qab", ("verb", "subject", "object", "adverb"), True, _artificial_words("qab", "verb", (0.5, 0.5))
    ),
}


# ----------------------------------------------------------------------------------------------------------- sentences


def sample_meaning(rng: random.Random) -> Meaning:
    """Return a random meaning: an adjective or an adverb is there with probability 1/2."""
    return Meaning(_sample_phrase(rng), _choose(rng, _VERBS), _sample_phrase(rng), _perhaps(rng, _ADVERBS))


def _sample_phrase(rng: random.Random) -> Phrase:
    return Phrase(_choose(rng, _NOUNS), _perhaps(rng, _ADJECTIVES))


def _choose(rng: random.Random, words: list[str]) -> str:
    return words[int(rng.random() * len(words))]  # unlike `choice`, it does not depend on the version of Python


def _perhaps(rng: random.Random, words: list[str]) -> str | None:
    return _choose(rng, words) if rng.random() < 0.5 else None


def concepts_in_order(language: ToyLanguage, meaning: Meaning) -> list[str]:
    """Return the concepts of a meaning in the order of the words of a language."""
    found: list[str] = []
    for part in language.order:
        value = getattr(meaning, part)
        if isinstance(value, Phrase):
            both = [value.adjective, value.noun] if language.adjective_first else [value.noun, value.adjective]
            found += [word for word in both if word is not None]
        elif value is not None:
            found.append(value)
    return found


def render(rng: random.Random, language: ToyLanguage, meaning: Meaning) -> str:
    """Return a sentence with the meaning, drawn from the language's distribution."""
    return " ".join(_draw(rng, language.words[concept]) for concept in concepts_in_order(language, meaning))


def _draw(rng: random.Random, options: tuple[tuple[float, str], ...]) -> str:
    value = rng.random()
    for probability, word in options:
        if value < probability:
            return word
        value -= probability
    return options[-1][1]


def distribution(language: ToyLanguage, meaning: Meaning) -> dict[str, float]:
    """Return the probability of each sentence with the meaning."""
    options = [language.words[concept] for concept in concepts_in_order(language, meaning)]
    return dict(_products(options))


def _products(options: list[tuple[tuple[float, str], ...]]) -> Iterator[tuple[str, float]]:
    for choice in itertools.product(*options):
        probability = 1.0
        for own, _ in choice:
            probability *= own
        yield " ".join(word for _, word in choice), probability


def parse(language: ToyLanguage, sentence: str) -> Meaning | None:
    """Return the meaning of a sentence, None if it is no sentence of the language."""
    concept_of = {word: concept for concept, options in language.words.items() for _, word in options}
    concepts = [concept_of.get(word) for word in sentence.split()]
    known = [concept for concept in concepts if concept is not None]
    nouns = [index for index, concept in enumerate(known) if concept in _NOUNS]
    verbs = [concept for concept in known if concept in _VERBS]
    adverbs = [concept for concept in known if concept in _ADVERBS]
    if len(known) < len(concepts) or len(nouns) != 2 or len(verbs) != 1 or len(adverbs) > 1:
        return None
    step = -1 if language.adjective_first else 1
    phrases = [_phrase_at(known, index, index + step) for index in nouns]
    meaning = Meaning(phrases[0], verbs[0], phrases[1], adverbs[0] if adverbs else None)
    return meaning if concepts_in_order(language, meaning) == known else None  # also refuses another order


def _phrase_at(concepts: list[str], noun: int, adjective: int) -> Phrase:
    has_one = 0 <= adjective < len(concepts) and concepts[adjective] in _ADJECTIVES
    return Phrase(concepts[noun], concepts[adjective] if has_one else None)


def classify(source_lang: str, target_lang: str, source: str, output: str) -> Verdict:
    """Return whether an output is a right translation.

    Returns:
        `valid` if the output has the meaning of the source in the target language, `off_target` if most of its words
        are of another language, `wrong` for any other output.

    Raises:
        ValueError: if the source is no sentence of its language.

    Examples:
        >>> [classify("en", "qab", "dog sees cat", output) for output in ("melat melar meler", "dog sees cat", "melat")]
        ['valid', 'off_target', 'wrong']
    """
    meaning = parse(TOY_LANGUAGES[source_lang], source)
    if meaning is None:
        raise ValueError(f"{source!r} is no sentence of {source_lang}")
    if parse(TOY_LANGUAGES[target_lang], output) == meaning:
        return "valid"
    languages = Counter(found for word in output.split() if (found := language_of(word)) is not None)
    return "off_target" if languages and languages.most_common(1)[0][0] != target_lang else "wrong"


def language_of(word: str) -> str | None:
    """Return the code of the language of a word, None if it is in no language."""
    return _LANGUAGE_OF.get(word)


_LANGUAGE_OF = {
    word: code for code, language in TOY_LANGUAGES.items() for options in language.words.values() for _, word in options
}
