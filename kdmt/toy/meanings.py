"""Random meanings of the toy language, and random translations by the language's own probabilities.

Every decision calls `random.Random.random` alone, the one method whose sequence Python promises to keep for a seed, and
adds up no floats with `sum`, whose rounding changed in Python 3.12: the same seed gives the same text everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from kdmt.toy.grammar import Clause, Phrase, pronoun_for, translate
from kdmt.toy.lexicon import (
    ADJECTIVES,
    ADVERBS,
    CONJUNCTIONS,
    DETERMINERS,
    MODALS,
    MODIFIERS,
    NAMES,
    NOUNS,
    NUMBERS,
    PREPOSITIONS,
    VERBS,
    Options,
)

T = TypeVar("T")

SHAPES = [(0.4, "plain"), (0.2, "relative"), (0.3, "subordinate"), (0.1, "that")]
FRAMES = [(0.5, "transitive"), (0.15, "ditransitive"), (0.2, "intransitive"), (0.15, "copula")]
TENSES = [(0.35, "present"), (0.45, "past"), (0.2, "modal")]


def sample_translation(rng: random.Random, meaning: Clause) -> str:
    """Return a target drawn from the distribution that `translations` lists."""

    def choose(options: Options[T]) -> T:
        return _draw(rng, options)

    return translate(meaning, choose)


def sample_meaning(rng: random.Random) -> Clause:
    """Return a random meaning: plain, with a relative clause, or with a second clause."""
    shape = _draw(rng, SHAPES)
    if shape == "plain":
        return _sample_clause(rng, adverb=0.55, place=0.4)
    if shape == "relative":
        return _with_relative(rng, _sample_clause(rng, adverb=0.4))
    if shape == "that":
        main = _sample_clause(rng, frames=[(1.0, "clausal")])
        return replace(main, conjunction="that", subordinate=_sample_second(rng, main))
    main = _sample_clause(rng, adverb=0.25)
    conjunction = _pick(rng, [word for word in CONJUNCTIONS if word != "that"])
    return replace(main, conjunction=conjunction, subordinate=_sample_second(rng, main))


def _sample_second(rng: random.Random, main: Clause) -> Clause:
    """Return a clause whose subject may be a pronoun for the subject of the main clause."""
    pronoun = pronoun_for(main.subject) if main.subject and rng.random() < 0.4 else None
    if main.subject is None or pronoun is None:
        return _sample_clause(rng, adverb=0.3)
    return _sample_clause(rng, subject=Phrase(pronoun), kind=_kind(main.subject), adverb=0.3)


def _sample_clause(
    rng: random.Random,
    *,
    frames: Options[str] = FRAMES,
    subject: Phrase | None = None,
    kind: str = "",
    adverb: float = 0.0,
    place: float = 0.0,
) -> Clause:
    """Return a clause with an adverb and a place by the given probabilities; `kind` is that of a given subject."""
    verb = _sample_verb(rng, _draw(rng, frames), kind)
    entry = VERBS[verb]
    kind = kind or _pick(rng, entry.subject_kinds)
    time = _draw(rng, TENSES)
    tense = _pick(rng, list(MODALS)) if time == "modal" else time
    clause = Clause(verb, tense, subject or _sample_phrase(rng, kind, name=0.3))
    if entry.frame == "copula":
        clause = replace(clause, predicate=_sample_adjective(rng, kind))
    if entry.frame in ("transitive", "ditransitive"):
        clause = replace(clause, object=_sample_phrase(rng, _pick(rng, entry.object_kinds), name=0.1))
    if entry.frame == "ditransitive":
        clause = replace(clause, recipient=_sample_phrase(rng, "person", name=0.3))
    if entry.frame in ("transitive", "intransitive") and rng.random() < place:
        preposition = _pick(rng, list(PREPOSITIONS))
        phrase = _sample_phrase(rng, _pick(rng, PREPOSITIONS[preposition].kinds), name=0.2)
        clause = replace(clause, place=(preposition, phrase))
    if rng.random() < adverb:
        clause = replace(clause, adverb=_pick(rng, [word for word, entry in ADVERBS.items() if time in entry.tenses]))
    return clause


def _with_relative(rng: random.Random, clause: Clause) -> Clause:
    """Return the clause with a relative clause on its object or its subject, which is a noun."""
    on_object = clause.object is not None and rng.random() < 0.6
    phrase = clause.object if on_object else clause.subject
    if phrase is None or phrase.noun in NAMES:
        phrase = _sample_phrase(rng, "person")
    kind = _kind(phrase)
    if rng.random() < 0.5:
        verbs = [verb for verb, entry in VERBS.items() if entry.frame == "transitive" and kind in entry.object_kinds]
        relative = Clause(_pick(rng, verbs), _pick(rng, ["present", "past"]), Phrase(_pick(rng, list(NAMES))))
    else:
        frames = [(0.5, "intransitive"), (0.5, "transitive")]
        relative = replace(_sample_clause(rng, frames=frames, subject=phrase, kind=kind), subject=None)
    phrase = replace(phrase, relative=relative)
    return replace(clause, object=phrase) if on_object else replace(clause, subject=phrase)


def _sample_verb(rng: random.Random, frame: str, kind: str) -> str:
    """Return a verb of the frame, or of another frame that is not clausal if no verb fits the subject."""
    fitting = [(verb, entry) for verb, entry in VERBS.items() if not kind or kind in entry.subject_kinds]
    of_frame = [verb for verb, entry in fitting if entry.frame == frame]
    return _pick(rng, of_frame or [verb for verb, entry in fitting if entry.frame != "clausal"])


def _sample_phrase(rng: random.Random, kind: str, name: float = 0.0) -> Phrase:
    """Return a noun phrase of a kind; a person has a name with probability `name`."""
    if kind == "person" and rng.random() < name:
        return Phrase(_pick(rng, list(NAMES)))
    noun = _pick(rng, [noun for noun, entry in NOUNS.items() if entry.kind == kind])
    plural = rng.random() < 0.3
    options = [(entry.weight, word) for word, entry in DETERMINERS.items() if ("p" if plural else "s") in entry.numbers]
    if plural:
        options.append((3.0, _pick(rng, list(NUMBERS))))
    determiner = _draw(rng, options)
    adjective = _sample_adjective(rng, kind) if rng.random() < 0.35 else None
    modifier = _pick(rng, list(MODIFIERS)) if kind == "thing" and rng.random() < 0.3 else None
    return Phrase(noun, plural, determiner, adjective, modifier)


def _sample_adjective(rng: random.Random, kind: str) -> str:
    return _pick(rng, [adjective for adjective, entry in ADJECTIVES.items() if kind in entry.kinds])


def _kind(phrase: Phrase) -> str:
    return "person" if phrase.noun in NAMES else NOUNS[phrase.noun].kind


def _draw(rng: random.Random, options: Options[T]) -> T:
    """Return one option, drawn in proportion to its weight."""
    total = 0.0
    for weight, _ in options:
        total += weight
    point = rng.random() * total
    for weight, option in options:
        if point < weight:
            return option
        point -= weight
    return options[-1][1]  # only after rounding errors


def _pick(rng: random.Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]
