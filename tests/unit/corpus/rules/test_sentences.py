"""Tests of the rule that both sides have about as many sentences."""

from __future__ import annotations

import pytest

from kdmt.config.rules import Sentences as Settings
from kdmt.corpus.rules.pair_text import LanguagePair, PairText
from kdmt.corpus.rules.sentences import Sentences, count_sentences


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("No end", 1),
        ("One.", 1),
        ("One. Two! Three?", 3),
        ("„Eins.“ »Zwei!« (Drei.)", 3),
        ("Version 3.5 costs 1.000 euros.", 1),
        ("Wait... what?!", 2),
        ("Hm… ja.", 2),
        ("これは一。それは二！三？", 3),
        ("一。「二。」三", 2),
        ("एक। दो। तीन।", 3),
        ("هل هذا؟ نعم.", 2),
        ("ជំរាបសួរ។ លាហើយ។", 2),
    ],
)
def test_number_of_sentences(line: str, number: int) -> None:
    assert count_sentences(line) == number


@pytest.mark.parametrize(
    ("source", "target", "limit", "is_broken"),
    [
        ("A. B. C. D.", "A.", 2, True),
        ("A. B. C. D.", "A.", 3, False),
        ("A.", "A. B. C. D.", 2, True),
        ("A. B. C.", "A", 2, False),
        ("A. B. C. D.", "一。二。三。四。", 0, False),
        ("A. B. C. D.", "一。二。三。", 0, True),
    ],
)
def test_numbers_of_sentences_differ_by_at_most_the_limit(
    source: str, target: str, limit: int, is_broken: bool
) -> None:
    languages = LanguagePair((True, True), ("en", "zh"))
    assert Sentences(Settings(max_difference=limit), languages).breaks(PairText(source, target)) is is_broken


@pytest.mark.parametrize(("language", "applies"), [("th", False), ("lo", False), ("bo", False), ("km", True)])
def test_languages_without_final_punctuation_are_left_alone(language: str, applies: bool) -> None:
    rule = Sentences(Settings(), LanguagePair((True, False), ("en", language)))
    assert rule.breaks(PairText("A. B. C. D.", "x")) is applies
