from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from copy_task import TINY, make_model, open_data, terms_of, train_settings, write_pairs
from torch.nn import functional as F

from kdmt.corpus.batching import Batch
from kdmt.objectives.build import build_objective
from kdmt.objectives.objective import Objective
from kdmt.types import PAD

PAIRS = [([4, 5, 6], [7, 8]), ([9], [10, 11, 4, 5]), ([6, 7], [8])]


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return open_data(write_pairs(tmp_path, PAIRS), train_settings()).load(torch.arange(len(PAIRS)).numpy())


def objective(label_smoothing: float) -> Objective:
    return build_objective(make_model(1, replace(TINY, dropout=0.0)).double(), label_smoothing=label_smoothing)


def test_terms_are_sums_over_real_tokens(batch: Batch) -> None:
    smoothed = objective(0.1)
    terms = terms_of(smoothed, batch)
    logits_BVT = smoothed.model(batch.src_tokens_BS, batch.prev_tokens_BT).transpose(1, 2)
    vocab = logits_BVT.size(1)
    arguments = {"ignore_index": PAD, "reduction": "sum"}
    expected = F.cross_entropy(logits_BVT, batch.tgt_tokens_BT, label_smoothing=0.1 * vocab / (vocab - 1), **arguments)
    torch.testing.assert_close(terms["loss"].sum, expected)
    torch.testing.assert_close(terms["nll"].sum, F.cross_entropy(logits_BVT, batch.tgt_tokens_BT, **arguments))


def test_counts_are_known_beforehand_and_nll_is_not_trained_on(batch: Batch) -> None:
    terms = terms_of(objective(0.1), batch)
    plain = objective(0.1)
    assert (
        plain.counts(plain.prepare(batch))
        == {"loss": 10, "nll": 10}
        == {name: term.count for name, term in terms.items()}
    )
    assert terms["loss"].weight == 1.0
    assert terms["nll"].weight == 0.0
    assert not terms["nll"].sum.requires_grad


def test_more_padding_changes_nothing(batch: Batch) -> None:
    def widen(tokens: torch.Tensor | None) -> torch.Tensor:
        assert tokens is not None
        return F.pad(tokens, (0, 3), value=PAD)

    wider = replace(
        batch,
        src_tokens_BS=widen(batch.src_tokens_BS),
        prev_tokens_BT=widen(batch.prev_tokens_BT),
        tgt_tokens_BT=widen(batch.tgt_tokens_BT),
    )
    same = objective(0.1)
    torch.testing.assert_close(terms_of(same, wider)["loss"].sum, terms_of(same, batch)["loss"].sum, rtol=1e-12, atol=0)


def test_batch_without_targets_is_refused(batch: Batch) -> None:
    with pytest.raises(ValueError, match="targets"):
        terms_of(objective(0.1), replace(batch, tgt_tokens_BT=None))
