"""Tests of shortlists on a toy language with a known dictionary."""

from __future__ import annotations

import numpy as np
import pytest

from kdmt.corpus import alignment
from kdmt.corpus.alignment import align
from kdmt.distill.shortlist import Shortlist, build_shortlist
from kdmt.types import EOS, PAD, UNK

FIRST, WORDS = 4, 20


def corpus(pairs: int, *, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return pairs: x becomes x + 100 or x + 200, in reverse order, and each target ends with the word 99."""
    rng = np.random.default_rng(seed)
    sources = [rng.integers(FIRST, FIRST + WORDS, rng.integers(3, 9)) for _ in range(pairs)]
    targets = [np.append((source + 100 * rng.integers(1, 3, len(source)))[::-1], 99) for source in sources]
    return [np.append(source, EOS).astype(np.int32) for source in sources], [np.append(t, EOS) for t in targets]


def test_each_word_gets_its_translations() -> None:
    shortlist = build_shortlist(*corpus(400), per_token=3, frequent=1, iterations=10)
    assert shortlist.of_token.keys() == set(range(FIRST, FIRST + WORDS))
    for x, found in shortlist.of_token.items():
        assert {x + 100, x + 200} <= set(found.tolist())
        assert len(found) == 3
    assert shortlist.frequent.tolist() == [EOS, UNK, 99]


def test_sizes_are_those_requested() -> None:
    sources, targets = corpus(50)
    shortlist = build_shortlist(sources, targets, per_token=5, frequent=7)
    assert len(shortlist.frequent) == 7 + 2
    assert all(len(found) == 5 and sorted(found) == found.tolist() for found in shortlist.of_token.values())
    everything = build_shortlist(sources, targets, per_token=1000, frequent=1000)
    words = set(np.concatenate(targets).tolist())
    assert set(everything.frequent.tolist()) == words | {UNK}
    paired = {x: {int(y) for s, t in zip(sources, targets, strict=True) if x in s for y in t} - {EOS} for x in (4, 9)}
    assert {x: set(everything.of_token[x].tolist()) for x in paired} == paired


def test_most_probable_translations_are_kept() -> None:
    sources, targets = corpus(60)
    pairs = align([np.append(0, s[:-1]) for s in sources], [t[:-1] for t in targets], iterations=5)
    found = build_shortlist(sources, targets, per_token=4, frequent=1)
    for x, kept in found.of_token.items():
        t = {int(y): float(p) for x_, y, p in zip(pairs.src_ids_P, pairs.tgt_ids_P, pairs.t_P, strict=True) if x_ == x}
        assert min(t[y] for y in kept.tolist()) >= max([t[y] for y in t if y not in kept], default=0.0)


def test_result_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    sources, targets = corpus(60)
    sources, targets = [*sources, np.array([EOS]), np.array([5, EOS])], [*targets, np.array([7, EOS]), np.array([EOS])]
    whole = build_shortlist(sources, targets, per_token=4, frequent=5)
    monkeypatch.setattr(alignment, "_CHUNK_LINKS", 30)
    parts = build_shortlist(sources, targets, per_token=4, frequent=5)
    assert parts.frequent.tolist() == whole.frequent.tolist()
    assert {x: ids.tolist() for x, ids in parts.of_token.items()} == {
        x: ids.tolist() for x, ids in whole.of_token.items()
    }


def test_translation_probabilities_sum_to_one() -> None:
    sources, targets = corpus(60)
    pairs = align([np.append(0, s[:-1]) for s in sources], [t[:-1] for t in targets])
    assert np.bincount(pairs.src_ids_P, weights=pairs.t_P)[[0, *range(FIRST, FIRST + WORDS)]] == pytest.approx(1.0)
    assert pairs.links_P.sum() == sum(len(t) - 1 for t in targets)


def test_max_pairs_are_sampled_from_the_whole_corpus() -> None:
    early, late = np.array([4, EOS]), np.array([5, EOS])
    shortlist = build_shortlist([early] * 50 + [late] * 50, [early + 6] * 50 + [late + 6] * 50, max_pairs=10)
    assert {x: ids.tolist() for x, ids in shortlist.of_token.items()} == {4: [8, 10], 5: [8, 11]}


def test_batch_allows_the_union_of_its_sources() -> None:
    shortlist = Shortlist(np.array([EOS, UNK]), {4: np.array([9]), 5: np.array([9, 11])})
    assert shortlist.allowed([]) == {EOS, UNK}
    assert shortlist.allowed([np.array([4, 7, EOS])]) == {EOS, UNK, 9}
    assert shortlist.allowed([[4], [5]]) == {EOS, UNK, 9, 11}


def test_padding_is_excluded() -> None:
    padded = np.array([4, EOS, PAD, PAD])
    shortlist = build_shortlist([padded] * 3, [np.array([10, EOS, PAD])] * 3)
    assert shortlist.allowed([padded]) == {EOS, UNK, 10}


def test_sentences_that_cannot_be_aligned_are_refused() -> None:
    with pytest.raises(ValueError, match="2 sources and 1 targets"):
        build_shortlist([np.array([4, EOS])] * 2, [np.array([4, EOS])])
    with pytest.raises(ValueError, match="no word pair"):
        build_shortlist([np.array([EOS])], [np.array([4, EOS])])
    with pytest.raises(ValueError, match="no word pair"):
        build_shortlist([], [])
