"""Near-duplicates, compared with the Jaccard index of sets of n-grams in plain Python."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.corpus.decontaminate import comparison_key
from kdmt.corpus.near_duplicates import (
    NUM_BINS,
    Keys,
    NearDuplicateFinder,
    choose_bands,
    compute_signatures,
    compute_similarity,
    estimate_similarity,
    hash_pairs,
)

Pairs = list[tuple[str, str]]


def keys_of(pairs: Pairs) -> Keys:
    return [comparison_key(source) for source, _ in pairs], [comparison_key(target) for _, target in pairs]


def ngrams(pair: tuple[str, str]) -> set[tuple[int, str]]:
    found = set()
    for side, line in enumerate(pair):
        text = "\n\n\n\n" + comparison_key(line).decode()
        found |= {(side, text[start : start + 5]) for start in range(len(text) - 4)}
    return found


def jaccard(one: tuple[str, str], other: tuple[str, str]) -> float:
    either = ngrams(one) | ngrams(other)
    return len(ngrams(one) & ngrams(other)) / len(either) if either else 0.0


WORDS = [
    first + second for first in ("ba", "ko", "mil", "tra", "ös", "ун") for second in ("n", "ter", "ski", "da", "ló")
]


def make_pairs(draw: random.Random, count: int) -> Pairs:
    """Return pairs of 1 to 20 words; three in ten are copies of earlier ones with up to four words changed."""
    pairs: Pairs = []
    for _ in range(count):
        if pairs and draw.random() < 0.3:
            sides = [line.split() for line in draw.choice(pairs)]
            for _ in range(draw.randint(0, 4)):
                side = draw.choice(sides)
                side[draw.randrange(len(side))] = draw.choice([*WORDS, WORDS[0].upper() + "!"])
            pairs.append((" ".join(sides[0]), " ".join(sides[1])))
        else:
            length = draw.randint(1, 20)
            source, target = (" ".join(draw.choice(WORDS) for _ in range(length)) for _ in range(2))
            pairs.append((source, target))
    return pairs


def find(workdir: Path, pairs: Pairs, threshold: float, *, chunk: int = 100, **options: object) -> list[bool]:
    """Return whether each pair is a near-duplicate of an earlier one."""
    excluded = options.pop("excluded", np.zeros(len(pairs), dtype=bool))
    second = options.pop("second", [False] * len(pairs))
    finder = NearDuplicateFinder(workdir, threshold)
    for start in range(0, len(pairs), chunk):
        finder.add(hash_pairs(keys_of(pairs[start : start + chunk]), threshold), second=second[start])  # type: ignore[index]
    return finder.find(lambda indices: keys_of([pairs[n] for n in indices]), excluded_N=excluded).tolist()  # type: ignore[arg-type]


text = st.text(st.sampled_from("abcdeé文. "), max_size=12)


@given(st.lists(st.tuples(st.tuples(text, text), st.tuples(text, text)), min_size=1, max_size=8))
def test_similarity_is_the_jaccard_index_of_the_ngrams_of_both_sides(
    examples: list[tuple[tuple[str, str], ...]],
) -> None:
    found = compute_similarity(*(keys_of([example[n] for example in examples]) for n in (0, 1)))
    assert found == pytest.approx([jaccard(*example) for example in examples])


def test_similarity_ignores_case_punctuation_and_spaces_but_not_the_side() -> None:
    pairs = [("A small dog!", "Ein Hund"), ("a SMALL, dog", "„Ein Hund“"), ("Ein Hund", "A small dog!")]
    one, other = keys_of([pairs[0], pairs[0]]), keys_of(pairs[1:])
    assert compute_similarity(one, other).tolist() == [1.0, 0.0]


def test_the_estimate_agrees_with_the_similarity() -> None:
    """With 64 bins, the standard deviation of 2p - 1 is at most 1/8: check the mean, and each one within four."""
    draw = random.Random(3)
    originals = [pair for pair in make_pairs(draw, 400) if len(pair[0]) > 60][:150]
    changed = [(" ".join(source.split()[draw.randint(1, 3) :]), target) for source, target in originals]
    sketches = [hash_pairs(keys_of(pairs), 0.8).sketches_N for pairs in (originals, changed)]
    errors = estimate_similarity(*sketches) - [jaccard(*each) for each in zip(originals, changed, strict=True)]
    assert abs(errors.mean()) < 0.03
    assert np.abs(errors).max() < 0.5
    assert 0.04 < errors.std() < 0.13


def test_bins_of_signatures_are_equal_with_the_probability_of_the_similarity() -> None:
    draw = random.Random(4)
    originals = [pair for pair in make_pairs(draw, 600) if len(pair[0]) > 40]
    changed = [(source, " ".join(target.split()[draw.randint(1, 5) :])) for source, target in originals]
    one, other = (compute_signatures(keys_of(pairs))[0] for pairs in (originals, changed))
    expected = np.mean([jaccard(*each) for each in zip(originals, changed, strict=True)])
    assert (one == other).mean() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("threshold", "bands", "rows"), [(0.5, 32, 2), (0.7, 16, 4), (0.8, 10, 6), (0.9, 7, 9)])
def test_bands_find_pairs_at_the_threshold_with_probability_095(threshold: float, bands: int, rows: int) -> None:
    assert choose_bands(threshold) == (bands, rows)
    assert 1 - (1 - threshold**rows) ** bands >= 0.95
    more = rows + 1
    assert 1 - (1 - threshold**more) ** (NUM_BINS // more) < 0.95


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
def test_near_duplicates_equal_those_of_all_comparisons(tmp_path: Path, threshold: float) -> None:
    pairs = make_pairs(random.Random(5), 400)
    sets = [ngrams(pair) for pair in pairs]
    expected = [
        any(len(own & other) / len(own | other) >= threshold for other in sets[:number])
        for number, own in enumerate(sets)
    ]
    found = find(tmp_path, pairs, threshold)
    assert sum(expected) > 25
    assert not any(is_found and not is_true for is_found, is_true in zip(found, expected, strict=True))
    assert sum(found) >= 0.95 * sum(expected)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10))
def test_the_result_does_not_depend_on_the_chunks(
    tmp_path_factory: pytest.TempPathFactory, chunk: int, seed: int
) -> None:
    pairs = make_pairs(random.Random(seed), 60)
    workdir = tmp_path_factory.mktemp("work")
    assert find(workdir, pairs, 0.7, chunk=chunk) == find(workdir, pairs, 0.7, chunk=60)


def test_the_first_of_a_cluster_is_kept_untagged_before_tagged(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve"
    pairs = [(long, f"{long} a"), (f"{long}!", f"{long} b"), (long.title(), f"{long} c"), ("else", "other")]
    assert find(tmp_path, pairs, 0.8) == [False, True, True, False]
    second = [True, False, True, False]
    assert find(tmp_path, pairs, 0.8, chunk=1, second=second) == [True, False, True, False]


def test_excluded_pairs_have_no_near_duplicates(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve"
    pairs = [(long, long), (long, f"{long}."), (long, f"{long}!")]
    excluded = np.array([True, False, False])
    assert find(tmp_path, pairs, 0.8, excluded=excluded) == [False, False, True]


def test_pairs_of_punctuation_alone_have_no_near_duplicates(tmp_path: Path) -> None:
    assert find(tmp_path, [("...", "!"), ("?", "–"), ("", ""), ("", "")], 0.8) == [False] * 4
    assert find(tmp_path, [], 0.8) == []
