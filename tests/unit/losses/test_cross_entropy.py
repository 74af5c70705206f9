"""Tests of label-smoothed cross entropy against the formula, PyTorch, finite differences, and split batches."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from kdmt.losses import cross_entropy
from kdmt.losses.cross_entropy import label_smoothed_cross_entropy, projected_cross_entropy

EPSILONS = [0.0, 0.1, 0.5]
TOKENS, VOCAB, DIM = 11, 13, 5


def inputs(seed: int = 0, tokens: int = TOKENS, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return features [M, D], weight [V, D] and targets [M]."""
    generator = torch.Generator().manual_seed(seed)
    features_MD = torch.randn(tokens, DIM, generator=generator, dtype=dtype)
    weight_VD = torch.randn(VOCAB, DIM, generator=generator, dtype=dtype)
    return features_MD, weight_VD, torch.randint(VOCAB, (tokens,), generator=generator)


def value_and_gradients(
    features_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, *, epsilon: float, chunk: int | None, **others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loss, NLL and the gradients of 3 * loss; without a chunk, the plain formula and autograd are used."""
    features_MD, weight_VD = features_MD.clone().requires_grad_(), weight_VD.clone().requires_grad_()
    if chunk is None:
        loss, nll = label_smoothed_cross_entropy(features_MD @ weight_VD.t(), targets_M, epsilon=epsilon)
    else:
        loss, nll = projected_cross_entropy(features_MD, weight_VD, targets_M, epsilon=epsilon, chunk=chunk, **others)
    return loss.detach(), nll.detach(), *torch.autograd.grad(3 * loss, [features_MD, weight_VD])


# --------------------------------------------------------------------------------------------------- plain formula


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_value_equals_cross_entropy_with_smoothed_distribution(epsilon: float) -> None:
    features_MD, weight_VD, targets_M = inputs()
    logits_MV = (features_MD @ weight_VD.t()).numpy()
    log_probs_MV = logits_MV - np.log(np.exp(logits_MV).sum(axis=1, keepdims=True))
    wanted_MV = np.full_like(logits_MV, epsilon / (VOCAB - 1))
    wanted_MV[np.arange(TOKENS), targets_M] = 1 - epsilon

    loss, nll = label_smoothed_cross_entropy(torch.from_numpy(logits_MV), targets_M, epsilon=epsilon)
    assert wanted_MV.sum() == pytest.approx(TOKENS)
    assert float(loss) == pytest.approx(-(wanted_MV * log_probs_MV).sum(), rel=1e-12)
    assert float(nll) == pytest.approx(-log_probs_MV[np.arange(TOKENS), targets_M].sum(), rel=1e-12)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_value_equals_torch_with_converted_epsilon(epsilon: float) -> None:
    # torch spreads its epsilon over all V symbols, fairseq over the V - 1 wrong ones
    features_MD, weight_VD, targets_M = inputs(1)
    logits_MV = features_MD @ weight_VD.t()
    theirs = F.cross_entropy(logits_MV, targets_M, label_smoothing=epsilon * VOCAB / (VOCAB - 1), reduction="sum")
    torch.testing.assert_close(label_smoothed_cross_entropy(logits_MV, targets_M, epsilon=epsilon)[0], theirs)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_loss_of_uniform_prediction_is_log_of_vocabulary_size(epsilon: float) -> None:
    targets_M = inputs()[2]
    loss, nll = label_smoothed_cross_entropy(torch.zeros(TOKENS, VOCAB), targets_M, epsilon=epsilon)
    assert [float(loss), float(nll)] == pytest.approx([TOKENS * math.log(VOCAB)] * 2, rel=1e-6)


def test_plain_formula_computes_in_float32_for_low_precision() -> None:
    features_MD, weight_VD, targets_M = inputs(dtype=torch.float32)
    logits_MV = (features_MD @ weight_VD.t()).bfloat16()
    loss, _ = label_smoothed_cross_entropy(logits_MV, targets_M, epsilon=0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, label_smoothed_cross_entropy(logits_MV.float(), targets_M, epsilon=0.1)[0])


# ------------------------------------------------------------------------------------------- projection and loss


@pytest.mark.parametrize("chunk", [1, 3, TOKENS, 256])
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_projected_loss_and_gradients_equal_plain_formula(epsilon: float, chunk: int) -> None:
    ours = value_and_gradients(*inputs(2), epsilon=epsilon, chunk=chunk)
    plain = value_and_gradients(*inputs(2), epsilon=epsilon, chunk=None)
    for own, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_gradients_equal_finite_differences(epsilon: float) -> None:
    features_MD, weight_VD, targets_M = inputs(3, tokens=4)

    def loss(features_MD: Tensor, weight_VD: Tensor) -> Tensor:
        return projected_cross_entropy(features_MD, weight_VD, targets_M, epsilon=epsilon, chunk=3)[0]

    assert torch.autograd.gradcheck(loss, (features_MD.requires_grad_(), weight_VD.requires_grad_()))


@given(cuts=st.lists(st.integers(0, TOKENS), max_size=4), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_sums_over_a_split_batch_add_up(cuts: list[int], seed: int) -> None:
    features_MD, weight_VD, targets_M = inputs(seed)
    whole = value_and_gradients(features_MD, weight_VD, targets_M, epsilon=0.1, chunk=4)
    parts = [
        value_and_gradients(features_MD[start:end], weight_VD, targets_M[start:end], epsilon=0.1, chunk=4)
        for start, end in pairwise([0, *sorted(cuts), TOKENS])
    ]
    losses, nlls, grad_features, grad_weights = zip(*parts, strict=True)
    torch.testing.assert_close(sum(losses), whole[0])
    torch.testing.assert_close(sum(nlls), whole[1])
    torch.testing.assert_close(torch.cat(grad_features), whole[2])
    torch.testing.assert_close(sum(grad_weights), whole[3])


def test_nll_carries_no_gradient() -> None:
    features_MD, weight_VD, targets_M = inputs()
    _, nll = projected_cross_entropy(features_MD.requires_grad_(), weight_VD, targets_M, epsilon=0.1)
    assert not nll.requires_grad


def test_large_logits_do_not_overflow() -> None:
    features_MD, weight_VD, targets_M = inputs(dtype=torch.float32)
    found = value_and_gradients(features_MD * 1e4, weight_VD, targets_M, epsilon=0.1, chunk=4)
    exact = value_and_gradients(features_MD.double() * 1e4, weight_VD.double(), targets_M, epsilon=0.1, chunk=None)
    for own, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(own.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_float32_is_accurate_with_large_vocabulary() -> None:
    generator = torch.Generator().manual_seed(5)
    features_MD = torch.randn(300, 16, generator=generator)
    weight_VD = torch.randn(4000, 16, generator=generator)
    targets_M = torch.randint(4000, (300,), generator=generator)
    found = value_and_gradients(features_MD, weight_VD, targets_M, epsilon=0.1, chunk=128)
    exact = value_and_gradients(features_MD.double(), weight_VD.double(), targets_M, epsilon=0.1, chunk=None)
    for own, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(own.double(), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradient_is_computed_without_grad_mode(mode: type, monkeypatch: pytest.MonkeyPatch) -> None:
    features_MD, weight_VD, targets_M = inputs()
    expected = projected_cross_entropy(features_MD, weight_VD, targets_M, epsilon=0.1)
    monkeypatch.setattr(cross_entropy, "_add_gradients", None)  # calling it would raise
    with mode():
        found = projected_cross_entropy(features_MD, nn.Parameter(weight_VD), targets_M, epsilon=0.1)
    assert [float(value) for value in found] == [float(value) for value in expected]


@pytest.mark.parametrize("wanted", ["features", "weight"])
def test_gradient_of_only_one_input(wanted: str) -> None:
    features_MD, weight_VD, targets_M = inputs()
    _, _, *gradients = value_and_gradients(features_MD, weight_VD, targets_M, epsilon=0.1, chunk=None)
    sides = {"features": (features_MD, gradients[0]), "weight": (weight_VD, gradients[1])}
    leaf, expected = sides[wanted]
    leaf.requires_grad_()
    loss, _ = projected_cross_entropy(features_MD, weight_VD, targets_M, epsilon=0.1)
    (3 * loss).backward()
    torch.testing.assert_close(leaf.grad, expected)


@pytest.mark.parametrize("features_dtype", [torch.float32, torch.bfloat16])
def test_bf16_products_are_close_and_keep_parameter_dtypes(features_dtype: torch.dtype) -> None:
    features_MD, weight_VD, targets_M = inputs(4, dtype=torch.float32)
    exact = value_and_gradients(features_MD, weight_VD, targets_M, epsilon=0.1, chunk=None)
    found = value_and_gradients(
        features_MD.to(features_dtype), weight_VD, targets_M, epsilon=0.1, chunk=4, product_type=torch.bfloat16
    )
    assert [value.dtype for value in found] == [torch.float32, torch.float32, features_dtype, torch.float32]
    for own, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(own.float(), expected, rtol=0.03, atol=0.03)
    assert float(found[0]) != float(exact[0])  # the computation was in bf16


# ----------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("chunk", [1, 4, TOKENS])
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_token_of_weight_n_equals_n_tokens(epsilon: float, chunk: int) -> None:
    features_MD, weight_VD, targets_M = inputs(3)
    times_M = torch.arange(TOKENS) % 4
    repeated = [each.repeat_interleave(times_M, 0) for each in (features_MD, targets_M)]
    expected = value_and_gradients(repeated[0], weight_VD, repeated[1], epsilon=epsilon, chunk=None)
    weights = {"weights_M": times_M.double()}
    found = value_and_gradients(features_MD, weight_VD, targets_M, epsilon=epsilon, chunk=chunk, **weights)
    index_R = torch.arange(TOKENS).repeat_interleave(times_M)
    by_token = torch.zeros_like(features_MD).index_add_(0, index_R, expected[2])
    for mine, theirs in zip(found, (*expected[:2], by_token, expected[3]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


def test_a_vocabulary_of_one_token_costs_nothing() -> None:
    targets_M = torch.zeros(TOKENS, dtype=torch.int64)
    features_MD, weight_VD, _ = inputs()
    found = value_and_gradients(features_MD, weight_VD[:1], targets_M, epsilon=0.0, chunk=4)
    assert [float(each.abs().sum()) for each in found] == [0.0] * 4
