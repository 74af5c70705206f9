"""The toy language: English-like sentences with the exact distribution of their German-like translations.

A meaning is a tree (`Clause` and `Phrase`). English says each meaning in one way, and `parse_source` reads it back.
German leaves choices open: `translations` lists every target with its probability. `lexicon.txt` holds the words and
the probabilities of their renderings, the constants below those of the grammar's own choices; data/toy/README.md
explains them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

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
    PRONOUNS,
    VERBS,
    GermanNoun,
    GermanVerb,
    Options,
)

T = TypeVar("T")

# The grammar's own choices: (probability, choice).
PAST = [(0.6, "perfect"), (0.4, "preterite")]  # "hat ... gekauft" or "kaufte", the same in all clauses of a sentence
SUBSTANCE = [(0.75, "compound"), (0.25, "phrase")]  # "Holztisch" or "Tisch aus Holz"
CLAUSE_PLACE = [
    (0.7, "after"),
    (0.3, "before"),
]  # place of a verb-final clause; in front, it inverts the main clause
FIRST = {  # (adverb present, place present) -> first constituent of a verb-second clause
    (False, False): [(1.0, "subject")],
    (True, False): [(0.55, "subject"), (0.45, "adverb")],
    (False, True): [(0.65, "subject"), (0.35, "place")],
    (True, True): [(0.5, "subject"), (0.3, "adverb"), (0.2, "place")],
}


# ---------------------------------------------------------------------------------------------------------- meanings


@dataclass(frozen=True)
class Phrase:
    """A noun phrase; a name or a pronoun is in `noun`, without the other fields."""

    noun: str
    plural: bool = False
    determiner: str = ""  # a key of DETERMINERS or NUMBERS
    adjective: str | None = None
    modifier: str | None = None  # first part of a compound
    relative: Clause | None = None


@dataclass(frozen=True)
class Clause:
    """A clause. A relative clause lacks the subject or the object, which is the noun that it modifies."""

    verb: str
    tense: str  # present, past or a key of MODALS
    subject: Phrase | None = None
    object: Phrase | None = None
    recipient: Phrase | None = None
    predicate: str | None = None  # adjective after `be`
    place: tuple[str, Phrase] | None = None  # preposition and its noun phrase
    adverb: str | None = None
    conjunction: str | None = None
    subordinate: Clause | None = None


def pronoun_for(phrase: Phrase) -> str | None:
    """Return the English pronoun for a phrase; None for a person without a name, because it would reveal the gender."""
    if phrase.noun in NAMES:
        return "he" if NAMES[phrase.noun] == "m" else "she"
    if phrase.plural:
        return "they"
    return None if NOUNS[phrase.noun].kind == "person" else "it"


def _clauses(clause: Clause) -> Iterator[Clause]:
    """Yield the clause and all clauses within it."""
    yield clause
    place = clause.place[1] if clause.place else None
    for phrase in (clause.subject, clause.object, clause.recipient, place):
        if phrase is not None and phrase.relative is not None:
            yield from _clauses(phrase.relative)
    if clause.subordinate is not None:
        yield from _clauses(clause.subordinate)


# ----------------------------------------------------------------------------------------------------------- English


def render_source(meaning: Clause) -> str:
    """Return the English sentence of a meaning; no two meanings have the same one."""
    return _finish(_english_clause(meaning, plural=False))


def _finish(words: list[str]) -> str:
    """Return words and commas as a sentence, without repeated commas and without a comma before the full stop."""
    text = re.sub(r"( ,)+", ",", " ".join(word for word in words if word)).rstrip(",")
    return text[0].upper() + text[1:] + "."


def _english_clause(clause: Clause, plural: bool) -> list[str]:
    """Return the words of a clause; `plural` is the number of the noun that a subject relative clause modifies."""
    words = []
    if clause.subject is not None:
        words += _english_phrase(clause.subject)
        plural = clause.subject.plural or clause.subject.noun == "they"
    if clause.tense in MODALS:
        words += [clause.tense, clause.verb]
    else:
        verb = VERBS[clause.verb]
        words.append((verb.past if clause.tense == "past" else verb.present)[plural])
    words.append(clause.predicate or "")
    words += _english_phrase(clause.object) if clause.object else []
    words += ["to", *_english_phrase(clause.recipient)] if clause.recipient else []
    words += [clause.place[0], *_english_phrase(clause.place[1])] if clause.place else []
    words.append(clause.adverb or "")
    if clause.conjunction is not None and clause.subordinate is not None:
        words += [",", clause.conjunction] if CONJUNCTIONS[clause.conjunction].comma else [clause.conjunction]
        words += _english_clause(clause.subordinate, plural=False)
    return words


def _english_phrase(phrase: Phrase) -> list[str]:
    if phrase.noun not in NOUNS:
        return [phrase.noun]
    noun = NOUNS[phrase.noun].plural if phrase.plural else phrase.noun
    words = [word for word in (phrase.adjective, phrase.modifier, noun) if word]
    words.insert(0, "an" if phrase.determiner == "a" and words[0][0] in "aeiou" else phrase.determiner)
    if phrase.relative is not None:
        words += ["that", *_english_clause(phrase.relative, phrase.plural)]
    return words


# --------------------------------------------------------------------------------------------- reading English back


_NOUN_FORMS = {noun: (noun, False) for noun in NOUNS} | {entry.plural: (noun, True) for noun, entry in NOUNS.items()}
_VERB_FORMS = {
    form: (base, tense)
    for base, verb in VERBS.items()
    for tense, forms in (("present", verb.present), ("past", verb.past))
    for form in forms
}


class _Words:
    """The words of a sentence, taken from left to right."""

    def __init__(self, words: list[str]) -> None:
        self._words = words[::-1]

    def take_if(self, known: Collection[str]) -> str | None:
        """Take the next word if it is a known one."""
        return self._words.pop() if self._words and self._words[-1] in known else None

    def take(self, known: Collection[str]) -> str:
        """Take the next word, which must be a known one."""
        word = self.take_if(known)
        _require(word is not None)
        return word or ""


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("not a sentence of the toy language")


def parse_source(source: str) -> Clause:
    """Return the one meaning of an English sentence.

    Raises:
        ValueError: the sentence does not belong to the language.
    """
    words = source.removesuffix(".").replace(",", " ,").split()
    if words and words[0] not in NAMES:
        words[0] = words[0].lower()
    meaning = _parse_clause(_Words(["a" if word == "an" else word for word in words]))
    _require(render_source(meaning) == source)  # number, tense, commas, and nothing left over
    return meaning


def _parse_clause(words: _Words, main: Clause | None = None) -> Clause:
    """Parse a clause; `main` is the clause that it depends on, to whose subject a pronoun may refer."""
    reference = pronoun_for(main.subject) if main is not None and main.subject is not None else None
    pronoun = words.take_if({reference} if reference else ())
    clause = _parse_predicate(words, Phrase(pronoun) if pronoun else _parse_phrase(words))
    if preposition := words.take_if(PREPOSITIONS):
        clause = replace(clause, place=(preposition, _parse_phrase(words)))
    clause = replace(clause, adverb=words.take_if(ADVERBS))
    words.take_if(",")
    conjunction = words.take_if(CONJUNCTIONS) if main is None else None
    _require((conjunction == "that") == (VERBS[clause.verb].frame == "clausal"))
    if conjunction is not None:
        clause = replace(clause, conjunction=conjunction, subordinate=_parse_clause(words, clause))
    return clause


def _parse_predicate(words: _Words, subject: Phrase | None, gap: bool = False) -> Clause:
    """Parse the verb, objects and predicate; with `gap`, the object is the noun that a relative clause modifies."""
    modal = words.take_if(MODALS)
    verb, tense = (words.take(VERBS), modal) if modal else _VERB_FORMS[words.take(_VERB_FORMS)]
    clause = Clause(verb, tense, subject)
    frame = VERBS[verb].frame
    if gap:
        _require(frame == "transitive")
    elif frame == "copula":
        clause = replace(clause, predicate=words.take(ADJECTIVES))
    elif frame == "transitive":
        clause = replace(clause, object=_parse_phrase(words))
    elif frame == "ditransitive":
        given = _parse_phrase(words)
        words.take({"to"})
        clause = replace(clause, object=given, recipient=_parse_phrase(words))
    return clause


def _parse_phrase(words: _Words) -> Phrase:
    if name := words.take_if(NAMES):
        return Phrase(name)
    determiner = words.take_if(NUMBERS) or words.take_if(DETERMINERS) or ""
    adjective = words.take_if(ADJECTIVES)
    modifier = words.take_if(MODIFIERS)
    noun, plural = _NOUN_FORMS[words.take(_NOUN_FORMS)]
    numbers = "p" if determiner in NUMBERS else DETERMINERS[determiner].numbers
    _require(("p" if plural else "s") in numbers)
    relative = None
    if words.take_if({"that"}):
        subject = words.take_if(NAMES)
        relative = _parse_predicate(words, Phrase(subject) if subject else None, gap=subject is not None)
        _require(VERBS[relative.verb].frame != "clausal")
    return Phrase(noun, plural, determiner, adjective, modifier, relative)


# ------------------------------------------------------------------------------------------------------------ German


_ENDINGS = {  # of dieser and of adjectives without a determiner; genders m, f, n, and p for the plural
    case: dict(zip("mfnp", row.split(), strict=True))
    for case, row in (("nom", "er e es e"), ("acc", "en e es e"), ("dat", "em er em en"))
}


class Choose(Protocol):
    """Chooses one of several options: at random, or so that all of them are visited."""

    def __call__(self, options: Options[T]) -> T: ...


@dataclass(frozen=True)
class _Speaker:
    choose: Choose
    past: str  # perfect or preterite, throughout the sentence; empty if nothing asks for it


@dataclass(frozen=True)
class _Parts:
    """The parts of a German clause, before they are put in order."""

    gender: str  # of the subject: m, f, n, or p for plural
    gap: list[str]  # the relative pronoun where it is the object
    subject: list[str]
    adverb: list[str]
    objects: list[str]
    place: list[str]
    predicate: list[str]
    finite: str
    prefix: str  # separated from the finite verb unless that comes last
    infinite: list[str]  # participle or infinitive


def translate(meaning: Clause, choose: Choose) -> str:
    """Return one German sentence; `choose` makes each of its choices."""
    past = any(clause.tense == "past" and clause.verb != "be" for clause in _clauses(meaning))
    speaker = _Speaker(choose, choose(PAST) if past else "")
    main = _parts(meaning, "", speaker)
    if meaning.conjunction is None or meaning.subordinate is None:
        return _finish(_verb_second(main, choose))
    word, position = choose(CONJUNCTIONS[meaning.conjunction].german)
    parts = _parts(meaning.subordinate, main.gender, speaker)
    if position == "second":
        return _finish([*_verb_second(main, choose), ",", word, *_verb_second(parts, choose)])
    clause = [word, *_verb_final(parts)]
    if meaning.conjunction != "that" and choose(CLAUSE_PLACE) == "before":
        return _finish(_arrange(main, [*clause, ","]))
    return _finish([*_verb_second(main, choose), ",", *clause])


def _verb_second(parts: _Parts, choose: Choose) -> list[str]:
    match choose(FIRST[bool(parts.adverb), bool(parts.place)]):
        case "adverb":
            return _arrange(replace(parts, adverb=[]), parts.adverb)
        case "place":
            return _arrange(replace(parts, place=[]), parts.place)
        case _:
            return _arrange(replace(parts, subject=[]), parts.subject)


def _arrange(parts: _Parts, first: list[str]) -> list[str]:
    middle = [*parts.subject, *parts.adverb, *parts.objects, *parts.place, *parts.predicate]
    return [*first, parts.finite, *middle, *parts.infinite, parts.prefix]


def _verb_final(parts: _Parts) -> list[str]:
    middle = [*parts.adverb, *parts.objects, *parts.place, *parts.predicate]
    return [*parts.gap, *parts.subject, *middle, *parts.infinite, parts.prefix + parts.finite]


def _parts(clause: Clause, antecedent: str, speaker: _Speaker) -> _Parts:
    """Return the parts of a clause; `antecedent` is the gender of what `it` or a relative clause refers to."""
    verb = speaker.choose(VERBS[clause.verb].german)
    if clause.subject is None:
        subject, gender = [_definite("nom", antecedent)], antecedent
    else:
        subject, gender = _german_phrase(clause.subject, "nom", speaker, antecedent)
    gap = clause.object is None and VERBS[clause.verb].frame == "transitive"
    recipient = _german_phrase(clause.recipient, "dat", speaker)[0] if clause.recipient else []
    objects = _german_phrase(clause.object, verb.case, speaker)[0] if clause.object else []
    finite, prefix, infinite = _conjugate(verb, clause, gender == "p", speaker.past)
    return _Parts(
        gender=gender,
        gap=[_relative_pronoun(verb.case, antecedent)] if gap else [],
        subject=subject,
        adverb=[speaker.choose(ADVERBS[clause.adverb].german)] if clause.adverb else [],
        objects=recipient + objects,
        place=_german_place(*clause.place, speaker) if clause.place else [],
        predicate=[speaker.choose(ADJECTIVES[clause.predicate].german)] if clause.predicate else [],
        finite=finite,
        prefix=prefix,
        infinite=infinite,
    )


def _conjugate(verb: GermanVerb, clause: Clause, plural: bool, past: str) -> tuple[str, str, list[str]]:
    """Return the finite verb, its separable prefix, and the participle or infinitive. `be` has no perfect."""
    if clause.tense in MODALS:
        return MODALS[clause.tense][plural], "", [verb.prefix + verb.infinitive]
    if clause.tense == "present":
        return verb.present[plural], verb.prefix, []
    if past == "preterite" or clause.verb == "be":
        return verb.past[plural], verb.prefix, []
    return verb.auxiliary[plural], "", [verb.prefix + verb.participle]


def _german_place(preposition: str, phrase: Phrase, speaker: _Speaker) -> list[str]:
    entry = PREPOSITIONS[preposition]
    word = speaker.choose(entry.german)
    words, _ = _german_phrase(phrase, entry.case, speaker)
    return ["im", *words[1:]] if [word, words[0]] == ["in", "dem"] else [word, *words]


def _german_phrase(phrase: Phrase, case: str, speaker: _Speaker, antecedent: str = "") -> tuple[list[str], str]:
    """Return the words and their gender (p for plural). The noun is chosen first, because other words agree with it."""
    if phrase.noun in NAMES:
        return [phrase.noun], NAMES[phrase.noun]
    if phrase.noun in PRONOUNS:
        gender = antecedent if phrase.noun == "it" else PRONOUNS[phrase.noun]
        return [{"m": "er", "n": "es"}.get(gender, "sie")], gender
    choose = speaker.choose
    noun = choose(NOUNS[phrase.noun].german)
    gender = "p" if phrase.plural else noun.gender
    words = [_noun_form(noun, phrase.plural, case)]
    if phrase.modifier is not None:
        first, is_substance = MODIFIERS[phrase.modifier]
        apart = is_substance and choose(SUBSTANCE) == "phrase"
        words = [*words, "aus", first] if apart else [first + words[0].lower()]
    determiner, ending = _determiner(phrase.determiner, case, gender)
    if phrase.adjective is not None:
        words.insert(0, choose(ADJECTIVES[phrase.adjective].german) + ending)
    if phrase.relative is not None:
        words += [",", *_verb_final(_parts(phrase.relative, gender, speaker)), ","]
    return ([determiner, *words] if determiner else words), gender


def _noun_form(noun: GermanNoun, plural: bool, case: str) -> str:
    if not plural:
        return noun.singular
    return noun.plural + ("n" if case == "dat" and noun.plural[-1] not in "ns" else "")


def _determiner(determiner: str, case: str, gender: str) -> tuple[str, str]:
    """Return the determiner, which may be empty, and the ending of an adjective after it."""
    full = _ENDINGS[case][gender]
    if determiner in NUMBERS:
        return NUMBERS[determiner], full
    entry = DETERMINERS[determiner]
    bare = entry.declension == "mixed" and case + gender in ("nomm", "nomn", "accn")  # ein alter Tisch, ein altes Bett
    weak = "e" if case + gender in ("nomm", "nomf", "nomn", "accf", "accn") else "en"
    ending = full if bare or entry.declension == "strong" else weak
    if determiner == "the":
        return _definite(case, gender), ending
    return entry.stem and entry.stem + ("" if bare else full), ending


def _definite(case: str, gender: str) -> str:
    ending = _ENDINGS[case][gender]
    return "d" + {"e": "ie", "es": "as"}.get(ending, ending)


def _relative_pronoun(case: str, gender: str) -> str:
    return "denen" if (case, gender) == ("dat", "p") else _definite(case, gender)


# ----------------------------------------------------------------------------------------------------- distributions


def translations(meaning: Clause) -> list[tuple[float, str]]:
    """Return all (probability, target) of a meaning, the most probable first; the probabilities sum to 1."""
    totals: dict[str, float] = {}
    for probability, target in _every_way(lambda choose: translate(meaning, choose)):
        totals[target] = totals.get(target, 0.0) + probability
    return sorted(
        ((probability, target) for target, probability in totals.items()), key=lambda item: (-item[0], item[1])
    )


class _Script:
    """Repeats given choices, then takes the first option each time, and records what was taken."""

    def __init__(self, options: list[int]) -> None:
        self._options = options
        self.taken: list[tuple[int, int]] = []  # option, number of options
        self.probability = 1.0

    def __call__(self, options: Options[T]) -> T:
        position = len(self.taken)
        option = self._options[position] if position < len(self._options) else 0
        self.taken.append((option, len(options)))
        self.probability *= options[option][0]
        return options[option][1]


def _every_way(make: Callable[[Choose], T]) -> Iterator[tuple[float, T]]:
    """Yield each outcome of `make` with the probability of its choices, depth first, one call for each path."""
    script = _Script([])
    while True:
        outcome = make(script)
        yield script.probability, outcome
        taken = script.taken
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return
        *before, (last, _) = taken
        script = _Script([option for option, _ in before] + [last + 1])


def target_distribution(source: str) -> dict[str, float]:
    """Return p(target | source) of all valid targets.

    Raises:
        ValueError: the source does not belong to the language.
    """
    return {target: probability for probability, target in translations(parse_source(source))}


def is_valid(source: str, target: str) -> bool:
    """Return whether the target is a translation of the source.

    Raises:
        ValueError: the source does not belong to the language.
    """
    return target in target_distribution(source)


def entropy(distribution: dict[str, float]) -> float:
    """Return the entropy in nats."""
    return -math.fsum(probability * math.log(probability) for probability in distribution.values())
