"""Choice between the faster paths of CUDA devices and plain PyTorch operations, and the products of both."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdmt.losses import fused

CUDA = torch.device("cuda:0")
LOG_TOTAL = math.log(4096 + 8)  # loss of equal logits in the trial


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report a GPU of compute capability 9.0 and a CUDA build of PyTorch."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    for each in (fused._kernels, fused._distils, fused._ctc_kernels, fused._adds_in_float32):
        each.cache_clear()
        monkeypatch.setattr(fused, each.__name__, each)  # the cache is emptied again below


@pytest.fixture(autouse=True)
def _empty_caches() -> None:
    fused._kernels.cache_clear()
    fused._distils.cache_clear()
    fused._ctc_kernels.cache_clear()
    fused._adds_in_float32.cache_clear()


def _make_on_cpu(make: Callable[..., Tensor], *args: object, dtype: torch.dtype | None = None, **_: object) -> Tensor:
    return make(*args, dtype=dtype)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Create the tensors of the trial on the CPU."""
    for name in ("zeros", "ones", "full", "arange"):
        make: Callable[..., Tensor] = getattr(torch, name)
        monkeypatch.setattr(torch, name, partial(_make_on_cpu, make))


def kernel_module(log_total: float) -> ModuleType:
    module = ModuleType("kdmt.losses.triton_kernels")
    module.BLOCK = 4096  # type: ignore[attr-defined]
    module.cross_entropy_ = lambda *_args, **_settings: torch.full((2, 1), log_total)  # type: ignore[attr-defined]
    return module


