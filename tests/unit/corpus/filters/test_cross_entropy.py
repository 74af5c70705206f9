"""Tests of the cross-entropy difference: text of the domain has higher scores than other text."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kdmt.config import CrossEntropyDifference
from kdmt.corpus.filters.cross_entropy import CrossEntropyFilter, train_side
from kdmt.corpus.filters.scored_filter import KeptText
from kdmt.corpus.process_pool import mapping_in_order

INLINE = partial(mapping_in_order, workers=1)


def sentences(topic: str, count: int, seed: int) -> list[str]:
    """Return sentences with words that all topics share and words of one topic."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(30)] + [f"{topic}{i}" for i in range(10)]
    return [" ".join(rng.choices(words, k=8)) for _ in range(count)]


def make_text(folder: Path, name: str, lines: list[str]) -> KeptText:
    for side in ("source", "target"):
        (folder / f"{name}.{side}").write_text("".join(f"{line}\n" for line in lines))
    return KeptText(folder / f"{name}.source", folder / f"{name}.target", np.ones(len(lines), dtype=bool))


@pytest.mark.parametrize("sides", ["both", "source", "target"])
def test_text_of_the_domain_has_higher_scores(sides: str, tmp_path: Path) -> None:
    mixed = make_text(tmp_path, "a", sentences("law", 300, 1) + sentences("sport", 300, 2))
    valid = [(line, line) for line in sentences("law", 200, 3)]
    settings = CrossEntropyDifference.model_validate({"min": 0.0, "sides": sides})
    scored = CrossEntropyFilter(settings, valid=valid, spaced=(True, True), open_map=INLINE)
    scored.fit([mixed])
    scores = scored.score(mixed)
    law, sport = scores[:300], scores[300:]
    assert (law[:, None] > sport[None, :]).mean() > 0.95
    assert np.median(law) > 0 > np.median(sport)


def test_a_training_corpus_may_be_the_domain(tmp_path: Path) -> None:
    texts = [make_text(tmp_path, "a", sentences("sport", 400, 2)), make_text(tmp_path, "b", sentences("law", 200, 1))]
    scored = CrossEntropyFilter(
        CrossEntropyDifference(min=0.0, in_domain_corpus=1), valid=(), spaced=(True, True), open_map=INLINE
    )
    scored.fit(texts)
    assert np.median(scored.score(texts[1])) > 0 > np.median(scored.score(texts[0]))


def test_the_score_is_the_difference_of_cross_entropies() -> None:
    models = train_side(["a b a", "b a"], (["a c c", "b b b"], ["a a"]), spaced=True)
    ids = models.vocabulary.encode("a b")
    in_domain, first, second = (
        -model.log_probabilities(ids).sum() / 3 for model in (models.in_domain, *models.general)
    )
    assert models.score("a b", 1) == pytest.approx(first - in_domain)
    assert models.score("a b", 0) == pytest.approx(second - in_domain)


def test_no_pair_is_scored_by_a_model_that_has_seen_it(tmp_path: Path) -> None:
    lines = sentences("law", 100, 1)
    text = make_text(tmp_path, "a", lines)
    valid = [(line, line) for line in sentences("law", 100, 3)]
    scored = CrossEntropyFilter(CrossEntropyDifference(min=0.0), valid=valid, spaced=(True, True), open_map=INLINE)
    scored.fit([text])  # which samples all lines
    unseen = make_text(tmp_path, "b", sentences("law", 100, 4))
    assert abs(np.median(scored.score(text)) - np.median(scored.score(unseen))) < 0.3
