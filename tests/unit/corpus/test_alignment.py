"""Tests of word alignment: compared with a plain expectation maximisation, and on simple corpora."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict

import numpy as np
import pytest

from kdmt.corpus import alignment
from kdmt.corpus.alignment import (
    DIAGONAL_TENSION,
    EMPTY_WORD_PROBABILITY,
    TranslationTable,
    WordPairs,
    align,
    spread,
)

Corpus = list[list[int]]


def as_arrays(sentences: Corpus) -> list[np.ndarray]:
    return [np.array(sentence, dtype=np.int64) for sentence in sentences]


def train(sources: Corpus, targets: Corpus, *, iterations: int = 4) -> WordPairs:
    """Align sentences whose ids start at 1; 0 is the empty word."""
    return align(as_arrays([[0, *source] for source in sources]), as_arrays(targets), iterations=iterations)


def expected_table(sources: Corpus, targets: Corpus, iterations: int) -> tuple[dict, dict]:
    """Return t(y|x) and counts of best links of Model 1 with the diagonal prior, computed one link at a time."""

    def prior(i: int, m: int, j: int, n: int) -> float:  # i starts at 1; 0 is the empty word
        if i == 0:
            return EMPTY_WORD_PROBABILITY
        weights = [math.exp(-DIAGONAL_TENSION * abs(k / m - j / n)) for k in range(1, m + 1)]
        return (1 - EMPTY_WORD_PROBABILITY) * weights[i - 1] / sum(weights)

    table: dict[tuple[int, int], float] = defaultdict(lambda: 1.0)
    pairs = [([0, *source], target) for source, target in zip(sources, targets, strict=True)]

    def joint(source: list[int], target: list[int], j: int) -> list[float]:
        return [table[x, target[j]] * prior(i, len(source) - 1, j + 1, len(target)) for i, x in enumerate(source)]

    for _ in range(iterations):
        counts: dict[tuple[int, int], float] = defaultdict(float)
        totals: dict[int, float] = defaultdict(float)
        for source, target in pairs:
            for j, y in enumerate(target):
                scores = joint(source, target, j)
                for x, score in zip(source, scores, strict=True):
                    counts[x, y] += score / sum(scores)
                    totals[x] += score / sum(scores)
        table.update({(x, y): count / totals[x] for (x, y), count in counts.items()})
    links: dict[tuple[int, int], int] = defaultdict(int)
    for source, target in pairs:
        for j, y in enumerate(target):
            scores = joint(source, target, j)
            links[source[max(range(len(source)), key=lambda i: scores[i])], y] += 1
    return dict(table), dict(links)


def noisy_corpus() -> tuple[Corpus, Corpus]:
    """Return sentences whose translations lose, move and gain words, so that the alignment is not obvious."""
    rng = random.Random(4)
    sources = [[rng.randint(1, 12) for _ in range(rng.randint(1, 7))] for _ in range(40)] + [[1, 2], [3]]
    targets = []
    for source in sources:
        kept = [word + 20 for word in source if rng.random() < 0.8]
        targets.append([*rng.sample(kept, len(kept)), 50])
    targets[-1] = []
    return sources, targets


@pytest.mark.parametrize("iterations", [1, 4])
def test_probabilities_and_links_equal_a_plain_expectation_maximisation(iterations: int) -> None:
    sources, targets = noisy_corpus()
    found = train(sources, targets, iterations=iterations)
    table, links = expected_table(sources, targets, iterations)
    pairs = list(zip(found.src_ids_P.tolist(), found.tgt_ids_P.tolist(), strict=True))
    assert pairs == sorted(pairs)
    assert set(pairs) == {
        (x, y) for source, target in zip(sources, targets, strict=True) for x in [0, *source] for y in target
    }
    assert found.t_P.tolist() == pytest.approx([table[pair] for pair in pairs])
    assert {pair: count for pair, count in zip(pairs, found.links_P.tolist(), strict=True) if count} == links


def test_words_are_aligned_in_reversed_word_order() -> None:
    rng = random.Random(1)
    sources = [[rng.randint(1, 15) for _ in range(rng.randint(2, 7))] for _ in range(300)]
    found = train(sources, [[word + 20 for word in reversed(source)] for source in sources], iterations=10)
    for x in range(1, 16):
        own = np.flatnonzero(found.src_ids_P == x)
        assert found.tgt_ids_P[own[found.links_P[own].argmax()]] == x + 20


def test_translations_of_a_word_sum_to_one_and_stay_finite() -> None:
    found = train(*noisy_corpus(), iterations=200)
    sums = np.bincount(found.src_ids_P, weights=found.t_P)
    assert sums[np.unique(found.src_ids_P)] == pytest.approx(1.0)
    assert np.isfinite(found.t_P).all()


def test_probabilities_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(*noisy_corpus())
    monkeypatch.setattr(alignment, "_CHUNK_LINKS", 30)
    parts = train(*noisy_corpus())
    assert parts.t_P == pytest.approx(whole.t_P, rel=1e-12)
    assert parts.links_P.tolist() == whole.links_P.tolist()


@pytest.mark.parametrize(("sources", "targets"), [([], []), ([[]], [[1]]), ([[1]], [[]])])
def test_a_corpus_without_word_pairs_is_refused(sources: Corpus, targets: Corpus) -> None:
    with pytest.raises(ValueError, match="there is no word pair to align"):
        train(sources, targets)


def test_without_a_floor_unknown_words_are_linked_to_the_empty_word() -> None:
    pairs = WordPairs(np.array([0, 1, 2]), np.array([5, 5, 3]), np.array([0.1, 0.9, 1.0]), np.array([0, 0, 0]))
    table = TranslationTable(pairs, 7, floor=0.0)
    sources, targets = as_arrays([[0, 1, 3], [0], [0, 1]]), as_arrays([[5, 6, 3], [5], []])
    assert [links.tolist() for links in table.link(sources, targets)] == [[0, -1, -1], [-1], []]
    assert TranslationTable(pairs, 7).link(sources[:1], targets[:1])[0].tolist()[0] == 0


def test_sides_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        train([[1], [2]], [[3]])


@pytest.mark.parametrize(("size", "count"), [(0, 5), (3, 5), (5, 5), (100, 7), (7, 1)])
def test_positions_are_spread_over_the_corpus(size: int, count: int) -> None:
    found = spread(size, count)
    assert len(found) == min(size, count)
    assert found == sorted(set(found))
    assert all(0 <= position < size for position in found)
    gaps = {after - before for before, after in itertools.pairwise([*found, size])} if found else {1}
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("links_in_a_chunk", [30, 2_000_000])
def test_sentences_of_the_training_are_linked_as_in_it(monkeypatch: pytest.MonkeyPatch, links_in_a_chunk: int) -> None:
    rng = random.Random(3)
    sources, targets = ([[rng.randint(1, 9) for _ in range(rng.randint(1, 6))] for _ in range(40)] for _ in range(2))
    found = train(sources, targets)
    monkeypatch.setattr(alignment, "_CHUNK_LINKS", links_in_a_chunk)
    linked = TranslationTable(found, 10).link(as_arrays([[0, *source] for source in sources]), as_arrays(targets))
    counts: dict[tuple[int, int], int] = defaultdict(int)
    for source, target, places in zip(sources, targets, linked, strict=True):
        for word, place in zip(target, places.tolist(), strict=True):
            counts[0 if place < 0 else source[place], word] += 1
    assert dict(counts) == expected_table(sources, targets, 4)[1]


def test_words_without_an_entry_are_linked_by_their_places() -> None:
    table = TranslationTable(train([[1, 2]], [[1, 2]]), 9)
    (links,) = table.link(as_arrays([[0, 7, 8]]), as_arrays([[5, 6]]))
    assert links.tolist() == [0, 1]
