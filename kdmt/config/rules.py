"""Settings of the cleaning rules of `prepare.clean.rules`, and changes for one corpus.

The settings of a rule are a section; `Rules` has one field for each rule, which is null if the rule is not applied.
A file may write the rules as a name of a list (`default`), as a list of names and mappings, or as a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kdmt.choices import LengthUnit, RuleList
from kdmt.config.filters import AlignmentScore, CrossEntropyDifference, ExternalFilter, ReverseScore
from kdmt.config.section import Section, later, later_without_settings


class NoSettings(Section):
    """A rule without settings."""


class LongestWord(Section):
    """Longest word of a side with spaces between words: base64, DNA, lines without spaces."""

    max: int = Field(150, ge=1, description="Maximum number of characters of a word")


class MeanWord(Section):
    """Mean number of characters per word of a side with spaces between words: spaced-out letters, tables, code."""

    min: float = Field(1.5, ge=0.0, description="Minimum of characters per word")
    max: float = Field(30.0, gt=0.0, description="Maximum of characters per word")


class LengthRatio(Section):
    """Ratio of the shorter to the longer side, without regard to the languages (`max_ratio` has regard to them).

    A ratio of words applies only if both sides have spaces between words.
    """

    min: float = Field(0.5, gt=0.0, le=1.0, description="Minimum of shorter over longer side")
    unit: LengthUnit = Field("words", description="Unit of the lengths")
    slack: int = Field(3, ge=0, description="Number that is added to both lengths, because short lines differ by more")


class Script(Section):
    """Share of the letters of a side that belong to the script of its language.

    Letters that no single script has, such as combining accents, belong to every script.
    """

    min: float = Field(0.5, gt=0.0, le=1.0, description="Minimum share of the letters of a side")


class Letters(Section):
    """Share of the characters of a side that are letters or combining marks, spaces left out."""

    min: float = Field(0.5, gt=0.0, le=1.0, description="Minimum share of the characters of a side")


class RepeatedCharacters(Section):
    """Number of times that one character occurs in a row on a side: dotted lines, rulers, noise."""

    max: int = Field(10, ge=1, description="Maximum number of equal characters in a row")


class RepeatedPhrases(Section):
    """Phrases of up to 200 characters that occur several times in a row: menus, loops of translation systems."""

    times: int = Field(3, ge=2, description="Number of times in a row from which a pair is dropped")
    min_length: int = Field(5, ge=1, description="Minimum number of characters of a phrase")


class Numbers(Section):
    """Agreement of the numbers of both sides.

    The numbers are compared as sets of digits of any script, without signs and leading zeros; 1,000 and 1.000 and 1 000
    are 1000. With c common and d differing numbers, (c + 1) / (d + 1) is at least `min`. If it is not, the parts of
    numbers are compared in the same way, 10:30 as 10 and 30.
    """

    min: float = Field(1.0, gt=0.0, description="Minimum of (common + 1) / (differing + 1)")


class NearCopy(Section):
    """Similarity of both sides: 1 - (edit distance in characters) / (length of the longer side)."""

    max: float = Field(0.9, gt=0.0, le=1.0, description="Similarity from which a pair is dropped")


class Sentences(Section):
    """Number of sentences of both sides, by final punctuation; not for Thai, Lao and Tibetan, which write none."""

    max_difference: int = Field(2, ge=0, description="Maximum difference of the numbers of sentences")


class Language(Section):
    """Drop pairs with a side that is not in its language, or swap their sides.

    With p the probability of the language, its related languages included (Danish, Bokmål and Nynorsk, for example),
    and q that of the most probable other language, p / (p + q) is at least `min`. Languages that are nearly the only
    one in their script, such as Thai, Greek or Korean, are recognised by it.
    """

    identifier: Literal["built-in", "fasttext"] = Field(
        "built-in", description="Identifier of languages: the one of kdmt[language-id], or a model in fastText's format"
    )
    model: str | None = Field(None, description="Path of the model file of 'identifier: fasttext'")
    min: float = Field(0.2, ge=0.0, le=1.0, description="Minimum of p / (p + q)")
    min_letters: int = Field(
        15, ge=1, description="Minimum number of letters of a line that is judged; a Chinese character counts as three"
    )
    sides: Literal["both", "source", "target"] = Field("both", description="Sides that are judged")
    swap: bool = Field(
        True, description="Whether pairs with the languages of both sides exchanged are swapped back, not dropped"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Language:
        if (self.identifier == "fasttext") != (self.model is not None):
            raise ValueError("'identifier: fasttext' needs 'model', the path of its file, and 'model' needs it")
        if not self.swap and self.sides != "both":
            raise ValueError(
                f"'swap' has no effect with 'sides: {self.sides}': only pairs with two judged sides are swapped"
            )
        return self

    @property
    def swaps(self) -> bool:
        """Return whether pairs are swapped."""
        return self.swap and self.sides == "both"


class Rules(Section):
    """Cleaning rules in the order in which they are applied; null: not applied.

    The filters by scores, which come last, look at the pairs that all others keep, without duplicates.
    """

    mojibake: NoSettings | None = later_without_settings(
        description="Repair of text in UTF-8 that was read in another encoding, by ftfy; changes lines"
    )
    entities: NoSettings | None = later_without_settings(
        description="Replacement of character references as '&amp;' by their characters; changes lines"
    )
    tags: NoSettings | None = later_without_settings(description="Removal of HTML tags; changes lines")
    punctuation: NoSettings | None = later_without_settings(
        description="Moses punctuation normalisation of training text alone ('text.normalize' has it for all text); "
        "changes lines",
    )
    longest_word: LongestWord | None = later(None, description="Length of the longest word")
    mean_word: MeanWord | None = later(None, description="Mean length of the words")
    length_ratio: LengthRatio | None = later(None, description="Ratio of the lengths of both sides")
    broken_characters: NoSettings | None = later_without_settings(
        description="Drops pairs with characters of lost text: U+FFFD, private use, noncharacters"
    )
    markup: NoSettings | None = later_without_settings(
        description="Drops pairs with markup of templates and code: '{{', '[[', '{%', '<!--', '</'"
    )
    letters: Letters | None = later(None, description="Share of letters")
    script: Script | None = later(None, description="Share of letters in the script of the language")
    repeated_characters: RepeatedCharacters | None = later(None, description="Equal characters in a row")
    repeated_phrases: RepeatedPhrases | None = later(None, description="Equal phrases in a row")
    numbers: Numbers | None = later(None, description="Agreement of the numbers of both sides")
    links: NoSettings | None = later_without_settings(
        description="Drops pairs whose sides have different URLs, domain names or e-mail addresses"
    )
    near_copy: NearCopy | None = later(None, description="Similarity of both sides")
    sentences: Sentences | None = later(None, description="Difference of the numbers of sentences")
    language: Language | None = later(None, description="Language of each side")
    alignment: AlignmentScore | None = later(None, description="Score of the word alignment")
    cross_entropy: CrossEntropyDifference | None = later(None, description="Likeness to the text of a domain")
    reverse: ReverseScore | None = later(None, description="Score of a model of the opposite direction")
    filter: ExternalFilter | None = later(None, description="Score of an external command")


_DEFAULT: Mapping[str, Mapping[str, Any]] = {
    **{name: {} for name in ("mojibake", "entities", "tags", "longest_word", "mean_word", "broken_characters")},
    **{name: {} for name in ("markup", "letters", "script", "repeated_characters", "repeated_phrases")},
    **{name: {} for name in ("numbers", "links", "near_copy", "sentences")},
}
# name of a list -> rule -> settings that differ from the defaults of the rule
LISTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "default": _DEFAULT,
    # for text from the web: stricter, at the price of more clean pairs
    "crawled": {
        **_DEFAULT,
        "longest_word": {"max": 50},
        "mean_word": {"min": 2.0, "max": 20.0},
        "length_ratio": {},
        "letters": {"min": 0.6},
        "script": {"min": 0.8},
        "near_copy": {"max": 0.8},
        "sentences": {"max_difference": 1},
    },
}
# rules that compare both sides of a pair as if they were in different languages
_FOR_PAIRS_ALONE = ("near_copy", "alignment", "cross_entropy", "reverse", "filter")


def _merge(rules: dict[str, Any], name: object, settings: object) -> None:
    """Add, change or remove one rule in a mapping from rule to settings."""
    if not isinstance(name, str) or name not in Rules.model_fields:
        raise ValueError(f"{str(name)[:60]!r} is no rule; the rules are {', '.join(Rules.model_fields)}")
    if settings is False:
        rules.pop(name, None)
    elif settings is None or settings is True:
        rules.setdefault(name, {})
    elif isinstance(settings, Mapping):
        rules[name] = {**rules.get(name, {}), **settings}
    else:
        rules[name] = settings  # refused by the section of the rule, with its path


def _from_items(items: Sequence[object]) -> dict[str, Any]:
    """Return the rules of a list of names and mappings; a later item changes the rules of earlier ones."""
    rules: dict[str, Any] = {}
    for item in items:
        if isinstance(item, str) and item in LISTS:
            for name, settings in LISTS[item].items():
                _merge(rules, name, settings)
        elif isinstance(item, Mapping):
            for name, settings in item.items():
                _merge(rules, name, settings)
        else:
            _merge(rules, item, None)
    return rules


def _rules_from_yaml(value: object) -> object:
    """Return the value of `rules` as a mapping from rule to settings; null and sections are unchanged."""
    if isinstance(value, str):
        if value not in LISTS:
            raise ValueError(f"should be {' or '.join(map(repr, LISTS))}, or a list of rules")
        return _from_items([value])
    if isinstance(value, list):
        return _from_items(value)
    if isinstance(value, Mapping):
        return _from_items([{name: False if settings is None else settings for name, settings in value.items()}])
    return value


_AsInput = None | RuleList | list[str | dict[str, Any]] | Rules
RulesOrNone = Annotated[Rules | None, BeforeValidator(_rules_from_yaml, json_schema_input_type=_AsInput)]


def rules_for_lines(rules: Rules | None, side: int) -> Rules | None:
    """Return the rules that apply to text of one language, where each line is a pair with itself.

    Args:
        side: side whose language the text has: 0 for the source, 1 for the target.
    """
    if rules is None:
        return None
    language = rules.language
    if language is not None:
        is_judged = language.sides in ("both", ("source", "target")[side])
        # the copy need not be judged
        language = language.model_copy(update={"sides": "source", "swap": True}) if is_judged else None
    return rules.model_copy(update={**dict.fromkeys(_FOR_PAIRS_ALONE), "language": language})


def change_rules(rules: Rules | None, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return rules with changes by name, as a mapping for validation; None if no rule is left and there was none."""
    found = {} if rules is None else {name: value for name, value in rules.model_dump().items() if value is not None}
    for name, settings in changes.items():
        if settings is False and name not in found:
            raise ValueError(f"'{name}: false' has no effect: the rule is not in 'prepare.clean.rules'")
        _merge(found, name, settings)
    return found if found or rules is not None else None
