"""Tests of validation by direction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from copy_task import CPU, TINY, make_model, open_data, train_settings, write_copy_task
from torch import Tensor

from kdmt.config import Student, WordKD
from kdmt.errors import UserError
from kdmt.models.transformer import Transformer
from kdmt.objectives.build import build_objective
from kdmt.train.direction_sampling import PairDirections
from kdmt.train.direction_validation import DirectionValidation

NAMES = ("en-de", "en-fr")


def probs_of(model: Transformer, src: np.ndarray, tgt: np.ndarray) -> Tensor:
    """Return the distribution at each target token of one sentence, [T, V]."""
    with torch.no_grad():
        return model(torch.tensor([src.tolist()]), torch.tensor([np.roll(tgt, 1).tolist()]))[0].softmax(-1)


def test_figures_are_means_over_the_tokens_of_a_direction(tmp_path: Path) -> None:
    settings, pairs = train_settings(), write_copy_task(tmp_path, 30, seed=1)
    student, *teachers = (make_model(seed, replace(TINY, dropout=0.0)).double().eval() for seed in (1, 2, 3))
    made = build_objective(student, Student(word_kd=WordKD()), label_smoothing=0.1, teachers=teachers).eval()
    data = open_data(pairs, settings)
    direction_P = np.array([index % 3 > 0 for index in range(30)], dtype=np.int16)
    validation = DirectionValidation(data, data.batches(), PairDirections(NAMES, direction_P))
    kinds = ("own", "equal", "perplexity")
    expected: dict[str, dict[str, list[float]]] = {each: {name: [] for name in NAMES} for each in kinds}
    for index in range(30):
        src, tgt = pairs[index]
        assert tgt is not None
        name, targets = NAMES[direction_P[index]], torch.tensor(tgt.tolist())[:, None]
        own_TV = probs_of(student, src, tgt)
        probs_NTV = torch.stack([probs_of(each, src, tgt) for each in teachers])
        perplexities_N = torch.stack([(-each.gather(1, targets).log()).mean().exp() for each in probs_NTV])
        weighted_TV = ((-perplexities_N).softmax(0)[:, None, None] * probs_NTV).sum(0)
        for kind, probs_TV in zip(kinds, (own_TV, probs_NTV.mean(0), weighted_TV), strict=True):
            expected[kind][name] += (-probs_TV.gather(1, targets).log())[:, 0].tolist()
    for kind, found in (
        ("own", validation.of_student(made, device=CPU)),
        ("equal", validation.of_teachers(made, weights="equal", device=CPU)),
        ("perplexity", validation.of_teachers(made, weights="perplexity", device=CPU)),
    ):
        assert found == pytest.approx({name: np.mean(values) for name, values in expected[kind].items()}, rel=1e-9)


def test_a_direction_without_a_pair_is_an_error(tmp_path: Path) -> None:
    pairs = write_copy_task(tmp_path, 6, seed=1)
    data, made = open_data(pairs, train_settings()), build_objective(make_model().eval(), label_smoothing=0.1)
    validation = DirectionValidation(data, data.batches(), PairDirections(NAMES, np.zeros(6, dtype=np.int16)))
    with pytest.raises(UserError, match="validation set: en-fr has no pair within the size limits"):
        validation.of_student(made, device=CPU)
