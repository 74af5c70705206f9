from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from copy_task import make_model, train_settings, write_copy_task, write_pairs

from kdmt.corpus.batching import ParallelData
from kdmt.errors import UserError
from kdmt.objectives.objective import CrossEntropyObjective
from kdmt.train.data import BinarizedData
from kdmt.types import EOS, PAD


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> ParallelData:
    return write_copy_task(tmp_path_factory.mktemp("data"), 200, seed=1)


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def test_an_epoch_holds_every_pair_once(pairs: ParallelData) -> None:
    data = BinarizedData(pairs, train_settings(), seed=1)
    for epoch in (1, 2):
        assert sorted(np.concatenate(data.epoch(epoch))) == list(range(len(pairs)))


def test_epochs_are_a_function_of_seed_and_number_alone(pairs: ParallelData) -> None:
    settings = train_settings()
    first = BinarizedData(pairs, settings, seed=1)
    second_epoch = as_lists(first.epoch(2))
    assert as_lists(first.epoch(1)) != second_epoch
    assert as_lists(BinarizedData(pairs, settings, seed=1).epoch(2)) == second_epoch
    assert as_lists(BinarizedData(pairs, settings, seed=2).epoch(2)) != second_epoch


def test_batches_go_from_short_to_long_within_max_tokens(pairs: ParallelData) -> None:
    batches = BinarizedData(pairs, train_settings(max_tokens=40), seed=1).batches()
    longest = [int(pairs.src_sizes[batch].max()) for batch in batches]
    assert longest == sorted(longest)
    assert all(len(batch) * length <= 40 for batch, length in zip(batches, longest, strict=True))


def test_pairs_over_a_limit_are_left_out_and_counted(tmp_path: Path) -> None:
    words = [4, 5, 6, 7]
    pairs = write_pairs(tmp_path, [(words[:1], words[:1]), (words, words[:1]), (words[:1], words), (words, words)])
    data = BinarizedData(pairs, train_settings(max_source_tokens=5, max_target_tokens=4), seed=1)
    assert data.kept.tolist() == [0, 1]
    assert data.num_left_out == 2
    assert sorted(np.concatenate(data.epoch(1))) == [0, 1]


def test_nothing_within_the_limits_is_an_error(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, [([4, 5, 6], [4, 5, 6])])
    with pytest.raises(UserError, match=r"train\.max_source_tokens and train\.max_target_tokens"):
        BinarizedData(pairs, train_settings(max_source_tokens=2), seed=1)


def test_batch_is_padded_on_the_right_and_its_target_shifted(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, [([4, 5], [6]), ([7], [8, 9, 10])])
    batch = BinarizedData(pairs, train_settings(), seed=1).load(np.array([1, 0]))
    assert batch.src_tokens_BS.tolist() == [[7, EOS, PAD], [4, 5, EOS]]
    assert batch.tgt_tokens_BT is not None
    assert batch.tgt_tokens_BT.tolist() == [[8, 9, 10, EOS], [6, EOS, PAD, PAD]]
    assert batch.prev_tokens_BT is not None
    assert batch.prev_tokens_BT.tolist() == [[EOS, 8, 9, 10], [EOS, 6, PAD, PAD]]
    assert batch.num_tgt_tokens == 6


def test_weights_of_pairs_reach_the_loss(pairs: ParallelData) -> None:
    """Pairs of weight 2 in a batch give what a batch gives that has them twice."""
    settings = train_settings()
    indices, twice = np.array([3, 1, 2]), np.array([3, 1, 1, 2, 2])
    weights = np.full(len(pairs), 1.0, dtype=np.float32)
    weights[[1, 2]] = 2.0
    weighted = BinarizedData(pairs, settings, seed=1, weights=weights).load(indices)
    plain = BinarizedData(pairs, settings, seed=1).load(twice)
    objective = CrossEntropyObjective(make_model().double().eval(), label_smoothing=0.1)
    assert objective.counts(weighted) == objective.counts(plain)
    assert weighted.num_tgt_tokens < plain.num_tgt_tokens
    found, expected = objective(weighted), objective(plain)
    for name in expected:
        torch.testing.assert_close(found[name].sum, expected[name].sum, rtol=1e-12, atol=0)
        assert found[name].count == expected[name].count
