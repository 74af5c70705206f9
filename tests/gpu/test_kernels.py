"""Triton kernels of the losses: against the formulas in float64, the PyTorch losses, and finite differences.

They run on a GPU, and on CPUs where `triton` can be imported, by its interpreter, which executes kernels with numpy.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest
import torch
from torch import Tensor

from kdmt.losses import cross_entropy, fused
from kdmt.losses.cross_entropy import label_smoothed_cross_entropy, projected_cross_entropy

HAS_GPU = torch.cuda.is_available() and bool(torch.version.cuda or torch.version.hip)
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not HAS_GPU and "triton" in sys.modules:
    pytest.skip("triton was imported before without its interpreter", allow_module_level=True)
with pytest.MonkeyPatch.context() as environment:
    if not HAS_GPU:
        environment.setenv("TRITON_INTERPRET", "1")  # read when a kernel is defined, by triton's own as well
    triton_kernels = importlib.import_module("kdmt.losses.triton_kernels")

DEVICE = torch.device("cuda:0" if HAS_GPU else "cpu")


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    if not HAS_GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")  # modules of triton that are loaded by the first call read it too


BFLOAT16 = 2**-8 if HAS_GPU else 2**-7  # largest relative error of rounding; the interpreter rounds towards zero
VOCABULARIES = [1, 7, 1000, 32_001]
INFINITY = float("inf")


def random_logits(rows: int, vocab_size: int, dtype: torch.dtype = torch.float32, *, seed: int = 0) -> Tensor:
    """Return normal logits [C, V] times 3."""
    generator = torch.Generator().manual_seed(seed)
    return (3.0 * torch.randn(rows, vocab_size, generator=generator)).to(DEVICE, dtype)


def random_targets(rows: int, vocab_size: int, *, seed: int = 1) -> Tensor:
    return torch.randint(vocab_size, (rows,), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


# ------------------------------------------------------------------------------------------------------ cross entropy


def expected_cross_entropy(
    logits_CV: Tensor, targets_C: Tensor, epsilon: float, weights_C: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss [C], negative log-likelihood [C] and gradient [C, V] in float64, by the formula and autograd."""
    logits_CV = logits_CV.double().requires_grad_()
    each = epsilon / (logits_CV.size(1) - 1) if epsilon else 0.0
    log_probs_CV = logits_CV.log_softmax(1)
    nll_C = -log_probs_CV.gather(1, targets_C[:, None])[:, 0]
    weights_C = torch.ones_like(nll_C) if weights_C is None else weights_C.double()
    loss_C = (1.0 - epsilon - each) * nll_C * weights_C
    if each:
        loss_C = loss_C - each * log_probs_CV.sum(1) * weights_C
    (gradient_CV,) = torch.autograd.grad(loss_C.sum(), logits_CV)
    return loss_C.detach(), (nll_C * weights_C).detach(), gradient_CV


def kernel_cross_entropy(
    logits_CV: Tensor, targets_C: Tensor, epsilon: float, weights_C: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    each = epsilon / (logits_CV.size(1) - 1) if epsilon else 0.0
    gradient_CV = logits_CV.clone()
    loss_C, nll_C = triton_kernels.cross_entropy_(
        gradient_CV, targets_C, weights_C, target_share=1.0 - epsilon - each, each=each, gradient=True
    )
    return loss_C.double(), nll_C.double(), gradient_CV.double()


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], *, gradient: float) -> None:
    """Compare values within 1e-5 and the gradient, the last tensor, within a relative error."""
    for own, other in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[-1], expected[-1], rtol=gradient, atol=1e-7)


CROSS_ENTROPIES = [(size, epsilon) for size in VOCABULARIES for epsilon in (0.0, 0.1) if size > 1 or not epsilon]


