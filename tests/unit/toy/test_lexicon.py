"""The toy language's words: probabilities and numbers."""

from __future__ import annotations

import math

import pytest

from kdmt.toy import grammar, lexicon


def test_renderings_of_each_word_sum_to_one() -> None:
    tables = [lexicon.NOUNS, lexicon.VERBS, lexicon.ADJECTIVES, lexicon.ADVERBS, lexicon.PREPOSITIONS]
    choices = [entry.german for table in [*tables, lexicon.CONJUNCTIONS] for entry in table.values()]
    choices += [grammar.PAST, grammar.SUBSTANCE, grammar.CLAUSE_PLACE, *grammar.FIRST.values()]
    for options in choices:
        assert all(probability > 0 for probability, _ in options)
        assert math.fsum(probability for probability, _ in options) == pytest.approx(1.0)


def test_numbers_put_the_unit_first() -> None:
    assert len(lexicon.NUMBERS) == 98
    expected = {"two": "zwei", "sixteen": "sechzehn", "twenty-one": "einundzwanzig", "ninety-nine": "neunundneunzig"}
    assert {english: lexicon.NUMBERS[english] for english in expected} == expected
    assert "one" not in lexicon.NUMBERS
