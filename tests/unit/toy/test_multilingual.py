"""Tests of the toy languages for several directions."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import pytest

from kdmt.toy.multilingual import (
    TOY_LANGUAGES,
    classify,
    concepts_in_order,
    distribution,
    language_of,
    parse,
    render,
    sample_meaning,
)
from kdmt.toy.multilingual_files import SPLITS, is_up_to_date, make_lines, write_lines

LANGUAGES = pytest.mark.parametrize("language", TOY_LANGUAGES.values(), ids=lambda language: language.code)
SMALL = {"test": 30, "valid": 20, "train": 50}


def meanings(count: int = 200) -> list:
    rng = random.Random(7)
    return [sample_meaning(rng) for _ in range(count)]


@LANGUAGES
def test_a_sentence_has_one_meaning(language) -> None:
    for meaning in meanings():
        found = distribution(language, meaning)
        assert math.isclose(sum(found.values()), 1.0)
        assert all(parse(language, sentence) == meaning for sentence in found)


@LANGUAGES
def test_sentences_are_drawn_from_the_distribution(language) -> None:
    rng, meaning = random.Random(1), meanings(1)[0]
    counts = Counter(render(rng, language, meaning) for _ in range(4000))
    for sentence, probability in distribution(language, meaning).items():
        spread = 4 * math.sqrt(4000 * probability * (1 - probability))
        assert abs(counts[sentence] - 4000 * probability) <= spread


@LANGUAGES
def test_another_order_is_no_sentence(language) -> None:
    for meaning in meanings(50):
        words = [language.words[concept][0][1] for concept in concepts_in_order(language, meaning)]
        other = " ".join(reversed(words))
        assert parse(language, other) != meaning


def test_no_word_is_of_two_languages_or_concepts() -> None:
    words = [word for each in TOY_LANGUAGES.values() for found in each.words.values() for _, word in found]
    assert len(set(words)) == len(words)
    assert all(language_of(word) in TOY_LANGUAGES for word in words)


def test_probabilities_of_the_readme() -> None:
    for meaning in meanings(50):
        assert {round(value, 12) for value in distribution(TOY_LANGUAGES["qaa"], meaning).values()} == {
            0.49,
            0.21,
            0.09,
        }
        assert set(distribution(TOY_LANGUAGES["qab"], meaning).values()) == {0.5}
        assert list(distribution(TOY_LANGUAGES["en"], meaning).values()) == [1.0]


@pytest.mark.parametrize(
    ("output", "verdict"),
    [
        ("melat melar meler", "valid"),
        ("melet melar meler", "valid"),
        ("melat meler melar", "wrong"),  # the cat sees the dog
        ("dog sees cat", "off_target"),
        ("melat dog cat", "off_target"),
        ("", "wrong"),
        ("xyz", "wrong"),
    ],
)
def test_verdicts_on_outputs(output: str, verdict: str) -> None:
    assert classify("en", "qab", "dog sees cat", output) == verdict


def test_lines_have_the_same_meaning_and_no_meaning_occurs_twice() -> None:
    corpus = make_lines({"test": 100, "valid": 100, "train": 1000}, seed=1)
    found = []
    for lines in corpus.values():
        by_language = [[parse(TOY_LANGUAGES[code], line) for line in own] for code, own in lines.items()]
        assert by_language[0] == by_language[1] == by_language[2]
        found += by_language[0]
    assert None not in found
    assert len(set(found)) == len(found) == 1200


def test_a_smaller_training_set_is_a_prefix() -> None:
    smaller, larger = (make_lines(SMALL | {"train": count}, seed=4)["train"] for count in (50, 80))
    assert all(larger[code][:50] == smaller[code] for code in TOY_LANGUAGES)


def test_files_are_written_once(tmp_path: Path) -> None:
    assert not is_up_to_date(tmp_path, SMALL, 3)
    write_lines(tmp_path, SMALL, 3)
    for split, lines in make_lines(SMALL, 3).items():
        assert all((tmp_path / f"{split}.{code}").read_text().splitlines() == own for code, own in lines.items())
    assert is_up_to_date(tmp_path, SMALL, 3)
    assert not is_up_to_date(tmp_path, SMALL, 4)
    assert len(list(tmp_path.iterdir())) == len(SPLITS) * len(TOY_LANGUAGES) + 1
