"""The projected cross entropy on the GPU equals the formula, also at vocabulary sizes that no kernel likes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdmt.losses.cross_entropy import projected_cross_entropy, token_nll

EPSILON, TOKENS, WIDTH = 0.1, 70, 32


def inputs(vocab_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features, output weights, targets and weights of the tokens, in float32 on the CPU."""
    generator = torch.Generator().manual_seed(vocab_size)
    return (
        torch.randn(TOKENS, WIDTH, generator=generator),
        torch.randn(vocab_size, WIDTH, generator=generator),
        torch.randint(0, vocab_size, (TOKENS,), generator=generator),
        torch.rand(TOKENS, generator=generator),
    )


def formula(vocab_size: int) -> list[Tensor]:
    """Return the loss, the negative log-likelihood and the gradients of the loss, computed in float64 on the CPU."""
    features_MD, weight_VD, targets_M, weights_M = inputs(vocab_size)
    features_MD, weight_VD = (each.double().requires_grad_() for each in (features_MD, weight_VD))
    log_probs_MV = F.log_softmax(features_MD @ weight_VD.t(), dim=1)
    nll_M = -log_probs_MV.gather(1, targets_M[:, None])[:, 0]
    # fairseq gives the target (1 - epsilon) - epsilon / (V - 1), and every token epsilon / (V - 1)
    share = EPSILON / (vocab_size - 1)
    loss = (weights_M * ((1 - EPSILON - share) * nll_M - share * log_probs_MV.sum(1))).sum()
    loss.backward()
    assert features_MD.grad is not None
    assert weight_VD.grad is not None
    return [loss.detach(), (weights_M * nll_M).sum().detach(), features_MD.grad, weight_VD.grad]


def on_gpu(vocab_size: int, device: torch.device, product_type: torch.dtype | None = None) -> list[Tensor]:
    features_MD, weight_VD, targets_M, weights_M = (each.to(device) for each in inputs(vocab_size))
    features_MD.requires_grad_()
    weight_VD.requires_grad_()
    loss, nll = projected_cross_entropy(
        features_MD, weight_VD, targets_M, epsilon=EPSILON, weights_M=weights_M, product_type=product_type
    )
    loss.backward()
    assert features_MD.grad is not None
    assert weight_VD.grad is not None
    return [each.detach().cpu().double() for each in (loss, nll, features_MD.grad, weight_VD.grad)]


@pytest.mark.parametrize("vocab_size", [5, 64, 1000, 1001, 1003, 4099])
def test_loss_and_gradients_equal_the_formula(vocab_size: int, cuda: torch.device) -> None:
    for found, expected in zip(on_gpu(vocab_size, cuda), formula(vocab_size), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vocab_size", [64, 1001])
def test_products_in_bf16_are_near_the_formula(vocab_size: int, cuda: torch.device) -> None:
    for found, expected in zip(on_gpu(vocab_size, cuda, torch.bfloat16), formula(vocab_size), strict=True):
        assert float((found - expected).norm() / expected.norm()) < 0.03


@pytest.mark.parametrize("vocab_size", [64, 1001])
def test_likelihood_of_tokens_equals_the_formula(vocab_size: int, cuda: torch.device) -> None:
    features_MD, weight_VD, targets_M, _ = inputs(vocab_size)
    expected = F.cross_entropy(features_MD.double() @ weight_VD.double().t(), targets_M, reduction="none")
    found = token_nll(features_MD.to(cuda), weight_VD.to(cuda), targets_M.to(cuda))
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-4, atol=1e-4)
