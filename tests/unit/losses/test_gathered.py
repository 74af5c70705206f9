"""Tests of the log-probabilities of selected tokens against those of the whole matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdmt.losses import gathered
from kdmt.losses.gathered import best_tokens, candidates, gathered_log_probs, overlapping_log_probs

M, V, D, K = 11, 13, 5, 4


@pytest.fixture(params=[1, 8], autouse=True)
def row_multiple(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test without padding of the rows of logits, as on a CPU, and with padding, as on a GPU."""
    monkeypatch.setattr(gathered, "ROW_MULTIPLES", {"cpu": request.param})


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features_MD, weight_VD = (
        torch.randn(rows, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for rows in (M, V)
    )
    ids_MK = torch.randint(V, (M, K), generator=generator)
    ids_MK[:, 1] = ids_MK[:, 0]  # a repeated token
    return features_MD, weight_VD, ids_MK


@pytest.mark.parametrize("chunk", [1, 4, M])
def test_values_and_gradients(chunk: int) -> None:
    features_MD, weight_VD, ids_MK = inputs()
    upstream = torch.randn(M, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = gathered_log_probs(features_MD, weight_VD, ids_MK, chunk=chunk)
    expected = (features_MD @ weight_VD.t()).log_softmax(1).gather(1, ids_MK)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    own, theirs = (torch.autograd.grad(each, [features_MD, weight_VD], upstream) for each in (found, expected))
    for mine, wanted in zip(own, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-12)


def test_products_in_bf16_are_close() -> None:
    features_MD, weight_VD, ids_MK = inputs(torch.float32)
    near = gathered_log_probs(features_MD, weight_VD, ids_MK, product_type=torch.bfloat16)
    exact = gathered_log_probs(features_MD, weight_VD, ids_MK)
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, rtol=0.02, atol=0.05)
    for mine, wanted in zip(
        *(torch.autograd.grad(each.sum(), [features_MD, weight_VD]) for each in (near, exact)), strict=True
    ):
        torch.testing.assert_close(mine, wanted, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("chunk", [1, 4, M])
@pytest.mark.parametrize("without", [None, 3])
def test_most_probable_tokens_equal_those_of_whole_matrix(chunk: int, without: int | None) -> None:
    features_MD, weight_VD, _ = inputs()
    logits_MV = features_MD.detach() @ weight_VD.detach().t()
    if without is not None:
        logits_MV[:, without] = -torch.inf
    expected_MK = logits_MV.argsort(1, descending=True)[:, :K]
    found_MK = candidates(features_MD, weight_VD, K, without=without, chunk=chunk)
    assert torch.equal(found_MK, expected_MK)
    assert torch.equal(best_tokens(features_MD, weight_VD, without=without, chunk=chunk), expected_MK[:, 0])


@pytest.mark.parametrize("chunk", [1, 2, 4, M - 1, M])
def test_overlap_of_neighbouring_distributions(chunk: int) -> None:
    features_MD, weight_VD, ids_MK = inputs()
    generator = torch.Generator().manual_seed(2)
    upstream = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((M, K), (M,))]
    log_probs, overlap = overlapping_log_probs(features_MD, weight_VD, ids_MK, without=3, chunk=chunk)
    all_MV = (features_MD @ weight_VD.t()).log_softmax(1)
    kept = all_MV.exp() * (torch.arange(V) != 3)
    expected = all_MV.gather(1, ids_MK), torch.cat([(kept[:-1] * kept[1:]).sum(1), torch.zeros(1)])
    for mine, wanted in zip((log_probs, overlap), expected, strict=True):
        torch.testing.assert_close(mine, wanted.to(mine.dtype), rtol=1e-12, atol=1e-13)
    own, theirs = (
        torch.autograd.grad(each, [features_MD, weight_VD], upstream) for each in ((log_probs, overlap), expected)
    )
    for mine, wanted in zip(own, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-12)


def test_overlap_of_one_position_is_zero() -> None:
    features_MD, weight_VD, ids_MK = inputs()
    log_probs, overlap = overlapping_log_probs(features_MD[:1], weight_VD, ids_MK[:1], without=0)
    assert overlap.tolist() == [0.0]
    torch.testing.assert_close(log_probs, gathered_log_probs(features_MD[:1], weight_VD, ids_MK[:1]))


def test_overlap_in_bf16_is_close() -> None:
    features_MD, weight_VD, ids_MK = inputs(torch.float32)
    near, exact = (
        overlapping_log_probs(features_MD, weight_VD, ids_MK, without=3, product_type=product_type)[1]
        for product_type in (torch.bfloat16, None)
    )
    torch.testing.assert_close(near, exact, rtol=0.05, atol=0.02)
    for mine, wanted in zip(
        *(torch.autograd.grad(each.sum(), [features_MD, weight_VD]) for each in (near, exact)), strict=True
    ):
        torch.testing.assert_close(mine, wanted, rtol=0.05, atol=0.05)
