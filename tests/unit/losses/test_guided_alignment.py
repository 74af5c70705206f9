"""The loss of guided alignment, compared with its formula over a dense matrix of links in numpy."""

from __future__ import annotations

import numpy as np
import torch

from kdmt.losses.guided_alignment import alignment_nll


def test_loss_is_the_cross_entropy_with_rows_of_links_that_sum_to_1() -> None:
    rng = np.random.default_rng(1)
    attention = rng.dirichlet(np.ones(4), size=(2, 3))  # [B, T, S]
    links = np.zeros((2, 3, 4))
    links[0, 0, 1] = links[0, 2, 0] = links[0, 2, 3] = links[1, 1, 2] = 1
    rows = links.sum(-1, keepdims=True)
    target = np.divide(links, rows, out=np.zeros_like(links), where=rows > 0)
    place = np.stack(links.nonzero())
    found = alignment_nll(
        torch.from_numpy(attention), torch.from_numpy(place), torch.from_numpy(target[tuple(place)]).float()
    )
    np.testing.assert_allclose(float(found), -(target * np.log(attention)).sum(), rtol=1e-12)


def test_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    place = torch.tensor([[0, 0, 1, 1], [0, 2, 1, 1], [3, 1, 0, 2]])
    weight = torch.tensor([1.0, 1.0, 0.5, 0.5])
    assert torch.autograd.gradcheck(lambda values: alignment_nll(values.softmax(-1), place, weight), logits)


def test_attention_of_0_and_no_links_are_finite() -> None:
    attention = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    loss = alignment_nll(attention, torch.tensor([[0], [0], [1]]), torch.ones(1))
    loss.backward()
    assert bool(loss.isfinite())
    assert attention.grad is not None
    assert bool(attention.grad.isfinite().all())
    assert float(alignment_nll(attention.detach(), torch.zeros(3, 0, dtype=torch.int64), torch.zeros(0))) == 0.0
