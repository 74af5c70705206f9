"""Omitted and untranslated source words, on a language that is translated word by word."""

from __future__ import annotations

import random

import pytest

from kdmt.score.coverage import Aligner

WORDS = {f"s{letter}": f"t{letter}" for letter in "abcdefghij"}


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    rng = random.Random(1)
    sources = [rng.sample(list(WORDS), rng.randint(3, 6)) for _ in range(300)]
    return Aligner.train(sources, [[WORDS[word] for word in source] for source in sources])


def test_each_word_is_linked_to_its_translation(aligner: Aligner) -> None:
    assert aligner.linked_sources(["sa", "sb", "sc"], ["tc", "ta"]) == {0, 2}
    assert aligner.linked_sources(["sa", "unknown"], ["unknown", "ta"]) == {0}
    assert aligner.linked_sources([], ["ta"]) == set()
    assert aligner.linked_sources(["sa"], []) == set()


def test_omitted_and_untranslated_words_are_found(aligner: Aligner) -> None:
    source, reference = ["sa", "sb", "sc", "sd"], ["ta", "tb", "tc", "td"]
    found = aligner.cover(source, reference, ["ta", "sb", "td"])
    assert found.translated == [0, 1, 2, 3]
    assert found.omitted == [2]  # "sb" was kept, although it was not translated
    assert found.foreign == [0, 1, 2, 3]
    assert found.untranslated == [1]
    assert aligner.cover(source, reference, reference).omitted == []
    assert aligner.cover(source, reference, []).omitted == [0, 1, 2, 3]


def test_only_words_that_the_reference_translates_count(aligner: Aligner) -> None:
    found = aligner.cover(["sa", "sb"], ["ta"], [])
    assert (found.translated, found.omitted) == ([0], [0])


def test_a_word_that_the_reference_contains_as_it_is_is_not_untranslated() -> None:
    aligner = Aligner.train([["Berlin", "sa"], ["Berlin", "sb"]] * 20, [["Berlin", "ta"], ["Berlin", "tb"]] * 20)
    found = aligner.cover(["Berlin", "sa"], ["Berlin", "ta"], ["Berlin", "sa"])
    assert (found.translated, found.foreign, found.untranslated) == ([0, 1], [1], [1])
