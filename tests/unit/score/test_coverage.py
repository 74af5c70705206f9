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
    sources: list[list[str]] = [["sa", "sb", "sc"], ["sa", "unknown"], [], ["sa"]]
    targets: list[list[str]] = [["tc", "ta"], ["unknown", "ta"], ["ta"], []]
    expected: list[set[int]] = [{0, 2}, {0}, set(), set()]
    assert aligner.linked_sources(sources, targets) == expected
    alone = [aligner.linked_sources([source], [target]) for source, target in zip(sources, targets, strict=True)]
    assert alone == [[each] for each in expected]
    assert aligner.linked_sources([], []) == []


def test_omitted_and_untranslated_words_are_found(aligner: Aligner) -> None:
    source, reference = ["sa", "sb", "sc", "sd"], ["ta", "tb", "tc", "td"]
    found, of_reference, of_nothing = aligner.cover([source] * 3, [reference] * 3, [["ta", "sb", "td"], reference, []])
    assert found.translated == [0, 1, 2, 3]
    assert found.omitted == [2]  # "sb" was kept, although it was not translated
    assert found.foreign == [0, 1, 2, 3]
    assert found.untranslated == [1]
    assert of_reference.omitted == []
    assert of_nothing.omitted == [0, 1, 2, 3]


@pytest.mark.parametrize(("references", "outputs"), [([["ta"]], [["ta"]] * 2), ([["ta"]] * 2, [["ta"]])])
def test_each_source_needs_a_reference_and_an_output(
    aligner: Aligner, references: list[list[str]], outputs: list[list[str]]
) -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        aligner.cover([["sa"]] * 2, references, outputs)


def test_only_words_that_the_reference_translates_count(aligner: Aligner) -> None:
    (found,) = aligner.cover([["sa", "sb"]], [["ta"]], [[]])
    assert (found.translated, found.omitted) == ([0], [0])


def test_a_word_that_the_reference_contains_as_it_is_is_not_untranslated() -> None:
    aligner = Aligner.train([["Berlin", "sa"], ["Berlin", "sb"]] * 20, [["Berlin", "ta"], ["Berlin", "tb"]] * 20)
    (found,) = aligner.cover([["Berlin", "sa"]], [["Berlin", "ta"]], [["Berlin", "sa"]])
    assert (found.translated, found.foreign, found.untranslated) == ([0, 1], [1], [1])
