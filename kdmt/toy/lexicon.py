"""The words of the toy language, read from `lexicon.txt`: tables of English words with their German renderings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")
Options = Sequence[tuple[float, T]]  # (probability or weight, what is chosen)


class GermanNoun(NamedTuple):
    gender: str  # m, f or n
    singular: str
    plural: str


class Noun(NamedTuple):
    plural: str
    kind: str  # person, animal, thing or place
    german: Options[GermanNoun]


class GermanVerb(NamedTuple):
    prefix: str  # separable; empty if there is none
    infinitive: str  # without the prefix, as the other forms
    present: tuple[str, str]  # singular, plural
    past: tuple[str, str]
    participle: str
    auxiliary: tuple[str, str]  # of the perfect
    case: str  # of the object of a transitive verb: acc or dat


class Verb(NamedTuple):
    present: tuple[str, str]  # English, singular and plural
    past: tuple[str, str]
    frame: str  # intransitive, copula, transitive, ditransitive or clausal
    subject_kinds: list[str]
    object_kinds: list[str]
    german: Options[GermanVerb]


class Adjective(NamedTuple):
    kinds: list[str]  # of nouns that it goes with
    german: Options[str]


class Modifier(NamedTuple):
    german: str
    is_substance: bool


class Adverb(NamedTuple):
    tenses: list[str]  # past, present, modal
    german: Options[str]


class Preposition(NamedTuple):
    kinds: list[str]
    case: str
    german: Options[str]


class Conjunction(NamedTuple):
    comma: bool  # in English; German always has one
    german: Options[tuple[str, str]]  # word (may be empty), position of the verb: final or second


class Determiner(NamedTuple):
    numbers: str  # s, p or sp
    weight: float
    declension: str  # of an adjective after it: weak, mixed or strong
    stem: str


Rows = list[tuple[list[str], list[tuple[float, list[str]]]]]


def _read_sections(path: Path) -> dict[str, Rows]:
    """Return section name -> rows of (English fields, [(probability, German fields)])."""
    sections: dict[str, Rows] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            rows = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            english, *renderings = line.split("|")
            german = [rendering.split() for rendering in renderings]
            rows.append((english.split(), [(float(probability), fields) for probability, *fields in german]))
    return sections


def _pair(forms: str, plural: str) -> tuple[str, str]:
    """Return singular and plural: `ist/sind` holds both, otherwise the plural is the given one."""
    singular, _, irregular = forms.partition("/")
    return singular, irregular or plural


def _german_verb(fields: list[str]) -> GermanVerb:
    first, present, past, participle, *marks = fields
    prefix, _, infinitive = first.rpartition("+")
    return GermanVerb(
        prefix=prefix,
        infinitive=infinitive,
        present=_pair(present, infinitive),
        past=(past, past + ("n" if past.endswith("e") else "en")),
        participle=participle,
        auxiliary=("ist", "sind") if "sein" in marks else ("hat", "haben"),
        case="dat" if "dat" in marks else "acc",
    )


def _verb(head: list[str], german: list[tuple[float, list[str]]]) -> Verb:
    base, present, past, frame, subjects, objects = head
    return Verb(
        present=_pair(present, base),
        past=_pair(past, past),
        frame=frame,
        subject_kinds=subjects.split(","),
        object_kinds=objects.split(","),
        german=[(probability, _german_verb(fields)) for probability, fields in german],
    )


def _texts(german: list[tuple[float, list[str]]]) -> Options[str]:
    return [(probability, " ".join(fields)) for probability, fields in german]


def _word(field: str) -> str:
    return "" if field == "_" else field


def _numbers(rows: Rows) -> dict[str, str]:
    """Return the numbers from two to ninety-nine; in German the unit comes first: einundzwanzig."""
    words = [(head[0], german[0][1][0]) for head, german in rows]
    numbers = dict(words[1:])
    for ten, zehn in words[19:]:
        numbers |= {f"{ten}-{unit}": f"{einer}und{zehn}" for unit, einer in words[:9]}
    return numbers


_SECTIONS = _read_sections(Path(__file__).with_name("lexicon.txt"))

NOUNS = {
    head[0]: Noun(head[1], head[2], [(probability, GermanNoun(*fields)) for probability, fields in german])
    for head, german in _SECTIONS["noun"]
}
VERBS = {head[0]: _verb(head, german) for head, german in _SECTIONS["verb"]}
MODIFIERS = {head[0]: Modifier(german[0][1][0], head[1] == "substance") for head, german in _SECTIONS["modifier"]}
ADJECTIVES = {head[0]: Adjective(head[1].split(","), _texts(german)) for head, german in _SECTIONS["adjective"]}
MODALS = {head[0]: _pair(german[0][1][0], "") for head, german in _SECTIONS["modal"]}
ADVERBS = {head[0]: Adverb(head[1].split(","), _texts(german)) for head, german in _SECTIONS["adverb"]}
PREPOSITIONS = {
    head[0]: Preposition(head[1].split(","), head[2], _texts(german)) for head, german in _SECTIONS["preposition"]
}
CONJUNCTIONS = {
    head[0]: Conjunction(
        head[1] == "comma", [(probability, (_word(word), verb)) for probability, (word, verb) in german]
    )
    for head, german in _SECTIONS["conjunction"]
}
DETERMINERS = {
    _word(head[0]): Determiner(head[1], float(head[2]), head[3], _word(german[0][1][0]))
    for head, german in _SECTIONS["determiner"]
}
NAMES = {head[0]: german[0][1][0] for head, german in _SECTIONS["name"]}
PRONOUNS = {head[0]: german[0][1][0] for head, german in _SECTIONS["pronoun"]}
NUMBERS = _numbers(_SECTIONS["number"])
