"""Tests of properties that the objectives of all families have in common."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from copy_task import nat_objective, open_data, terms_of, train_settings, write_pairs
from small_nat import PAIRS, batch_of, small
from torch.nn import functional as F

from kdmt.families import ALIGNED, EDITING, POSITIONAL, FamilyName
from kdmt.train.validation import validation_loss
from kdmt.types import PAD


@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
def test_empty_targets_have_finite_gradients(tmp_path: Path, family: FamilyName) -> None:
    objective = nat_objective(small(family)).train()
    pairs = open_data(write_pairs(tmp_path, [([4, 5], []), ([6], [])]), train_settings())
    terms = objective(objective.prepare(pairs.load(torch.arange(2).numpy())))
    total = sum(term.sum * term.weight for term in terms.values() if term.weight)
    assert isinstance(total, torch.Tensor)
    total.backward()
    assert torch.isfinite(total)
    assert all(each.grad is None or torch.isfinite(each.grad).all() for each in objective.model.parameters())


@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
def test_deep_supervision_does_not_change_validation_loss(tmp_path: Path, family: FamilyName) -> None:
    """Validation does not use deep supervision, not even in the first validation after a training batch."""
    pairs = open_data(write_pairs(tmp_path, PAIRS), train_settings())
    losses = []
    for weight in (0.0, 0.5):
        objective = nat_objective(small(family, 3, layers=2), deep_supervision=weight)
        objective.train()(objective.prepare(batch_of(tmp_path / str(weight))))
        losses.append(validation_loss(objective.eval(), pairs, [np.arange(5)], device=torch.device("cpu")))
    assert losses[0] == losses[1]
    assert math.isfinite(losses[0]["loss"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
def test_loss_in_half_precision_is_close_to_double(tmp_path: Path, family: FamilyName, dtype: torch.dtype) -> None:
    batch, losses = batch_of(tmp_path), []
    for model in (small(family, 3).to(dtype), small(family, 3).to(dtype).double()):
        objective = nat_objective(model).eval()
        with torch.no_grad():
            losses.append(float(terms_of(objective, batch)["loss"].sum))
    assert losses[0] == pytest.approx(losses[1], rel=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
def test_loss_does_not_depend_on_order_and_padding(tmp_path: Path, family: FamilyName) -> None:
    objective = nat_objective(small(family)).eval()
    batch = batch_of(tmp_path)
    assert batch.prev_tokens_BT is not None
    assert batch.tgt_tokens_BT is not None
    order = torch.tensor([3, 1, 4, 0, 2])
    sides = (batch.src_tokens_BS, batch.prev_tokens_BT, batch.tgt_tokens_BT)
    src, prev, tgt = (F.pad(tokens[order], (0, 3), value=PAD) for tokens in sides)
    other = replace(batch, index_B=batch.index_B[order], src_tokens_BS=src, prev_tokens_BT=prev, tgt_tokens_BT=tgt)
    found, expected = terms_of(objective, other), terms_of(objective, batch)
    assert found.keys() == expected.keys()
    for name, term in expected.items():
        assert found[name].count == term.count
        torch.testing.assert_close(found[name].sum, term.sum, rtol=1e-6, atol=1e-9)
