"""Table of the rules with settings of their own, and the rules that a pipeline applies, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kdmt.config import Clean, Language
from kdmt.corpus.rules.copies import Copy
from kdmt.corpus.rules.language import LanguageRule, build_language_rule
from kdmt.corpus.rules.lengths import Empty, LongestWord, MaxCharacters, MaxWords, MinWords
from kdmt.corpus.rules.numbers import Numbers
from kdmt.corpus.rules.pair_text import LanguagePair
from kdmt.corpus.rules.rule import ChangingRule, DroppingRule
from kdmt.corpus.rules.tidying import Invisible, Normalization, Whitespace

# Rules of every pipeline; the counts of a report have all of them.
CHANGING_RULES = ("invisible", "unicode", "whitespace")
DROPPING_RULES = ("empty", "min_words", "max_words", "max_characters", "copy")

# name in `prepare.clean.rules` -> rule, from its settings and the sides; in the order in which they are applied
DROPPING: Mapping[str, Callable[[Any, LanguagePair], DroppingRule]] = {
    "longest_word": LongestWord,
    "numbers": Numbers,
}


@dataclass(frozen=True)
class RuleSet:
    """The rules for single pairs of a corpus, in the order in which they are applied.

    Attributes:
        changing: rules that change lines of the source, and of the target.
        dropping: rules that drop pairs.
        language: rule for the language of both sides, which judges many pairs at once, after the others; None if it is
            not applied.
    """

    changing: tuple[tuple[ChangingRule, ...], tuple[ChangingRule, ...]]
    dropping: tuple[DroppingRule, ...]
    language: LanguageRule | None = None


def build_rules(clean: Clean, languages: LanguagePair) -> RuleSet:
    """Return the rules of the settings `prepare.clean`."""
    tidying: tuple[ChangingRule, ...] = (Invisible(), Normalization(clean.unicode_form), Whitespace())
    dropping = (*_rules_of_limits(clean, languages), *_rules_of_list(clean, languages))
    return RuleSet((tidying, tidying), dropping, _language_rule(clean, languages))


def _rules_of_limits(clean: Clean, languages: LanguagePair) -> list[DroppingRule]:
    """Return the rules of every pipeline that drop pairs, without those that are turned off."""
    rules: list[DroppingRule] = [Empty()]
    if clean.min_words > 1:
        rules.append(MinWords(clean.min_words, languages.spaced))
    if clean.max_words:
        rules.append(MaxWords(clean.max_words, languages.spaced))
    if clean.max_characters:
        rules.append(MaxCharacters(clean.max_characters))
    if clean.drop_copies:
        rules.append(Copy())
    return rules


def _rules_of_list(clean: Clean, languages: LanguagePair) -> list[DroppingRule]:
    if clean.rules is None:
        return []
    chosen = {name: getattr(clean.rules, name) for name in DROPPING}
    return [DROPPING[name](settings, languages) for name, settings in chosen.items() if settings is not None]


def _language_rule(clean: Clean, languages: LanguagePair) -> LanguageRule | None:
    settings = _language_settings(clean)
    if settings is None:
        return None
    if languages.codes is None:
        raise ValueError("the rule 'language' needs the codes of both languages")
    return build_language_rule(settings, languages.codes)


def _language_settings(clean: Clean | Literal["none"]) -> Language | None:
    return None if clean == "none" or clean.rules is None else clean.rules.language


def changing_names(clean: Clean | Literal["none"]) -> tuple[str, ...]:
    """Return the names of the rules that change lines, for counts."""
    language = _language_settings(clean)
    return (*CHANGING_RULES, LanguageRule.swapped) if language is not None and language.swap else CHANGING_RULES


def dropping_names(clean: Clean | Literal["none"]) -> tuple[str, ...]:
    """Return the names of the rules for single pairs that drop pairs, for counts."""
    if clean == "none" or clean.rules is None:
        return DROPPING_RULES
    listed = (*DROPPING, LanguageRule.name)
    return (*DROPPING_RULES, *(name for name in listed if getattr(clean.rules, name) is not None))
