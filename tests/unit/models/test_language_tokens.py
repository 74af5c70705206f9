"""Tests of decoders that begin with the first token of the source (`target_from_source`).

The reference is a model with a constant `target_token`, which tests/unit/interop/fairseq/test_parity.py compares with
fairseq.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_transformers import CONFIGS, POST_NORM, make_model, make_sources
from torch import Tensor

from kdmt.config import Decode
from kdmt.corpus.batching import pad_sentences
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.errors import UserError
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import describe_model
from kdmt.models.description import check_description
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, Packing, Sampling

TOKENS = [7, 9, 7, 12]  # first token of each source
SOURCES = make_sources([3, 6, 1, 5])
TARGETS = make_sources([4, 2, 6, 3], seed=1)
NAMES = ("post-norm", "learned positions", "pre-norm", "Marian's layout")


def models(config: TransformerConfig) -> tuple[Transformer, dict[int, Transformer]]:
    """Return a model that takes its token from the source, and the same weights with each of the constant tokens."""
    ours = make_model(replace(config, target_from_source=True))
    positions, constant = config.max_source_positions - 1, {}  # the token is one of the source's, and is not encoded
    for token in set(TOKENS):
        constant[token] = make_model(replace(config, target_token=token, max_source_positions=positions))
        constant[token].load_state_dict(ours.state_dict())
    return ours, constant


def with_tokens(sources: list[np.ndarray]) -> list[np.ndarray]:
    return [np.insert(source, 0, token) for token, source in zip(TOKENS, sources, strict=True)]


def prev_tokens(targets: list[np.ndarray]) -> Tensor:
    tokens_BT = pad_sentences(targets).roll(1, dims=1)
    tokens_BT[:, 0] = EOS
    return tokens_BT


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_batch_of_several_tokens_equals_models_with_a_constant_token(name: str) -> None:
    ours, constant = models(CONFIGS[name])
    logits_BTV = ours(pad_sentences(with_tokens(SOURCES)), prev_tokens(TARGETS))
    for row, (token, source, target) in enumerate(zip(TOKENS, SOURCES, TARGETS, strict=True)):
        expected = constant[token](pad_sentences([source]), prev_tokens([target]))[0]
        torch.testing.assert_close(logits_BTV[row, : len(target)], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_the_search_finds_what_it_finds_with_a_constant_token(name: str, beam: int) -> None:
    ours, constant = models(CONFIGS[name])
    settings = Decode(beam=beam, nbest=beam, max_len_a=0.0, max_len_b=8)
    found = TorchEngine(ours).decode(with_tokens(SOURCES), settings)
    for token, source, nbest in zip(TOKENS, SOURCES, found, strict=True):
        (expected,) = TorchEngine(constant[token]).decode([source], settings)
        assert [each.tokens for each in nbest] == [each.tokens for each in expected]
        assert [each.score for each in nbest] == pytest.approx([each.score for each in expected], abs=1e-9)


def test_the_score_of_a_hypothesis_is_that_of_forced_decoding() -> None:
    ours, _ = models(POST_NORM)
    engine, sources = TorchEngine(ours), with_tokens(SOURCES)
    found = engine.decode(sources, Decode(beam=2, max_len_a=0.0, max_len_b=8, lenpen=0.0))
    best = [np.array([*nbest[0].tokens, EOS]) for nbest in found]
    totals = [float(own.sum()) for own in engine.score_pairs(sources, best)]
    assert totals == pytest.approx([nbest[0].score for nbest in found], abs=1e-9)


@pytest.mark.parametrize("samples", [1, 3])
def test_samples_are_those_of_a_constant_token(samples: int) -> None:
    ours, constant = models(POST_NORM)
    settings, sampling = Decode(max_len_a=0.0, max_len_b=6), Sampling()
    drawn = TorchEngine(ours).sample(with_tokens(SOURCES), range(4), settings, sampling, seed=3, samples=samples)
    for number, (token, source) in enumerate(zip(TOKENS, SOURCES, strict=True)):
        engine = TorchEngine(constant[token])
        (expected,) = engine.sample([source], [number], settings, sampling, seed=3, samples=samples)
        assert [each.tokens for each in drawn[number]] == [each.tokens for each in expected]


@torch.no_grad()
def test_a_source_without_words_has_finite_probabilities() -> None:
    ours, _ = models(POST_NORM)
    nothing = np.array([EOS])
    for sources in ([nothing], [nothing, with_tokens(SOURCES)[1]]):
        log_probs = ours(pad_sentences(sources), prev_tokens(TARGETS[: len(sources)])).log_softmax(-1)
        assert log_probs.isfinite().all()


def test_descriptions_of_other_models_do_not_name_the_setting() -> None:
    assert "target_from_source" not in POST_NORM.as_dict()
    described = describe_model(make_model(replace(POST_NORM, target_from_source=True)))
    assert described["config"]["target_from_source"] is True
    check_description(described)
    nat = described | {"family": "nonautoregressive", "nat": NATConfig(family="ctc").as_dict()}
    with pytest.raises(UserError, match="target_from_source: a non-autoregressive model has no first decoder input"):
        check_description(nat)


def test_what_models_with_a_token_from_the_source_refuse() -> None:
    with pytest.raises(UserError, match="not both"):
        replace(POST_NORM, target_from_source=True, target_token=5)
    model = make_model(replace(POST_NORM, target_from_source=True, unidirectional_encoder=True))
    with pytest.raises(UserError, match="wait-k: the decoder begins with a language token"):
        model.check_unidirectional()
    packing = Packing(*[torch.zeros(1)] * len(Packing.__dataclass_fields__))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"train\.packing: a model with language tokens"):
        model.encode(pad_sentences(SOURCES), packing=packing)
