"""Tests of functions shared by decoding engines: batching and checking of sources, and the protocols of engines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_transformers import make_model

from kdmt.decode.engines.engine import (
    EngineOptions,
    RefiningEngine,
    ScoringEngine,
    check_sentences,
    compute_in_batches,
    length_batches,
    score_in_batches,
)
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.errors import UserError
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.types import EOS


@given(
    lengths=st.lists(st.integers(1, 40), max_size=60),
    max_tokens=st.integers(1, 100),
    batch_size=st.integers(1, 9),
)
def test_length_batches_are_sorted_and_as_large_as_the_limits_allow(
    lengths: list[int], max_tokens: int, batch_size: int
) -> None:
    batches = list(length_batches(lengths, max_tokens=max_tokens, batch_size=batch_size))
    assert sorted(chain(*batches)) == list(range(len(lengths)))
    in_order = [lengths[index] for index in chain(*batches)]
    assert in_order == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= max_tokens
    for batch in batches[:-1]:  # no batch could have had one more sentence
        assert len(batch) == batch_size or (len(batch) + 1) * lengths[batch[0]] > max_tokens


def test_results_of_batches_are_in_the_order_of_the_sentences() -> None:
    lengths, batches, progress = [2, 7, 3, 7, 1], [], []

    def compute(batch: list[int]) -> Iterator[str]:
        batches.append(batch)
        return (f"{index} of length {lengths[index]}" for index in batch)

    found = compute_in_batches(lengths, compute, max_tokens=100, batch_size=2, progress=progress.append)
    assert found == ["0 of length 2", "1 of length 7", "2 of length 3", "3 of length 7", "4 of length 1"]
    assert (batches, progress) == ([[1, 3], [2, 0], [4]], [2, 2, 1])
    assert compute_in_batches([], compute, max_tokens=100, batch_size=2) == []


def test_a_batch_without_a_result_for_each_sentence_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compute_in_batches([1, 1], lambda batch: batch[:1], max_tokens=9, batch_size=2)


def test_scores_of_padding_are_dropped() -> None:
    sources = [np.array([5, EOS]), np.array([5, 6, 7, EOS])]
    targets = [np.array([8, 9, EOS]), np.array([EOS])]

    def score(sources: list[np.ndarray], targets: list[np.ndarray]) -> np.ndarray:
        longest = max(map(len, targets))
        rows = [[*target, *[np.nan] * (longest - len(target))] for target in targets]
        return np.array(rows, dtype=np.float32) - sum(map(len, sources))

    found = score_in_batches(sources, targets, score, max_tokens=100, batch_size=2)
    assert [own.tolist() for own in found] == [[2, 3, EOS - 6], [EOS - 6]]
    assert [own.tolist() for own in score_in_batches(sources, targets, score, max_tokens=4, batch_size=2)] == [
        [6, 7, EOS - 2],
        [EOS - 4],
    ]


def test_a_score_that_is_nan_is_reported_with_the_index_of_its_pair() -> None:
    pairs = [np.array([5, EOS]), np.array([5, 6, EOS])]
    scores = [np.array([0.0, np.nan]), np.zeros(3)]
    with pytest.raises(UserError, match=r"the score of pair 0 is NaN: are weights NaN"):
        score_in_batches(
            pairs, pairs, lambda _, targets: [scores[len(each) - 2] for each in targets], max_tokens=9, batch_size=1
        )


def test_invalid_sentences_are_refused_with_their_index() -> None:
    fits, long, open_end = np.array([5, 6, EOS]), np.array([5, 6, 7, EOS]), np.array([5, 6])
    check_sentences([fits, fits], 3, "source")
    with pytest.raises(UserError, match="source 1 has 4 tokens with </s>; the model's limit is 3"):
        check_sentences([fits, long], 3, "source")
    for wrong in (open_end, np.array([], dtype=np.int64)):
        with pytest.raises(ValueError, match="target 1 does not end in </s>"):
            check_sentences([fits, wrong], 3, "target")


def test_engines_implement_the_protocols_of_their_abilities() -> None:
    config = TransformerConfig(encoder_layers=1, decoder_layers=1, encoder_embed_dim=8, decoder_embed_dim=8)
    parallel = NATEngine(build_nonautoregressive(config, NATConfig(family="ctc"), src_vocab_size=9, tgt_vocab_size=9))
    beam = TorchEngine(make_model())
    assert isinstance(beam, ScoringEngine)
    assert isinstance(parallel, RefiningEngine)
    assert not isinstance(beam, RefiningEngine)
    assert not isinstance(parallel, ScoringEngine)


def test_options_default_to_a_single_thread_on_a_cpu() -> None:
    options = EngineOptions()
    assert (options.device, options.threads, options.rescorer) == ("cpu", 1, None)
    assert EngineOptions(rescorer=Path("x")).search == options.search
