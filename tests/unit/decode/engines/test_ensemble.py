"""Tests of ensembles, compared with a reference search that averages the probabilities of the models."""

from __future__ import annotations

import math
from dataclasses import replace

import beam_oracle as oracle
import numpy as np
import pytest
import torch
from small_transformers import POSITIONS, POST_NORM, make_model, make_sources

from kdmt.config import Decode
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, Sampling

SOURCES = make_sources([5, 1, 9, 3, 12])
SETTINGS = Decode(beam=4, nbest=4, lenpen=0.6, max_len_a=0.0, max_len_b=POSITIONS)


@pytest.fixture(params=["self_attention", "ssru"])
def models(request: pytest.FixtureRequest) -> list[Transformer]:
    """Return three models; in one case the first one has SSRUs, the others have self-attention."""
    first = make_model(replace(POST_NORM, decoder=request.param, layout="marian"), seed=1)
    return [first, *(make_model(seed=seed) for seed in (2, 3))]


def mean_log_probs(models: list[Transformer], source: np.ndarray) -> oracle.NextLogProbs:
    @torch.no_grad()
    def of_prefix(prefix: tuple[int, ...]) -> list[float]:
        tokens = torch.from_numpy(source).long()[None], torch.tensor([[EOS, *prefix]])
        mean_V = torch.stack([model(*tokens)[0, -1].softmax(-1) for model in models]).mean(0)
        return mean_V.log().tolist()

    return of_prefix


def test_search_uses_the_mean_of_the_probabilities(models: list[Transformer]) -> None:
    found = TorchEngine(models[0], others=models[1:]).decode(SOURCES, SETTINGS)
    for source, nbest in zip(SOURCES, found, strict=True):
        expected = oracle.search(mean_log_probs(models, source), max_len=POSITIONS - 1, beam=4, lenpen=0.6)
        assert [h.tokens for h in nbest] == [h.tokens for h in expected[:4]]
        assert [h.score for h in nbest] == pytest.approx([h.score for h in expected[:4]], abs=1e-9)


def test_an_ensemble_of_equal_models_equals_one_model(models: list[Transformer]) -> None:
    alone = TorchEngine(models[0]).decode(SOURCES, SETTINGS)
    twice = TorchEngine(models[0], others=[models[0]]).decode(SOURCES, SETTINGS)
    assert [[h.tokens for h in nbest] for nbest in twice] == [[h.tokens for h in nbest] for nbest in alone]


def test_scores_of_samples_are_means_of_the_probabilities(models: list[Transformer]) -> None:
    engine = TorchEngine(models[0], others=models[1:])
    found = engine.sample(SOURCES, range(len(SOURCES)), SETTINGS, Sampling(), seed=1)
    for source, (sample,) in zip(SOURCES, found, strict=True):
        step = mean_log_probs(models, source)
        words = [*sample.tokens, EOS]
        log_probs = [step(tuple(words[:place]))[word] for place, word in enumerate(words)]
        assert sample.score == pytest.approx(math.fsum(log_probs) / len(words), abs=1e-9)


def test_scoring_pairs_with_an_ensemble_is_refused(models: list[Transformer]) -> None:
    with pytest.raises(ValueError, match="one model"):
        TorchEngine(models[0], others=models[1:]).score_pairs(SOURCES, SOURCES)
