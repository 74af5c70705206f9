"""Table of the rules with settings of their own, and the rules that a pipeline applies, in their order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kdmt.config import Clean, Language
from kdmt.corpus.rules.copies import Copy, NearCopy
from kdmt.corpus.rules.encodings import Mojibake
from kdmt.corpus.rules.language import LanguageRule, build_language_rule
from kdmt.corpus.rules.lengths import Empty, LengthRatio, LongestWord, MaxCharacters, MaxWords, MeanWord, MinWords
from kdmt.corpus.rules.letters import BrokenCharacters, Letters, Script
from kdmt.corpus.rules.links import Links
from kdmt.corpus.rules.markup import Entities, Markup, Tags
from kdmt.corpus.rules.numbers import Numbers
from kdmt.corpus.rules.pair_text import LanguagePair
from kdmt.corpus.rules.punctuation import Punctuation
from kdmt.corpus.rules.repetitions import RepeatedCharacters, RepeatedPhrases
from kdmt.corpus.rules.rule import ChangingRule, DroppingRule
from kdmt.corpus.rules.sentences import Sentences
from kdmt.corpus.rules.tidying import Invisible, Normalization, Whitespace

# Rules of every pipeline; the counts of a report have all of them.
CHANGING_RULES = ("invisible", "unicode", "whitespace")
DROPPING_RULES = ("empty", "min_words", "max_words", "max_characters", "copy")

# Rules of `prepare.clean.rules`, by name and in the order in which they are applied. Those that change lines are made
# from the code of the language. The first of them come before the rules of every pipeline that change lines, because
# text in a wrong encoding has invisible characters, and `&nbsp;` is whitespace.
CHANGING_FIRST: Mapping[str, Callable[[str], ChangingRule]] = {
    "mojibake": lambda _: Mojibake(),
    "entities": lambda _: Entities(),
    "tags": lambda _: Tags(),
}
CHANGING_LATER: Mapping[str, Callable[[str], ChangingRule]] = {"punctuation": Punctuation}
# The others drop pairs and are made from their settings and both languages.
DROPPING: Mapping[str, Callable[[Any, LanguagePair], DroppingRule]] = {
    "longest_word": LongestWord,
    "mean_word": MeanWord,
    "length_ratio": LengthRatio,
    "broken_characters": BrokenCharacters,
    "markup": Markup,
    "letters": Letters,
    "script": Script,
    "repeated_characters": RepeatedCharacters,
    "repeated_phrases": RepeatedPhrases,
    "numbers": Numbers,
    "links": Links,
    "near_copy": NearCopy,
    "sentences": Sentences,
}


@dataclass(frozen=True)
class RuleSet:
    """The rules for single pairs of a corpus, in the order in which they are applied.

    Attributes:
        changing: rules that change lines of the source, and of the target.
        dropping: rules that drop pairs.
        keeps_plain: whether no rule changes a line for which `is_plain` is true.
        language: rule for the language of both sides, which judges many pairs at once; None if it is not applied.
    """

    changing: tuple[tuple[ChangingRule, ...], tuple[ChangingRule, ...]]
    dropping: tuple[DroppingRule, ...]
    keeps_plain: bool
    language: LanguageRule | None


def build_rules(clean: Clean, languages: LanguagePair) -> RuleSet:
    """Return the rules of the settings `prepare.clean`."""
    source, target = languages.codes or ("en", "en")
    return RuleSet(
        (_changing_rules(clean, source), _changing_rules(clean, target)),
        (*_rules_of_limits(clean, languages), *_rules_of_list(clean, languages)),
        keeps_plain=not _chosen(clean, CHANGING_LATER),
        language=_language_rule(clean, languages),
    )


def _changing_rules(clean: Clean, language: str) -> tuple[ChangingRule, ...]:
    return (
        *(CHANGING_FIRST[name](language) for name in _chosen(clean, CHANGING_FIRST)),
        *(Invisible(), Normalization(clean.unicode_form)),
        *(CHANGING_LATER[name](language) for name in _chosen(clean, CHANGING_LATER)),
        Whitespace(),
    )


def line_forms(settings: Iterable[Clean], language: str) -> Callable[[str], list[str]]:
    """Return a function that gives a line as it is, and as the rules of each of several settings change it.

    Args:
        settings: settings `prepare.clean`, of which only the rules that change lines count.
        language: code of the language of the line.
    """
    rules = dict.fromkeys(_changing_rules(clean, language) for clean in settings)
    return functools.partial(_forms, tuple(rules))


def _forms(rule_lists: Iterable[tuple[ChangingRule, ...]], line: str) -> list[str]:
    forms = [line]
    for rules in rule_lists:
        form = line
        for rule in rules:
            form = rule.edit(form)
        forms.append(form)
    return list(dict.fromkeys(forms))


def _chosen(clean: Clean | Literal["none"], names: Iterable[str]) -> list[str]:
    """Return those of the names whose rules are applied."""
    if clean == "none" or clean.rules is None:
        return []
    return [name for name in names if getattr(clean.rules, name) is not None]


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
    return [DROPPING[name](getattr(clean.rules, name), languages) for name in _chosen(clean, DROPPING)]


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
    swapped = (LanguageRule.swapped,) if language is not None and language.swaps else ()
    return (*CHANGING_RULES, *_chosen(clean, (*CHANGING_FIRST, *CHANGING_LATER)), *swapped)


def dropping_names(clean: Clean | Literal["none"]) -> tuple[str, ...]:
    """Return the names of the rules for single pairs that drop pairs, for counts."""
    return (*DROPPING_RULES, *_chosen(clean, (*DROPPING, LanguageRule.name)))