@pytest.mark.parametrize(("vocab_size", "epsilon"), CROSS_ENTROPIES)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, BFLOAT16)])
def test_cross_entropy_is_the_formula(vocab_size: int, epsilon: float, dtype: torch.dtype, rounding: float) -> None:
    logits_CV, targets_C = random_logits(3, vocab_size, dtype), random_targets(3, vocab_size)
    found = kernel_cross_entropy(logits_CV, targets_C, epsilon)
    assert_same(found, expected_cross_entropy(logits_CV, targets_C, epsilon), gradient=rounding)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_weights_multiply_loss_and_gradient_and_zero_removes_a_token(epsilon: float) -> None:
    logits_CV, targets_C = random_logits(4, 1000), random_targets(4, 1000)
    weights_C = torch.tensor([0.5, 0.0, 1.0, 3.0], device=DEVICE)
    found = kernel_cross_entropy(logits_CV, targets_C, epsilon, weights_C)
    assert_same(found, expected_cross_entropy(logits_CV, targets_C, epsilon, weights_C), gradient=1e-5)
    assert [float(each.abs().sum()) for each in (found[0][1], found[1][1], found[2][1])] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_large_logits_do_not_overflow(epsilon: float, scale: float) -> None:
    logits_CV, targets_C = scale * random_logits(3, 5000), random_targets(3, 5000)
    loss_C, nll_C, gradient_CV = kernel_cross_entropy(logits_CV, targets_C, epsilon)
    expected = expected_cross_entropy(logits_CV, targets_C, epsilon)
    for own, other in zip((loss_C, nll_C), expected[:2], strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(gradient_CV, expected[2], rtol=1e-4, atol=1e-7)


def test_a_logit_of_minus_infinity_has_probability_zero() -> None:
    logits_CV, targets_C = random_logits(3, 9000), torch.tensor([8999, 5, 4500], device=DEVICE)
    logits_CV[0, :8500] = -INFINITY  # whole blocks before the first finite logit
    logits_CV[1, 100:] = -INFINITY
    found = kernel_cross_entropy(logits_CV, targets_C, 0.0)
    assert_same(found, expected_cross_entropy(logits_CV, targets_C, 0.0), gradient=1e-5)
    assert torch.isfinite(found[2]).all()
    assert not found[2][0, :8500].any()


def test_label_smoothing_with_a_logit_of_minus_infinity_is_an_infinite_loss_with_a_finite_gradient() -> None:
    logits_CV, targets_C = random_logits(2, 50), random_targets(2, 50)
    logits_CV[:, 7] = -INFINITY
    loss_C, _, gradient_CV = kernel_cross_entropy(logits_CV, targets_C, 0.1)
    assert loss_C.tolist() == [INFINITY, INFINITY]
    torch.testing.assert_close(gradient_CV, expected_cross_entropy(logits_CV, targets_C, 0.1)[2], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), INFINITY])
def test_a_logit_that_is_not_a_number_reaches_the_loss(bad: float) -> None:
    logits_CV, targets_C = random_logits(2, 5000), random_targets(2, 5000)
    logits_CV[1, 4999] = bad
    loss_C, _, gradient_CV = kernel_cross_entropy(logits_CV, targets_C, 0.1)
    assert torch.isfinite(loss_C).tolist() == [True, False]
    assert not torch.isfinite(gradient_CV[1]).all()


def test_logits_stay_where_no_gradient_is_wanted() -> None:
    logits_CV, targets_C = random_logits(2, 1000), random_targets(2, 1000)
    before_CV = logits_CV.clone()
    sums_2C = triton_kernels.cross_entropy_(logits_CV, targets_C, None, target_share=1.0, each=0.0, gradient=False)
    assert torch.equal(logits_CV, before_CV)
    expected = expected_cross_entropy(logits_CV, targets_C, 0.0)
    torch.testing.assert_close(sums_2C[0].double(), expected[0], rtol=1e-5, atol=1e-5)


def test_columns_after_the_vocabulary_are_neither_read_nor_written() -> None:
    held_CW = torch.full((3, 1008), float("nan"), device=DEVICE)
    held_CW[:, :1001] = random_logits(3, 1001)
    targets_C = random_targets(3, 1001)
    expected = expected_cross_entropy(held_CW[:, :1001].clone(), targets_C, 0.1)
    each = 0.1 / 1000
    sums_2C = triton_kernels.cross_entropy_(
        held_CW[:, :1001], targets_C, None, target_share=0.9 - each, each=each, gradient=True
    )
    assert_same((*sums_2C.double(), held_CW[:, :1001].double()), expected, gradient=1e-5)
    assert held_CW[:, 1001:].isnan().all()


def test_no_token_gives_no_loss() -> None:
    logits_CV, targets_C = random_logits(0, 10), random_targets(0, 10)
    found = triton_kernels.cross_entropy_(logits_CV, targets_C, None, target_share=1.0, each=0.0, gradient=True)
    assert found.shape == (2, 0)


def test_rows_that_are_not_adjacent_are_rejected() -> None:
    with pytest.raises(ValueError, match="adjacent"):
        triton_kernels.cross_entropy_(
            random_logits(4, 4).t(), random_targets(4, 4), None, target_share=1.0, each=0.0, gradient=True
        )


# --------------------------------------------------------------------------------------------- with the projection


