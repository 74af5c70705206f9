"""Overlaps with held-out sentences, compared with sets of n-grams in plain Python."""

import math
import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.corpus.ngram_overlap import NgramOverlaps, hash_units, index_side


def words_of(line: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", line).casefold())
    kept = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in folded)
    return kept.split()


def ngrams(units: list[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(units[start : start + size]) for start in range(len(units) - size + 1)}


def overlaps_by_sets(
    lines: list[str], held_out: list[str], *, ngram: int, overlap: float, scale: int = 0
) -> set[tuple[int, int]]:
    """Return the index of each line and the number from 1 of each held-out sentence that overlap."""
    found = set()
    for number, sentence in enumerate(held_out, start=1):
        units = list("".join(words_of(sentence))) if scale else words_of(sentence)
        factor = scale or 1
        if len(units) < 5 * factor:
            continue
        size = ngram * factor if len(units) >= ngram * factor else 3 * factor
        own = ngrams(units, size)
        for index, line in enumerate(lines):
            others = list("".join(words_of(line))) if scale else words_of(line)
            common = len(own & ngrams(others, size))
            if common and (size > 3 * factor or common >= math.ceil(overlap * len(own) - 1e-9)):
                found.add((index, number))
    return found


def find(lines: list[str], held_out: list[str], **options: int | float) -> set[tuple[int, int]]:
    side = index_side([("test.source", held_out)], **options)  # type: ignore[arg-type]
    overlaps = side.find(lines)
    assert [each.index for each in overlaps] == sorted(each.index for each in overlaps)
    assert all(each.side == "test.source" for each in overlaps)
    found = {(each.index, each.line) for each in overlaps}
    assert len(found) == len(overlaps)
    return found


def make_lines(draw: random.Random, words: list[str], count: int, *, joiner: str = " ") -> list[str]:
    return [joiner.join(draw.choice(words) for _ in range(draw.randint(1, 20))) for _ in range(count)]


@pytest.mark.parametrize("ngram", [5, 8, 13])
@pytest.mark.parametrize("overlap", [0.5, 0.8, 1.0])
def test_overlaps_of_words_equal_those_of_all_comparisons(ngram: int, overlap: float) -> None:
    draw = random.Random(1)
    words = ["ein", "Hund", "läuft,", "Der", "STRASSE", "straße", "e\u0301t\u00e9", "x"]
    held_out = make_lines(draw, words, 60)
    copies = []
    for sentence in draw.choices(held_out, k=60):
        changed = sentence.split()
        changed[draw.randrange(len(changed))] = draw.choice(words)
        copies.append(" ".join([*draw.choices(words, k=draw.randint(0, 3)), *changed, "!"]).upper())
    lines = [*make_lines(draw, words, 60), *copies]
    expected = overlaps_by_sets(lines, held_out, ngram=ngram, overlap=overlap)
    assert find(lines, held_out, ngram=ngram, overlap=overlap) == expected
    assert len(expected) > 10


@pytest.mark.parametrize("scale", [2, 5])
def test_overlaps_of_characters_equal_those_of_all_comparisons(scale: int) -> None:
    draw = random.Random(2)
    held_out = make_lines(draw, ["一二", "三四五", "六。", "七八九十", "กขค", " "], 60, joiner="")
    lines = [f"前{line[: draw.randint(3, 60)]}後" for line in draw.choices(held_out, k=80)]
    options = {"ngram": 6, "overlap": 0.8}
    expected = overlaps_by_sets(lines, held_out, scale=scale, **options)  # type: ignore[arg-type]
    assert find(lines, held_out, characters_per_word=scale, **options) == expected
    assert len(expected) > 10


def test_a_long_sentence_overlaps_by_one_common_ngram() -> None:
    sentence = "w0 w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13"
    lines = [f"a {sentence[:-4].upper()}, b", "x w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 x", sentence.replace("w6", "w")]
    assert find(lines, [sentence], ngram=13, overlap=0.8) == {(0, 1)}


def test_a_short_sentence_overlaps_by_a_share_of_its_trigrams() -> None:
    """Use a sentence of 7 words, which has 5 trigrams: 4 of them are a share of 0.8."""
    sentence = "one two three four five six seven"
    lines = ["zero one two three four five six", "one two three four five", "one two three x four five six seven"]
    assert find(lines, [sentence], ngram=13, overlap=0.8) == {(0, 1)}
    assert find(lines, [sentence], ngram=13, overlap=0.6) == {(0, 1), (1, 1), (2, 1)}


def test_sentences_of_four_words_are_not_compared() -> None:
    assert find(["he said thank you very much today"], ["thank you very much"], ngram=13, overlap=0.8) == set()
    assert find(["", "..."], ["", "!", "a b c d e"], ngram=13, overlap=0.8) == set()
    assert find([], ["a b c d e"], ngram=13, overlap=0.8) == set()


def test_both_sides_and_all_sets_are_compared_each_with_its_own() -> None:
    english, german = "a b c d e f g", "h i j k l m n"
    source = index_side([("valid.source", [english]), ("test.source", ["x", english])], ngram=13, overlap=0.8)
    target = index_side([("valid.target", [german]), ("test.target", ["x", "y"])], ngram=13, overlap=0.8)
    found = NgramOverlaps(source, target).find(([english, german, "z"], ["z", english, f"{german} z"]))
    assert {(each.index, each.side, each.line) for each in found} == {
        (0, "valid.source", 1),
        (0, "test.source", 2),
        (2, "valid.target", 1),
    }


@settings(max_examples=60)
@given(st.lists(st.text(st.sampled_from("abAéÉe\u0301ß 文1.-_\u0e01\u0e34ﬁ"), max_size=8), min_size=1, max_size=5))
def test_units_are_the_words_of_lines_without_case_and_punctuation(lines: list[str]) -> None:
    units, of_line = hash_units("\n".join(lines), by_character=False)
    expected = [(number, word) for number, line in enumerate(lines) for word in words_of(line)]
    assert of_line.tolist() == [number for number, _ in expected]
    hash_of = dict(zip((word for _, word in expected), units.tolist(), strict=True))
    assert [hash_of[word] for _, word in expected] == units.tolist()
    assert len(set(hash_of.values())) == len(hash_of)  # different words have different hashes
    characters, _ = hash_units("\n".join(lines), by_character=True)
    assert len(characters) == sum(len(word) for _, word in expected)
