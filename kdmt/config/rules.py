"""Settings of the cleaning rules of `prepare.clean.rules`, and changes for one corpus.

The settings of a rule are a section; `Rules` has one field for each rule, which is null if the rule is not applied.
A file may write the rules as a name of a list (`default`), as a list of names and mappings, or as a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from kdmt.choices import ComputeType
from kdmt.config.section import Section, execution, later


class LongestWord(Section):
    """Drop pairs with a very long word on a side with spaces between words: base64, DNA, joined lines."""

    max: int = Field(150, ge=1, description="Maximum number of characters of a word")


class Numbers(Section):
    """Drop pairs whose sides have different numbers.

    The numbers of both sides are compared as sets of digits, without separators and leading zeros, and with the digits
    of all scripts. With c common and d differing numbers, (c + 1) / (d + 1) is at least `min`.
    """

    min: float = Field(1.0, gt=0.0, description="Minimum of (common + 1) / (differing + 1)")


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
        return self


class ScoreLimit(Section):
    """Limits of the filters by scores, which are higher for better pairs; both may be given."""

    min: float | None = Field(None, description="Minimum score; null for no minimum")
    drop_percent: float | None = Field(
        None, gt=0.0, lt=100.0, description="Percentage of the pairs of a corpus, the lowest by score, that are dropped"
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.min is None and self.drop_percent is None:
            raise ValueError("give 'min' or 'drop_percent'")
        return self


class AlignmentScore(ScoreLimit):
    """Drop pairs whose words are improbable translations of each other under IBM model 1.

    The model is trained on the corpora themselves. The score is the mean log-probability of a word, of both directions.
    """

    train_pairs: int = Field(100_000, ge=1, description="Number of pairs, evenly sampled, that the model is trained on")


class CrossEntropyDifference(ScoreLimit):
    """Drop pairs that are less like the text of a domain than like the corpora (Moore and Lewis 2010).

    The score is the cross entropy under a language model of the corpora minus that under one of the domain, in nats
    per word, summed over both sides.
    """

    in_domain_corpus: int | None = Field(
        None, ge=0, description="Index in 'prepare.train' of the corpus of the domain; null for the validation set"
    )
    sides: Literal["both", "source", "target"] = Field("both", description="Sides that are judged")
    train_pairs: int = Field(
        100_000, ge=1, description="Maximum number of pairs, evenly sampled, of which the language models are trained"
    )


class ReverseScore(ScoreLimit):
    """Drop pairs whose source is improbable given the target under a model of the opposite direction.

    The score is the mean log-probability of a source token, as `kdmt rescore` prints the sum.
    """

    checkpoint: str = Field(description="Checkpoint of a model from the target to the source language")
    compute_type: ComputeType = Field("float32", description="Number type of CTranslate2's computation")


class ExternalFilter(ScoreLimit):
    """Drop pairs by the scores of an external command.

    The command reads one pair per line from standard input, with a tab between the columns, and writes one line per
    pair to standard output, the last column of which is the score.
    """

    command: list[str] = Field(min_length=1, description="Program and arguments")
    columns: list[Literal["source", "target"]] = Field(
        ["source", "target"], min_length=1, description="Columns that the command reads, in order"
    )
    batch_pairs: int = execution(
        100_000, ge=1, description="Number of pairs for one run of the command, whose scores are kept for later runs"
    )
    retries: int = execution(2, ge=0, description="Number of times that a run of the command that failed is repeated")


class Rules(Section):
    """Cleaning rules in the order in which they are applied; null: not applied.

    The filters by scores, which come last, look at the pairs that all others keep, without duplicates.
    """

    longest_word: LongestWord | None = later(None, description="Maximum length of a word")
    numbers: Numbers | None = later(None, description="Agreement of the numbers of both sides")
    language: Language | None = later(None, description="Language of each side")
    alignment: AlignmentScore | None = later(None, description="Score of the word alignment")
    cross_entropy: CrossEntropyDifference | None = later(None, description="Likeness to the text of a domain")
    reverse: ReverseScore | None = later(None, description="Score of a model of the opposite direction")
    filter: ExternalFilter | None = later(None, description="Score of an external command")


# name of a list -> rule -> settings that differ from the defaults of the rule
LISTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "default": {"longest_word": {}, "numbers": {}},
}


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


_AsInput = None | Literal["default"] | list[str | dict[str, Any]] | Rules
RulesOrNone = Annotated[Rules | None, BeforeValidator(_rules_from_yaml, json_schema_input_type=_AsInput)]


def change_rules(rules: Rules | None, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return rules with changes by name, as a mapping for validation; None if no rule is left and there was none."""
    found = {} if rules is None else {name: value for name, value in rules.model_dump().items() if value is not None}
    for name, settings in changes.items():
        if settings is False and name not in found:
            raise ValueError(f"'{name}: false' has no effect: the rule is not in 'prepare.clean.rules'")
        _merge(found, name, settings)
    return found if found or rules is not None else None