@pytest.fixture
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the losses use the kernels on the device of these tests."""
    monkeypatch.setattr(fused, "kernels", lambda _device, _type: triton_kernels)


def projected(
    features_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, epsilon: float, **settings: object
) -> tuple[Tensor, ...]:
    """Return loss, negative log-likelihood and the gradients of 3 * loss."""
    features_MD, weight_VD = features_MD.clone().requires_grad_(), weight_VD.clone().requires_grad_()
    loss, nll = projected_cross_entropy(features_MD, weight_VD, targets_M, epsilon=epsilon, **settings)
    assert not nll.requires_grad
    return loss.detach(), nll, *torch.autograd.grad(3 * loss, [features_MD, weight_VD])


def exact_projected(
    features_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, epsilon: float, weights_M: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return the same in float64."""
    features_MD, weight_VD = (each.double().requires_grad_() for each in (features_MD, weight_VD))
    if weights_M is None:
        loss, nll = label_smoothed_cross_entropy(features_MD @ weight_VD.t(), targets_M, epsilon=epsilon)
    else:
        parts = [
            label_smoothed_cross_entropy(features_MD[[row]] @ weight_VD.t(), targets_M[[row]], epsilon=epsilon)
            for row in range(len(targets_M))
        ]
        loss, nll = (sum(w * part[i] for w, part in zip(weights_M.double(), parts, strict=True)) for i in (0, 1))
    return loss.detach(), nll.detach(), *torch.autograd.grad(3 * loss, [features_MD, weight_VD])


def projection_inputs(tokens: int, vocab_size: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    features_MD = torch.randn(tokens, dim, generator=generator).to(DEVICE)
    weight_VD = torch.randn(vocab_size, dim, generator=generator).to(DEVICE)
    return features_MD, weight_VD, random_targets(tokens, vocab_size)


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("chunk", [1, 4, None])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_projected_cross_entropy_in_float32(chunk: int | None, epsilon: float, weighted: bool) -> None:
    features_MD, weight_VD, targets_M = projection_inputs(9, 1001, 8)
    weights_M = torch.arange(9, device=DEVICE) / 4.0 if weighted else None
    found = projected(features_MD, weight_VD, targets_M, epsilon, chunk=chunk, weights_M=weights_M)
    expected = exact_projected(features_MD, weight_VD, targets_M, epsilon, weights_M)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own.double(), other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("features_type", [torch.float32, torch.bfloat16])
def test_projected_cross_entropy_in_bfloat16_is_as_near_as_the_pytorch_path(
    features_type: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    features_MD, weight_VD, targets_M = projection_inputs(40, 1001, 16)
    weight_VD *= 0.3
    features_MD = features_MD.to(features_type)
    exact = exact_projected(features_MD, weight_VD, targets_M, 0.1)
    found = projected(features_MD, weight_VD, targets_M, 0.1, chunk=16, product_type=torch.bfloat16)
    assert [each.dtype for each in found[2:]] == [features_type, torch.float32]
    monkeypatch.setattr(fused, "kernels", lambda _device, _type: None)
    plain = projected(features_MD, weight_VD, targets_M, 0.1, chunk=16, product_type=torch.bfloat16)

    def errors(values: tuple[Tensor, ...]) -> list[float]:
        return [float((own.double() - best).norm() / best.norm()) for own, best in zip(values, exact, strict=True)]

    for own, of_plain in zip(errors(found), errors(plain), strict=True):
        assert own < max(1.5 * of_plain, 1e-3)


@pytest.mark.usefixtures("with_kernels")
def test_backward_may_run_twice_and_no_tokens_are_allowed() -> None:
    features_MD, weight_VD, targets_M = projection_inputs(5, 13, 4)
    features_MD.requires_grad_()
    loss, _ = projected_cross_entropy(features_MD, weight_VD, targets_M, epsilon=0.1)
    first, second = (torch.autograd.grad(2 * loss, features_MD, retain_graph=again)[0] for again in (True, False))
    assert torch.equal(first, second)
    none, nll = projected_cross_entropy(features_MD[:0], weight_VD, targets_M[:0], epsilon=0.1)
    assert [float(none.detach()), float(nll)] == [0.0, 0.0]


@pytest.mark.usefixtures("with_kernels")
def test_without_a_gradient_only_the_loss_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    features_MD, weight_VD, targets_M = projection_inputs(5, 13, 4)
    expected = projected_cross_entropy(features_MD, weight_VD, targets_M, epsilon=0.1)
    monkeypatch.setattr(cross_entropy, "write_product", None)  # a call would raise
    with torch.no_grad():
        found = projected_cross_entropy(features_MD, weight_VD.requires_grad_(), targets_M, epsilon=0.1)
    assert [float(each) for each in found] == [float(each) for each in expected]
