from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from copy_task import CPU, TINY, make_model, open_data, train_settings, write_copy_task
from torch.nn import functional as F

from kdmt.objectives.build import build_objective
from kdmt.train.validation import validation_loss


def test_loss_is_the_mean_over_tokens_for_all_batch_sizes(tmp_path: Path) -> None:
    settings = train_settings(label_smoothing=0.2)
    pairs = write_copy_task(tmp_path, 40, seed=1)
    model = make_model(1, replace(TINY, dropout=0.0)).double().eval()
    objective = build_objective(model, label_smoothing=0.2)
    data = open_data(pairs, settings)

    nll = []
    with torch.no_grad():
        for src, tgt in (pairs[index] for index in range(len(pairs))):  # one sentence at a time, no padding
            assert tgt is not None
            prev = np.roll(tgt, 1)
            logits_TV = model(torch.tensor([src.tolist()]), torch.tensor([prev.tolist()]))[0]
            nll += F.cross_entropy(logits_TV, torch.tensor(tgt.tolist()), reduction="none").tolist()

    for batches in (data.batches(), [np.arange(40)], [np.array([index]) for index in range(40)]):
        figures = validation_loss(objective, data, batches, device=CPU)
        assert figures["nll"] == pytest.approx(np.mean(nll), rel=1e-9)
        assert figures["loss"] > figures["nll"] * 0.8
    assert all(parameter.grad is None for parameter in model.parameters())


def test_validation_does_not_change_the_random_state(tmp_path: Path) -> None:
    settings = train_settings()
    data = open_data(write_copy_task(tmp_path, 20, seed=1), settings)
    objective = build_objective(make_model().eval(), label_smoothing=0.1)
    before = torch.get_rng_state()
    validation_loss(objective, data, data.batches(), device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