def kernel_module_with_ctc(*, shift: int = 0) -> ModuleType:
    """Return kernels of CTC that find the path of the trial, `shift` states too high."""

    def find_states(_: Tensor, tokens_BT: Tensor, *__: Tensor) -> Tensor:
        return 2 * tokens_BT + 1 + shift

    def compute_variables(log_probs_BLK: Tensor, _: Tensor) -> Tensor:
        batch, length, num_symbols = log_probs_BLK.shape
        variables_BLS = log_probs_BLK.new_full((batch, length, 2 * num_symbols - 1), -torch.inf)
        variables_BLS[:, :, 1::2] = log_probs_BLK[:, :, 1:]
        return variables_BLS

    def compute_shares(*args: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(1), args[-1].exp()

    module = kernel_module(LOG_TOTAL)
    module.ctc_alignment, module.ctc_variables = find_states, compute_variables  # type: ignore[attr-defined]
    module.ctc_shares = compute_shares  # type: ignore[attr-defined]
    return module


def use(module: ModuleType | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module in the place of the kernels; None for one that cannot be imported."""
    import kdmt.losses

    monkeypatch.setitem(sys.modules, "kdmt.losses.triton_kernels", module)  # type: ignore[arg-type]
    monkeypatch.setattr(kdmt.losses, "triton_kernels", module, raising=False)
    if module is None:
        monkeypatch.delattr(kdmt.losses, "triton_kernels")


def test_a_cpu_and_a_simulated_gpu_of_a_cpu_build_have_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert [fused.kernels(torch.device(name), torch.bfloat16) for name in ("cpu", "cuda:0")] == [None, None]
    assert not fused.sums_in_float32(CUDA)
    assert "triton" not in sys.modules


@pytest.mark.usefixtures("gpu", "on_cpu")
def test_a_kernel_with_the_right_result_is_used_for_float32_and_bfloat16_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module = kernel_module(LOG_TOTAL)
    use(module, monkeypatch)
    types = (torch.bfloat16, torch.float32, torch.float64, torch.float16)
    assert [fused.kernels(CUDA, each) for each in types] == [module, module, None, None]


@pytest.mark.usefixtures("gpu", "on_cpu")
@pytest.mark.parametrize("module", [None, kernel_module(0.7)])
def test_kernels_that_fail_are_reported_once_and_not_used(
    module: ModuleType | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(module, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert [fused.kernels(CUDA, torch.bfloat16) for _ in range(2)] == [None, None]
    (message,) = caplog.messages
    assert message.startswith("the losses are computed without Triton kernels, which is slower: ")


@pytest.mark.usefixtures("gpu", "on_cpu")
def test_kernels_of_ctc_are_used_for_float32_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module = kernel_module_with_ctc()
    use(module, monkeypatch)
    types = (torch.float32, torch.bfloat16, torch.float64)
    assert [fused.ctc_kernels(CUDA, each) for each in types] == [module, None, None]
    assert fused.ctc_kernels(torch.device("cpu"), torch.float32) is None


@pytest.mark.usefixtures("gpu", "on_cpu")
def test_kernels_of_ctc_that_fail_are_reported_once_and_the_others_are_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = kernel_module_with_ctc(shift=1)
    use(module, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert [fused.ctc_kernels(CUDA, torch.float32) for _ in range(2)] == [None, None]
    (message,) = caplog.messages
    assert message.startswith("CTC is computed without Triton kernels, which is slower: ")
    assert fused.kernels(CUDA, torch.float32) is module


def fail_to_compile(*_: object, **__: object) -> Tensor:
    raise RuntimeError("PTX codegen failed")


def compute_wrong_values(logits_CV: Tensor, *_: object, **__: object) -> Tensor:
    return torch.full((4, len(logits_CV)), 0.5)


@pytest.mark.usefixtures("gpu", "on_cpu")
@pytest.mark.parametrize("kernel", [fail_to_compile, compute_wrong_values])
def test_kernels_of_word_kd_that_fail_are_reported_once_and_the_others_are_used(
    kernel: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = kernel_module_with_ctc()
    module.WordKD = SimpleNamespace  # type: ignore[attr-defined]
    module.whole_distribution_ = module.best_tokens_ = kernel  # type: ignore[attr-defined]
    use(module, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert [fused.distils(CUDA) for _ in range(2)] == [False, False]
    (message,) = caplog.messages
    assert message.startswith("word-level distillation is computed without Triton kernels, which is slower: ")
    assert fused.kernels(CUDA, torch.bfloat16) is module
    assert fused.ctc_kernels(CUDA, torch.float32) is module
    assert not fused.distils(torch.device("cpu"))


class DistillationKernels:
    """Kernels of word-level distillation in PyTorch, whose gradients are those of autograd.

    Args:
        factor: factor of the gradient of `best_tokens_`.
    """

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def whole_distribution_(self, logits_CV: Tensor, teacher_CV: Tensor, *others: Any, gradient: bool) -> Tensor:
        assert gradient
        settings = others[-1]
        log_p_CV = (teacher_CV.float() / settings.temperature).log_softmax(1)
        return self._fill(logits_CV, others, lambda log_q_CV: (log_p_CV, log_q_CV), 1.0)

    def best_tokens_(
        self, logits_CV: Tensor, ids_CK: Tensor, log_probs_CG: Tensor, *others: Any, log_zero: float, gradient: bool
    ) -> Tensor:
        """Compare K tokens and the sum of all others."""
        assert gradient
        assert log_zero < -100

        def groups(log_q_CV: Tensor) -> tuple[Tensor, Tensor]:
            rest_C1 = log_q_CV.scatter(1, ids_CK, -torch.inf).logsumexp(1, keepdim=True)
            return log_probs_CG, torch.cat([log_q_CV.gather(1, ids_CK), rest_C1], dim=1)

        return self._fill(logits_CV, others, groups, self.factor)

    def _fill(
        self,
        logits_CV: Tensor,
        others: tuple[Any, ...],
        compared: Callable[[Tensor], tuple[Tensor, Tensor]],
        factor: float,
    ) -> Tensor:
        targets_C, _, _, settings = others
        with torch.enable_grad():
            student_CV = logits_CV.float().requires_grad_()
            log_p, log_q = compared((student_CV / settings.temperature).log_softmax(1))
            divergence_C = settings.scale * (log_p.exp() * (log_p - log_q)).sum(1)
            log_probs_CV = student_CV.log_softmax(1)
            nll_C = -log_probs_CV.gather(1, targets_C[:, None])[:, 0]
            smoothed_C = settings.target_share * nll_C - settings.each * log_probs_CV.sum(1)
            loss_C = (1 - settings.alpha) * smoothed_C + settings.alpha * divergence_C
            (gradient_CV,) = torch.autograd.grad(loss_C.sum(), student_CV)
        logits_CV.copy_(factor * gradient_CV)
        return torch.stack([loss_C, nll_C, divergence_C, torch.ones_like(nll_C)]).detach()


@pytest.mark.usefixtures("gpu", "on_cpu")
@pytest.mark.parametrize(("factor", "expected"), [(1.0, True), (0.95, False)])
def test_kernels_of_word_kd_with_the_right_gradients_are_used(
    factor: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, right = kernel_module_with_ctc(), DistillationKernels(factor)
    module.WordKD = SimpleNamespace  # type: ignore[attr-defined]
    module.whole_distribution_, module.best_tokens_ = right.whole_distribution_, right.best_tokens_  # type: ignore[attr-defined]
    use(module, monkeypatch)
    assert fused.distils(CUDA) == expected


@pytest.mark.usefixtures("gpu", "on_cpu")
def test_kernels_can_be_turned_off_for_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    module = kernel_module_with_ctc()
    use(module, monkeypatch)
    monkeypatch.setattr(fused, "_distils", lambda _device: True)

    def found() -> list[object]:
        return [fused.kernels(CUDA, torch.bfloat16), fused.ctc_kernels(CUDA, torch.float32), fused.distils(CUDA)]

    with fused.without_kernels():
        assert found() == [None, None, False]
    assert found() == [module, module, True]


@pytest.mark.usefixtures("gpu", "on_cpu")
def test_an_old_gpu_has_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    use(kernel_module(LOG_TOTAL), monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    assert fused.kernels(CUDA, torch.bfloat16) is None


@pytest.mark.usefixtures("gpu", "on_cpu")
def test_float32_sums_are_used_where_addmm_computes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def adds(total: Tensor, left: Tensor, right: Tensor, *, out_dtype: torch.dtype, out: Tensor) -> Tensor:
        return out.copy_(total + left.to(out_dtype) @ right.to(out_dtype))

    def overwrites(_: Tensor, left: Tensor, right: Tensor, *, out_dtype: torch.dtype, out: Tensor) -> Tensor:
        return out.copy_(left.to(out_dtype) @ right.to(out_dtype))

    def rejects(*_: Tensor, **__: object) -> Tensor:
        raise RuntimeError("self and mat2 must have the same dtype, but got Float and BFloat16")

    found = []
    for addmm in (adds, overwrites, rejects):
        monkeypatch.setattr(torch, "addmm", addmm)
        fused._adds_in_float32.cache_clear()
        found.append(fused.sums_in_float32(CUDA))
    assert found == [True, False, False]


@pytest.mark.parametrize("factor_type", [torch.float32, torch.bfloat16])
def test_products_of_a_cpu_are_those_of_float64_within_the_rounding_of_the_factors(factor_type: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, generator=generator).to(factor_type) for size in ((3, 5), (5, 4)))
    total = torch.randn(3, 4, generator=generator)
    expected = left.double() @ right.double()
    written, added = torch.empty(3, 4), total.clone()
    fused.write_product(written, left, right)
    fused.add_product(added, left, right)
    error = {"rtol": 2.0**-8, "atol": 0.0} if factor_type == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(written.double(), expected, **error)
    torch.testing.assert_close((added - total).double(), expected, rtol=error["rtol"], atol=1e-5)


def test_float32_sums_are_not_rounded_to_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    def mm(left: Tensor, right: Tensor, *, out_dtype: torch.dtype, out: Tensor) -> Tensor:
        return out.copy_(left.to(out_dtype) @ right.to(out_dtype))

    def addmm(total: Tensor, left: Tensor, right: Tensor, *, out_dtype: torch.dtype, out: Tensor) -> Tensor:
        return out.copy_(total + left.to(out_dtype) @ right.to(out_dtype))

    monkeypatch.setattr(fused, "sums_in_float32", lambda _device: True)
    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(torch, "addmm", addmm)
    left, right = torch.ones(1, 257).bfloat16(), torch.ones(257, 1).bfloat16()
    written, added = torch.empty(1, 1), torch.ones(1, 1)
    fused.write_product(written, left, right)
    fused.add_product(added, left, right)
    assert [float(written), float(added)] == [257.0, 258.0]  # bfloat16 has no 257
