"""Tests of the score by IBM model 1: its formula, and that it tells pairs from shuffled pairs."""

from __future__ import annotations

import gzip
import math
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kdmt.config import AlignmentScore
from kdmt.corpus.alignment import EMPTY_WORD_PROBABILITY
from kdmt.corpus.filters.alignment_score import FLOOR, AlignmentFilter, Lexicon, train_alignment
from kdmt.corpus.filters.scored_filter import KeptText
from kdmt.corpus.process_pool import mapping_in_order

INLINE = partial(mapping_in_order, workers=1)

MULTI30K = Path(__file__).parents[4] / "../shared/data/multi30k/raw"


def area_under_curve(good: np.ndarray, bad: np.ndarray) -> float:
    """Return the probability that a good pair has a higher score than a bad one."""
    return float((good[:, None] > bad[None, :]).mean() + (good[:, None] == bad[None, :]).mean() / 2)


def shuffle_some(pairs: list[tuple[str, str]], share: float) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Return pairs of which some have the target of another, and the mask of these."""
    bad = sorted(random.Random(1).sample(range(len(pairs)), int(share * len(pairs))))
    mixed = list(pairs)
    for index, other in zip(bad, bad[1:] + bad[:1], strict=True):
        mixed[index] = (pairs[index][0], pairs[other][1])
    return mixed, np.isin(np.arange(len(pairs)), bad)


def test_the_score_is_the_formula_of_model_1() -> None:
    # t(1 | empty) = .1, t(1 | 1) = .5, t(2 | 1) = .25, t(1 | 2) = .75; the empty word shifts the ids of sources by one
    table = {(0, 1): 0.1, (2, 1): 0.5, (2, 2): 0.25, (3, 1): 0.75}
    codes = np.array([source * 3 + target for source, target in table])
    lexicon = Lexicon(codes, np.array(list(table.values())), 3)
    p0 = EMPTY_WORD_PROBABILITY
    first = math.log(p0 * 0.1 + (1 - p0) * (0.5 + 0.75) / 2)
    second = math.log((1 - p0) * 0.25 / 2)
    found = lexicon.mean_log_probability(np.array([1, 2]), np.array([1, 2, 0]))  # the unknown word 0 is not counted
    assert found == pytest.approx((first + second) / 2)
    assert lexicon.mean_log_probability(np.array([2]), np.array([2])) == pytest.approx(math.log(FLOOR))
    assert math.isnan(lexicon.mean_log_probability(np.array([1]), np.array([0])))
    assert math.isnan(lexicon.mean_log_probability(np.array([], dtype=int), np.array([1])))


def invented_pairs(count: int) -> list[tuple[str, str]]:
    """Return sentences of invented words and their translations word by word, in another order."""
    rng = random.Random(2)
    pairs = []
    for _ in range(count):
        words = [rng.randrange(60) for _ in range(rng.randrange(4, 9))]
        pairs.append((" ".join(f"s{w}" for w in words), " ".join(f"t{w}" for w in rng.sample(words, len(words)))))
    return pairs


def test_shuffled_pairs_have_lower_scores(tmp_path: Path) -> None:
    pairs, is_bad = shuffle_some(invented_pairs(1500), 0.1)
    for side, path in enumerate((tmp_path / "source", tmp_path / "target")):
        path.write_text("".join(f"{pair[side]}\n" for pair in pairs))
    text = KeptText(tmp_path / "source", tmp_path / "target", np.ones(len(pairs), dtype=bool))
    scored = AlignmentFilter(AlignmentScore(drop_percent=5.0), spaced=(True, True), open_map=INLINE)
    scored.fit([text])
    scores = scored.score(text)
    assert area_under_curve(scores[~is_bad], scores[is_bad]) > 0.99


def test_text_without_repeated_words_has_no_scores(tmp_path: Path) -> None:
    assert train_alignment([("one two", "eins zwei")], (True, True)) is None
    assert train_alignment([], (True, True)) is None
    (tmp_path / "source").write_text("one two\n")
    (tmp_path / "target").write_text("eins zwei\n")
    text = KeptText(tmp_path / "source", tmp_path / "target", np.ones(1, dtype=bool))
    scored = AlignmentFilter(AlignmentScore(min=0.0), spaced=(True, True), open_map=INLINE)
    scored.fit([text])
    assert np.isnan(scored.score(text)).tolist() == [True]


@pytest.mark.slow
@pytest.mark.skipif(not MULTI30K.is_dir(), reason="../shared/data/multi30k is not here")
@pytest.mark.parametrize("target", ["de", "cs"])
def test_shuffled_captions_have_lower_scores(target: str) -> None:
    sides = []
    for lang in ("en", target):
        with gzip.open(MULTI30K / f"train.{lang}.gz", "rt", encoding="utf-8") as file:
            sides.append(file.read().splitlines()[:10_000])
    pairs, is_bad = shuffle_some(list(zip(*sides, strict=True)), 0.1)
    model = train_alignment(pairs, (True, True))
    assert model is not None
    scores = model.score_batch(pairs)
    scores = np.where(np.isnan(scores), np.inf, scores)
    assert area_under_curve(scores[~is_bad], scores[is_bad]) > 0.98
    assert is_bad[np.argsort(scores)[: is_bad.sum()]].mean() > 0.8  # precision among the lowest tenth
