"""Tests of the languages of known modes, against enumeration and binomial bounds."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from fractions import Fraction

import pytest

from kdmt.toy.modes import (
    LANGUAGES,
    argmax_validity,
    classify,
    entropy,
    most_probable_words,
    sample_source,
    sample_translation,
    sampling_validity,
    target_distribution,
    translations,
)

TWO, THREE = LANGUAGES["two"], LANGUAGES["three"]
BOTH = pytest.mark.parametrize("language", [TWO, THREE], ids=lambda language: language.name)
CLASS_PAIRS = ({0, 1}, {1, 2}, {0, 2})  # dialects that share the words of each class: A and B, B and C, A and C
DEVIATIONS = 4.0  # binomial bounds; the seeds are fixed, so a test that passes once always does


def within_bounds(successes: int, trials: int, probability: float) -> bool:
    deviation = math.sqrt(trials * probability * (1 - probability))
    return abs(successes - trials * probability) <= DEVIATIONS * deviation


def sources(language, count: int, seed: int = 5) -> list[str]:
    rng = random.Random(seed)
    return [sample_source(rng, language) for _ in range(count)]


def class_of(word: str) -> int:
    """Return the class of a word of the language `three`, by which of its translations are equal."""
    a, b, c = THREE.lexicon[word]
    return {(True, False, False): 0, (False, True, False): 1, (False, False, True): 2}[a == b, b == c, a == c]


def word_of(number: int) -> str:
    """Return a word of a class of the language `three`."""
    return next(word for word in THREE.lexicon if class_of(word) == number)


# ----------------------------------------------------------------------------------------------------- the lexicons


def test_two_dialects_share_no_word():
    a, b = (set(words) for words in zip(*TWO.lexicon.values(), strict=True))
    assert len(TWO.lexicon) == len(a) == len(b) == 100
    assert not a & b


def test_three_dialects_share_a_third_of_their_words_pairwise():
    dialects = list(zip(*THREE.lexicon.values(), strict=True))
    for pair in itertools.combinations(range(3), 2):
        shared = {x for x, y in zip(*(dialects[dialect] for dialect in pair), strict=True) if x == y}
        assert len(shared) == 33
        assert set(dialects[pair[0]]) & set(dialects[pair[1]]) == shared  # no other word occurs in both
    assert Counter(map(class_of, THREE.lexicon)) == {0: 33, 1: 33, 2: 33}
    assert all(len(set(words)) == 2 for words in THREE.lexicon.values())


@BOTH
def test_translations_of_different_words_are_different(language):
    assert sum(len(set(words)) for words in language.lexicon.values()) == len(
        {word for words in language.lexicon.values() for word in words}
    )


@BOTH
def test_lengths_and_words_are_uniform(language):
    drawn = sources(language, 3000)
    lengths = Counter(len(source.split()) for source in drawn)
    shortest, longest = language.lengths
    assert sorted(lengths) == list(range(shortest, longest + 1))
    assert all(within_bounds(count, 3000, 1 / len(lengths)) for count in lengths.values())
    words = Counter(word for source in drawn for word in source.split())
    assert words.keys() == language.lexicon.keys()
    assert all(within_bounds(count, words.total(), 1 / len(language.lexicon)) for count in words.values())


# ----------------------------------------------------------------------------------------------- right translations


def enumerated(language, source: str) -> dict[str, float]:
    """Return the right translations with their probabilities, from all combinations of translations of the words.

    A combination is right in a dialect if each of its words belongs to the dialect.
    """
    vocabularies = [set(words) for words in zip(*language.lexicon.values(), strict=True)]
    found = {}
    for words in itertools.product(*(set(language.lexicon[word]) for word in source.split())):
        fitting = sum(all(word in vocabulary for word in words) for vocabulary in vocabularies)
        if fitting:
            found[" ".join(words)] = fitting / len(vocabularies)
    return found


@BOTH
def test_distribution_matches_enumeration_of_all_combinations_of_words(language):
    rng = random.Random(3)
    words = list(language.lexicon)
    for length in (*range(1, 9), 8, 8):
        source = " ".join(rng.choices(words, k=length))
        assert target_distribution(language, source) == pytest.approx(enumerated(language, source))
        assert set(translations(language, source)) == enumerated(language, source).keys()


def test_translations_of_an_example():
    assert translations(TWO, "w00 w99") == ("a00 a99", "b00 b99")
    first, second, third = (word_of(number) for number in range(3))
    a, b, c = (translation.split() for translation in translations(THREE, f"{first} {second} {third}"))
    assert a[0] == b[0] != c[0]
    assert b[1] == c[1] != a[1]
    assert a[2] == c[2] != b[2]


@BOTH
def test_dialects_are_drawn_uniformly(language):
    rng, counts, trials = random.Random(11), Counter(), 6000
    for source in sources(language, trials):
        counts[translations(language, source).index(sample_translation(rng, language, source))] += 1
    assert all(within_bounds(counts[dialect], trials, 1 / len(language.dialects)) for dialect in range(len(counts)))
    assert len(counts) == len(language.dialects)


def test_entropy_of_translations():
    assert entropy(target_distribution(TWO, "w00 w01")) == pytest.approx(math.log(2))
    one_class, two_classes = word_of(0), f"{word_of(0)} {word_of(1)}"
    assert entropy(target_distribution(THREE, two_classes)) == pytest.approx(math.log(3))
    merged = math.log(3) - 2 / 3 * math.log(2)  # probabilities 2/3 and 1/3
    assert entropy(target_distribution(THREE, one_class)) == pytest.approx(merged)
    assert entropy({"only": 1.0}) == 0.0


@BOTH
@pytest.mark.parametrize("source", ["", "w00 x", "a00"])
def test_sentence_outside_the_language_is_refused(language, source):
    with pytest.raises(ValueError, match=r"no word of the language|at least one word"):
        translations(language, source)
    with pytest.raises(ValueError, match=r"no word of the language|at least one word"):
        classify(language, source, "a00")


# -------------------------------------------------------------------------------------------------------- verdicts


@BOTH
def test_verdicts_match_enumeration(language):
    rng = random.Random(9)
    for _ in range(20):
        source = " ".join(rng.choices(list(language.lexicon), k=5))
        right = enumerated(language, source)
        combinations = itertools.product(*(sorted(set(language.lexicon[word])) for word in source.split()))
        for words in combinations:
            output = " ".join(words)
            assert classify(language, source, output) == ("valid" if output in right else "mixed")


def test_verdicts_of_wrong_outputs():
    outputs = ["", "a00", "a00 a01 a02", "a01 a00", "a00 w01", "a00 <unk>", "b01 a00"]
    assert {classify(TWO, "w00 w01", output) for output in outputs} == {"wrong"}
    assert classify(TWO, "w00 w01", "  b00   b01 ") == "valid"  # spaces are not part of a translation
    pair = f"{word_of(0)} {word_of(1)}"
    a, _, c = (translation.split() for translation in translations(THREE, pair))
    assert classify(THREE, pair, f"{c[0]} {a[1]}") == "mixed"  # the words that C and A have alone
    assert classify(THREE, pair, f"{a[1]} {c[0]}") == "wrong"  # in another order


# ---------------------------------------------------------------------------------------------------- probabilities


def shared_words_fit(classes: tuple[int, ...]) -> bool:
    """Return whether a dialect has the shared words of all these classes."""
    return bool(set.intersection(*(CLASS_PAIRS[number] for number in classes)))


@pytest.mark.parametrize("num_words", range(1, 10))
def test_argmax_validity_matches_enumeration_of_classes(num_words):
    classes = list(itertools.product(range(3), repeat=num_words))
    assert argmax_validity(num_words) == Fraction(sum(map(shared_words_fit, classes)), len(classes))


def test_argmax_validity_of_the_shortest_and_the_longest_sentences():
    assert float(argmax_validity(8)) == pytest.approx(0.1166, abs=1e-4)
    assert float(argmax_validity(15)) == pytest.approx(0.00685, abs=1e-5)


def test_most_probable_words_are_the_shared_ones():
    for source in sources(THREE, 200):
        expected = [Counter(THREE.lexicon[word]).most_common(1)[0] for word in source.split()]
        assert [count for _, count in expected] == [2] * len(expected)
        assert most_probable_words(THREE, source).split() == [word for word, _ in expected]


def test_decoder_that_takes_the_most_probable_words_is_right_as_often_as_the_formula():
    drawn = sources(THREE, 20_000)
    by_length: dict[int, list[bool]] = {}
    for source in drawn:
        verdict = classify(THREE, source, most_probable_words(THREE, source))
        assert verdict != "wrong"
        assert (verdict == "valid") == shared_words_fit(tuple(class_of(word) for word in source.split()))
        by_length.setdefault(len(source.split()), []).append(verdict == "valid")
    for length, right in by_length.items():
        assert within_bounds(sum(right), len(right), float(argmax_validity(length)))
    expected = sum(argmax_validity(length) for length in range(8, 16)) / 8
    assert within_bounds(sum(map(sum, by_length.values())), len(drawn), float(expected))


@BOTH
@pytest.mark.parametrize("num_words", range(1, 6))
def test_sampling_validity_matches_enumeration(language, num_words):
    # one word of each class, or a single word where there are no classes: the others differ in their spelling alone
    representatives = ["w00"] if language is TWO else [word_of(number) for number in range(3)]
    total, count = Fraction(0), 0
    for words in itertools.product(representatives, repeat=num_words):
        for target in set(translations(language, " ".join(words))):
            pairs = zip(target.split(), words, strict=True)
            total += math.prod(
                Fraction(language.lexicon[word].count(chosen), len(language.dialects)) for chosen, word in pairs
            )
        count += 1
    assert sampling_validity(language, num_words) == total / count


@BOTH
@pytest.mark.parametrize("num_words", [2, 5])
def test_decoder_that_samples_each_position_is_right_as_often_as_the_formula(language, num_words):
    rng, trials = random.Random(17), 20_000
    words = list(language.lexicon)
    right = 0
    for _ in range(trials):
        source = rng.choices(words, k=num_words)
        sampled = " ".join(rng.choice(language.lexicon[word]) for word in source)
        right += classify(language, " ".join(source), sampled) == "valid"
    assert within_bounds(right, trials, float(sampling_validity(language, num_words)))


def test_two_dialects_that_are_sampled_independently():
    assert sampling_validity(TWO, 5) == Fraction(1, 16)
    assert sampling_validity(TWO, 15) == 2 * Fraction(1, 2) ** 15
