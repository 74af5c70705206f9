"""The simulated device refuses what a GPU refuses, counts what a GPU does, and leaves PyTorch as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import simulated_guard
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdmt.losses.cross_entropy import token_nll

if simulated_guard.is_loaded():
    from simulated_cuda import DeviceMismatch, SimulatedCuda, simulated_cuda
else:
    pytest.skip("the simulated device is not used here", allow_module_level=True)

CUDA = torch.device("cuda:0")


@pytest.fixture
def device(cuda: torch.device) -> SimulatedCuda:  # noqa: ARG001
    assert SimulatedCuda.current is not None
    return SimulatedCuda.current


def test_values_are_those_of_the_cpu(device: SimulatedCuda) -> None:  # noqa: ARG001
    x = torch.arange(6.0).view(2, 3)
    y = x.to(CUDA)
    assert y.device == CUDA
    assert y.is_cuda
    assert (y.t() @ y).softmax(0).tolist() == (x.t() @ x).softmax(0).tolist()
    y[:, 1] = 5.0  # through a view
    assert y.tolist() == [[0.0, 5.0, 2.0], [3.0, 5.0, 5.0]]
    assert x.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda gpu, cpu: gpu + cpu,
    "product": lambda gpu, cpu: gpu @ cpu,
    "index of the CPU in gather": lambda gpu, cpu: gpu.gather(0, cpu.long()),
    "tensor of the CPU with an index of the GPU": lambda gpu, cpu: cpu[gpu.long()],
    "concatenation": lambda gpu, cpu: torch.cat([gpu, cpu]),
    "in place": lambda gpu, cpu: cpu.add_(gpu),
    "embedding": lambda gpu, cpu: F.embedding(cpu.long(), gpu),
    "attention": lambda gpu, cpu: F.scaled_dot_product_attention(gpu[None], cpu[None], gpu[None]),
    "single number in a product": lambda gpu, cpu: torch.mm(gpu, cpu.sum()),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices_are_refused(name: str, device: SimulatedCuda) -> None:  # noqa: ARG001
    with pytest.raises(DeviceMismatch):
        MIXED[name](torch.ones(2, 2, device=CUDA), torch.ones(2, 2))


def test_single_numbers_of_the_cpu_are_taken(device: SimulatedCuda) -> None:
    x = torch.ones(2, 2, device=CUDA)
    device.counters.reset()
    assert (x * torch.tensor(3.0)).device == CUDA
    x[0] = 2.0
    assert device.counters.num_waits == 0


def test_model_keeps_its_shared_parameters_on_both_devices(device: SimulatedCuda) -> None:  # noqa: ARG001
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    for place in (CUDA, torch.device("cpu")):
        model.to(place)
        assert model[1].weight is model[0].weight
        assert model[0].weight.device == place
        assert isinstance(model[0].weight, nn.Parameter)


WAITS: dict[str, tuple[int, Callable[[Tensor], object]]] = {
    "item": (1, lambda x: float(x.sum())),
    "tolist": (1, lambda x: x.tolist()),
    "cpu": (1, lambda x: x.cpu()),
    "comparison in a condition": (1, lambda x: bool((x > 0).any())),
    "nonzero": (1, lambda x: x.nonzero()),
    "choice by a mask": (1, lambda x: x[x > 0]),
    "assignment of a number by a mask": (0, lambda x: x.masked_fill(x > 0, 1.0)),
    "masked_select": (1, lambda x: x.masked_select(x > 0)),
    "nonzero_static": (0, lambda x: x.nonzero_static(size=4)),
    "repeat_interleave": (1, lambda x: x.flatten().repeat_interleave(torch.ones_like(x.flatten()).long())),
    "repeat_interleave of a known size": (
        0,
        lambda x: x.flatten().repeat_interleave(torch.ones_like(x.flatten()).long(), output_size=4),
    ),
    "new tensor": (1, lambda _: torch.tensor([1.0, 2.0], device=CUDA)),
    "constant": (0, lambda _: torch.full((2,), 3.0, device=CUDA)),
    "copy from pageable memory": (1, lambda _: torch.ones(2).to(CUDA, non_blocking=True)),
    "copy from pinned memory": (0, lambda _: torch.ones(2).pin_memory().to(CUDA, non_blocking=True)),
    "blocking copy from pinned memory": (1, lambda _: torch.ones(2).pin_memory().to(CUDA)),
    "copy to pinned memory": (0, lambda x: torch.empty(2, 2).pin_memory().copy_(x, non_blocking=True)),
    "index of the CPU": (1, lambda x: x[torch.tensor([0])]),
    "sum": (0, lambda x: x.sum()),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_counted(name: str, device: SimulatedCuda) -> None:
    expected, work = WAITS[name]
    x = torch.ones(2, 2, device=CUDA)
    device.counters.reset()
    work(x)
    assert device.counters.num_waits == expected, device.counters.waits


def test_event_of_earlier_work_is_no_wait(device: SimulatedCuda) -> None:
    x = torch.ones(2, device=CUDA)
    event = torch.cuda.Event()
    event.record()
    x += 1
    device.counters.reset()
    event.synchronize()
    assert device.counters.num_waits == 0
    event.record()
    event.synchronize()
    assert device.counters.num_waits == 1


def test_launches_are_counted(device: SimulatedCuda) -> None:
    x = torch.ones(4, 4, device=CUDA)
    device.counters.reset()
    (x.view(2, 8).t() + 1).relu()
    assert dict(device.counters.operations) == {"add": 1, "relu": 1}
    layer = nn.Linear(4, 4).to(CUDA)
    loss = layer(x).sum()
    device.counters.reset()
    loss.backward()
    assert device.counters.operations["mm"] == 1  # the gradient of the weight


def test_waits_have_the_line_of_kdmt(device: SimulatedCuda) -> None:
    features_MD, weight_VD = torch.ones(2, 4, device=CUDA), torch.ones(5, 4, device=CUDA)
    targets_M = torch.ones(2, dtype=torch.long, device=CUDA)
    device.counters.reset()
    token_nll(features_MD, weight_VD, targets_M)
    assert device.counters.launches > 0
    assert {line.split(":")[0] for line in device.counters.lines} == {"kdmt/losses/cross_entropy.py"}
    x = torch.ones(2, device=CUDA)
    x.tolist()
    assert list(device.counters.waits) == ["copy to the CPU at outside kdmt"]


def test_random_numbers_of_the_device_are_its_own(device: SimulatedCuda) -> None:  # noqa: ARG001
    torch.manual_seed(3)
    of_cpu, of_device = torch.get_rng_state(), torch.cuda.get_rng_state()
    first = F.dropout(torch.ones(50, device=CUDA), 0.5).tolist()
    assert torch.equal(torch.get_rng_state(), of_cpu)
    assert F.dropout(torch.ones(50, device=CUDA), 0.5).tolist() != first
    torch.cuda.set_rng_state(of_device)
    assert F.dropout(torch.ones(50, device=CUDA), 0.5).tolist() == first
    with pytest.raises(DeviceMismatch):
        torch.rand(2, device=CUDA, generator=torch.Generator())


@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_its_gradients_are_those_of_the_cpu(masked: bool, device: SimulatedCuda) -> None:  # noqa: ARG001
    torch.manual_seed(1)
    inputs = [torch.randn(2, 2, 4, 8) for _ in range(3)]
    mask = torch.tensor([[True, True, False, False], [True] * 4])[:, None, None, :] if masked else None
    found = []
    for place in ("cpu", "cuda"):
        own = [each.clone().to(place).requires_grad_() for each in inputs]
        own_mask = None if mask is None else mask.to(place)
        output = F.scaled_dot_product_attention(*own, attn_mask=own_mask)
        output.square().sum().backward()
        found.append([output.detach().cpu(), *(each.grad.cpu() for each in own if each.grad is not None)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_autocast_computes_products_in_bf16(device: SimulatedCuda) -> None:  # noqa: ARG001
    layer, x = nn.Linear(4, 4).to(CUDA), torch.ones(2, 4, device=CUDA)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert x.softmax(-1).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.float32


def test_pytorch_is_as_before_at_the_end() -> None:
    names = ("is_available", "_lazy_init", "device_count", "get_rng_state", "manual_seed_all", "Event", "synchronize")
    before = [getattr(torch.cuda, name) for name in names]
    attention, types = F.scaled_dot_product_attention, list(torch.utils._foreach_utils._foreach_supported_types)
    flags = (torch._C._only_lift_cpu_tensors(), torch.__future__.get_swap_module_params_on_conversion())

    def fail_on_the_device() -> None:
        with simulated_cuda():
            assert torch.cuda.is_available()
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail_on_the_device()
    assert [getattr(torch.cuda, name) for name in names] == before
    assert not torch.cuda.is_available()
    assert F.scaled_dot_product_attention is attention
    assert list(torch.utils._foreach_utils._foreach_supported_types) == types
    assert (torch._C._only_lift_cpu_tensors(), torch.__future__.get_swap_module_params_on_conversion()) == flags
    assert SimulatedCuda.current is None
    assert torch.ones(2).add(1).tolist() == [2.0, 2.0]
