"""A simulated CUDA device: tensors report cuda:0, compute with CPU kernels, and what a GPU would do is counted.

    with simulated_cuda() as device:
        device.counters.reset()
        ...
        print(device.counters.waits)

- Values are real, so that results can be compared with those of the CPU.
- An operation on tensors of both devices raises `DeviceMismatch`, by PyTorch's rules for mixing them.
- Whatever makes the host wait for a GPU is counted with the line of kdmt that requested it, and so are the kernels that
  a GPU would launch. Launches are estimates: most operations count as one, `_LAUNCHES` has the exceptions.
- Random numbers of the device come from a generator of its own, as on a GPU.

It does not show the numerics of CUDA kernels, alignment, memory, real asynchrony, NCCL or compilation. The guard of
`simulated_guard` must be loaded before torch is imported. Only the thread that enters the context has the device.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import simulated_guard
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _foreach_utils as foreach_utils
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

import kdmt

CUDA = torch.device("cuda", 0)
_PACKAGE = str(Path(kdmt.__file__).parent)
_MEMORY = 80 * 10**9
_NOTHING = contextlib.nullcontext()

# Estimated numbers of kernels of the operations that do not launch one: views, memory without values, and others.
_LAUNCHES = {
    **dict.fromkeys(
        ("alias", "as_strided", "chunk", "detach", "diagonal", "expand", "lift", "lift_fresh", "narrow"), 0
    ),
    **dict.fromkeys(("permute", "select", "slice", "split", "split_with_sizes", "squeeze", "squeeze_", "t", "t_"), 0),
    **dict.fromkeys(("transpose", "transpose_", "unbind", "unfold", "unsqueeze", "unsqueeze_", "view"), 0),
    **dict.fromkeys(("_reshape_alias", "_unsafe_view", "is_pinned", "is_same_size", "_local_scalar_dense"), 0),
    **dict.fromkeys(("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"), 0),
    **dict.fromkeys(("sort", "argsort", "nonzero", "masked_select"), 4),
    **dict.fromkeys(("topk", "kthvalue", "masked_scatter", "index_put_", "index_put", "_index_put_impl_"), 3),
    **dict.fromkeys(("cumsum", "cummax", "cummin", "logcumsumexp", "native_layer_norm_backward"), 2),
    **{"logsumexp": 5, "embedding_dense_backward": 6, "_unique2": 8, "unique_dim": 8, "nonzero_static": 3},
    **{"_ctc_loss": 1, "_ctc_loss_backward": 3},
}
# Number of tensors that one launch of a fused operation takes, for 1 to 5 lists of tensors.
_TENSORS_OF_A_LAUNCH = (110, 64, 48, 36, 30)
# Operations whose result has a size, or a value, that the host has to know.
_WAITING = {
    *("nonzero", "masked_select", "_local_scalar_dense", "_unique2", "unique_dim", "unique_consecutive", "equal"),
    *("is_nonzero", "bincount", "allclose", "_is_all_true"),
}
# Operations that take their indices from the CPU, by a copy for which the host waits.
_INDEXING = {"index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index"}
# Operations that take a single number from the CPU, apart from the pointwise ones.
_TAKING_NUMBERS = {"fill", "fill_", "index_fill", "index_fill_", *_INDEXING}
_COPIES = {"_to_copy", "copy_", "copy"}
_METADATA_CHANGES = {"squeeze_", "unsqueeze_", "t_", "transpose_"}
# CUDA's CTC copies the offsets and both lists of lengths from pageable memory, forwards and backwards.
_CTC_COPIES = {"_ctc_loss": 3, "_ctc_loss_backward": 3}


class DeviceMismatch(RuntimeError):
    """An operation on tensors of both devices, which CUDA refuses."""


@dataclass
class Counters:
    """Counts since the last reset.

    Attributes:
        launches: number of kernels.
        waits: number of times that the host waits for the device, by reason and line of kdmt.
        operations: number of kernels by operation.
        lines: number of kernels by line of kdmt.
        attention: number of calls of `scaled_dot_product_attention` by the kernel that PyTorch would choose.
        queued: number of kernels since the beginning, which `reset` keeps.
    """

    launches: int = 0
    waits: collections.Counter[str] = field(default_factory=collections.Counter)
    operations: collections.Counter[str] = field(default_factory=collections.Counter)
    lines: collections.Counter[str] = field(default_factory=collections.Counter)
    attention: collections.Counter[str] = field(default_factory=collections.Counter)
    queued: int = 0

    @property
    def num_waits(self) -> int:
        return sum(self.waits.values())

    def reset(self) -> None:
        self.launches = 0
        for counter in (self.waits, self.operations, self.lines, self.attention):
            counter.clear()

    def wait(self, reason: str, times: int = 1) -> None:
        self.waits[f"{reason} at {calling_line()}"] += times

    def launch(self, operation: str, times: int = 1) -> None:
        self.launches += times
        self.queued += times
        self.operations[operation] += times
        self.lines[calling_line()] += times


def calling_line() -> str:
    """Return the file and the line of kdmt that is running, innermost first; `outside kdmt` if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_PACKAGE):
            return f"kdmt{path[len(_PACKAGE) :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside kdmt"


class CudaTensor(Tensor):
    """A tensor on the simulated device.

    Attributes:
        on_cpu: tensor on the CPU that holds the values.
    """

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> CudaTensor:
        assert type(on_cpu) is Tensor, type(on_cpu)
        # a view of another tensor cannot become an inference tensor afterwards
        with torch.inference_mode(False) if torch.is_inference_mode_enabled() else _NOTHING:
            self: CudaTensor = Tensor._make_wrapper_subclass(
                cls, on_cpu.size(), strides=on_cpu.stride(), dtype=on_cpu.dtype, device=CUDA
            )
        self.on_cpu = on_cpu
        return self

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"CudaTensor({self.on_cpu!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()  # PyTorch refuses it for subclasses

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # PyTorch's annotation leaves out `func`
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        device = SimulatedCuda.current
        if device is None:
            raise RuntimeError(f"{func}: a tensor of the simulated device outside of `simulated_cuda`")
        return device.run(func, args, kwargs or {})


def _real(value: Any) -> Any:
    """Return the tensors on the CPU that hold the values of a tensor or a list; other values unchanged."""
    if isinstance(value, CudaTensor):
        return value.on_cpu
    if type(value) in (list, tuple):
        return type(value)(map(_real, value))
    return value


def _on_device(value: Any) -> Any:
    return CudaTensor(value) if isinstance(value, Tensor) and not isinstance(value, CudaTensor) else value


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among arguments and in lists among them; the arguments of operations nest no deeper."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif type(value) in (list, tuple):
            yield from (each for each in value if isinstance(each, Tensor))


@dataclass(frozen=True)
class _Operation:
    """What the device has to know about an operation.

    Attributes:
        name: name without overload.
        decomposes: whether it consists of other operations, which in inference mode PyTorch leaves to the mode.
        draws: whether it draws random numbers.
        takes_numbers: whether it takes a single number from the CPU.
        written: place and name of each argument that it changes.
    """

    name: str
    decomposes: bool
    draws: bool
    takes_numbers: bool
    written: tuple[tuple[int, str], ...]


@functools.cache
def _operation(func: Any) -> _Operation:
    name = func.overloadpacket.__name__
    pointwise = torch.Tag.pointwise in func.tags
    arguments = enumerate(func._schema.arguments)
    return _Operation(
        name=name,
        decomposes=func._can_decompose(),
        draws=torch.Tag.nondeterministic_seeded in func.tags,
        takes_numbers=pointwise or name.startswith("_foreach_") or name in _TAKING_NUMBERS,
        written=tuple((place, each.name) for place, each in arguments if each.alias_info and each.alias_info.is_write),
    )


class SimulatedCuda(TorchDispatchMode):
    """Runs every operation on tensors of the device. Use it through `simulated_cuda`.

    Attributes:
        counters: counts of waits and launches.
        random_state: state of the device's random numbers.
    """

    current: ClassVar[SimulatedCuda | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.counters = Counters()
        self.random_state = torch.Generator().manual_seed(0).get_state()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation on the device of its tensors, or on the device that it asks for."""
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        device = kwargs.get("device")
        target = None if device is None else torch.device(device).type
        if target != "cuda" and not any(isinstance(each, CudaTensor) for each in tensors):
            return func(*args, **kwargs)
        operation = _operation(func)
        if operation.decomposes:
            with self:
                return func.decompose(*args, **kwargs)
        name = operation.name
        if name in _COPIES:
            return self._copy(func, name, args, kwargs, target)
        self._check_devices(func, operation, args, tensors, kwargs.get("generator"))
        self._count_waits(func, name, args, kwargs)
        launches = _num_launches(name, args)
        if launches:
            self.counters.launch(name, launches)
        result = self._compute(func, operation, args, kwargs)
        if name in _METADATA_CHANGES:
            with no_dispatch():
                func(*args, **kwargs)
        return result if target == "cpu" or name == "_local_scalar_dense" else _outputs(operation, args, kwargs, result)

    def _compute(self, func: Any, operation: _Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = _real(args), {name: _real(value) for name, value in kwargs.items()}
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        kwargs.pop("pin_memory", None)
        if not operation.draws or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        with self.drawing():
            return func(*args, **kwargs)

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw random numbers of the device in the body."""
        of_cpu = torch.get_rng_state()
        torch.set_rng_state(self.random_state)
        try:
            yield
        finally:
            self.random_state = torch.get_rng_state()
            torch.set_rng_state(of_cpu)

    def _check_devices(
        self,
        func: Any,
        operation: _Operation,
        args: tuple[Any, ...],
        tensors: Sequence[Tensor],
        generator: torch.Generator | None,
    ) -> None:
        """Check that no tensor is on the CPU, apart from indices, and from single numbers for pointwise operations."""
        if generator is not None and generator.device.type == "cpu":
            raise DeviceMismatch(f"{func}: a CPU generator for a tensor on cuda:0 at {calling_line()}")
        name = operation.name
        for tensor in tensors:
            if isinstance(tensor, CudaTensor) or (tensor.dim() == 0 and operation.takes_numbers):
                continue
            if name in _INDEXING and isinstance(args[0], CudaTensor) and any(tensor is index for index in args[1]):
                self.counters.wait(f"copy of an index from the CPU ({name})")
                continue
            shape = tuple(tensor.shape)
            raise DeviceMismatch(f"{func}: tensors on cuda:0 and on the CPU, of shape {shape}, at {calling_line()}")

    def _count_waits(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name in _WAITING:
            self.counters.wait(name)
        elif name in _INDEXING and _selects_by_mask(name, args):
            self.counters.wait(f"{name} by a mask")
            self.counters.launch("nonzero", 3)
        elif name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.counters.wait("repeat_interleave without output_size")
        elif name in _CTC_COPIES:
            self.counters.wait(f"copies of lengths ({name})", _CTC_COPIES[name])
            if func._overloadname == "Tensor":
                self.counters.wait(f"lengths on the device ({name})", 2)

    # ---------------------------------------------------------------------------------- copies between the devices

    def _copy(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], target: str | None) -> Any:
        if name == "_to_copy":
            source = args[0]
            goes_to_device = target == "cuda" or (target is None and isinstance(source, CudaTensor))
            self._count_copy(source, goes_to_device, pinned=True, non_blocking=kwargs.get("non_blocking", False))
            kwargs = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking")}
            result = func(_real(source), **kwargs)
            result = result.clone() if result is _real(source) else result
            return CudaTensor(result) if goes_to_device else result
        destination, source = args[:2]
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        pinned = isinstance(destination, CudaTensor) or destination.is_pinned()
        self._count_copy(source, isinstance(destination, CudaTensor), pinned=pinned, non_blocking=non_blocking)
        result = func(_real(destination), _real(source))
        return destination if name == "copy_" else _on_device(result)

    def _count_copy(self, source: Tensor, goes_to_device: bool, *, pinned: bool, non_blocking: bool) -> None:
        """Count a copy.

        Args:
            pinned: whether the memory of the destination is pinned, for a copy from the device.
        """
        if isinstance(source, CudaTensor):
            if goes_to_device:
                self.counters.launch("copy")
            elif not (pinned and non_blocking):
                self.counters.wait("copy to the CPU")
        elif goes_to_device and not (non_blocking and source.is_pinned()):
            self.counters.wait("copy from pageable memory" if non_blocking else "blocking copy from the CPU")


def _selects_by_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Return whether an index has a mask, so that the host has to know its sum; a filled mask is a `masked_fill`."""
    indices = [index for index in args[1] if isinstance(index, Tensor)]
    if not any(index.dtype in (torch.bool, torch.uint8) for index in indices):
        return False
    fills = "put" in name and args[2].numel() == 1 and len(indices) == 1
    return not fills


def _num_launches(name: str, args: tuple[Any, ...]) -> int:
    if not name.startswith(("_foreach_", "_fused_adam", "_amp_foreach_")):
        return _LAUNCHES.get(name, 1)
    lists = [each for each in args if isinstance(each, (list, tuple)) and each and isinstance(each[0], Tensor)]
    depth = min(len(lists) + (not name.endswith("_")), len(_TENSORS_OF_A_LAUNCH))
    times = -(-len(lists[0]) // _TENSORS_OF_A_LAUNCH[depth - 1]) if lists else 1
    return times + (name == "_foreach_norm")


def _outputs(operation: _Operation, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
    """Return the result on the device; what an operation changes in place is the tensor that it was given."""
    given: dict[int, CudaTensor] = {}
    for place, argument in operation.written:
        value = args[place] if place < len(args) else kwargs.get(argument)
        given |= {id(each.on_cpu): each for each in _tensors([value]) if isinstance(each, CudaTensor)}

    def output(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(output, value))
        return given[id(value)] if id(value) in given else _on_device(value)

    return output(result)


# ------------------------------------------------------------------------------------------------------- attention


class _Attention(torch.autograd.Function):
    """Attention as one operation of the device. The backward pass runs through the graph of the CPU's operations."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        ctx.inputs = [_real(each).detach().requires_grad_() for each in (query, key, value)]
        with torch.enable_grad():
            ctx.output = _cpu_attention(*ctx.inputs, **options)
        return CudaTensor(ctx.output.detach())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        device = SimulatedCuda.current
        assert device is not None
        device.counters.launch("attention_backward", 3)
        found = torch.autograd.grad(ctx.output, ctx.inputs, _real(grads[0]), retain_graph=True)
        return (*map(CudaTensor, found), None)


_cpu_attention = F.scaled_dot_product_attention


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **others: Any,
) -> Tensor:
    """Replace `scaled_dot_product_attention`, which asks CUDA for the kernel to use."""
    device = SimulatedCuda.current
    given = [each for each in (query, key, value, attn_mask) if each is not None]
    if device is None or not any(isinstance(each, CudaTensor) for each in given):
        return _cpu_attention(query, key, value, attn_mask, dropout_p, is_causal, **others)
    if not all(isinstance(each, CudaTensor) for each in given):
        raise DeviceMismatch(f"attention: tensors on cuda:0 and on the CPU at {calling_line()}")
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        query, key, value = (each.to(dtype) for each in (query, key, value))
    if len({each.dtype for each in (query, key, value)}) > 1:
        raise RuntimeError(f"attention: query, key and value differ in type at {calling_line()}")
    half = query.dtype in (torch.bfloat16, torch.float16)
    kernel = "flash" if half and attn_mask is None else "memory-efficient"
    device.counters.attention[f"{kernel}, {query.dtype}"] += 1
    device.counters.launch("attention", 1 if attn_mask is None else 3)
    options = {"attn_mask": _real(attn_mask), "dropout_p": dropout_p, "is_causal": is_causal, **others}
    with device.drawing() if dropout_p else contextlib.nullcontext():
        if torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value)):
            return _Attention.apply(query, key, value, options)
        return CudaTensor(_cpu_attention(_real(query), _real(key), _real(value), **options))


# ---------------------------------------------------------------------------------------- functions of torch.cuda


class _Event:
    """An event of the device. The host waits for it unless more work was queued since it was recorded."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.queued: int | None = None  # number of kernels that were queued before the event

    def record(self, stream: Any = None) -> None:  # noqa: ARG002
        assert SimulatedCuda.current is not None
        self.queued = SimulatedCuda.current.counters.queued

    def query(self) -> bool:
        return True

    def wait(self, stream: Any = None) -> None:
        """Let a stream wait, not the host."""

    def synchronize(self) -> None:
        assert SimulatedCuda.current is not None
        counters = SimulatedCuda.current.counters
        if self.queued == counters.queued:
            counters.wait("synchronize of an event without work after it")

    def elapsed_time(self, other: Any) -> float:  # noqa: ARG002
        return 1.0


class _Stream(contextlib.nullcontext[None]):
    """The only stream of the device."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def synchronize(self) -> None:
        assert SimulatedCuda.current is not None
        SimulatedCuda.current.counters.wait("synchronize")

    def wait_stream(self, other: Any) -> None:
        """Let this stream wait, not the host."""

    wait_event = wait_stream

    def record_event(self, event: Any = None) -> Any:
        event = event or _Event()
        event.record()
        return event


def _functions_of_cuda(device: SimulatedCuda) -> dict[str, Callable[..., Any]]:
    """Return the functions of `torch.cuda` that the device has; all others fail without CUDA."""

    def set_random_state(state: Tensor, *_: Any) -> None:
        device.random_state = state.clone()

    def seed(number: int) -> None:
        device.random_state = torch.Generator().manual_seed(number).get_state()

    properties = SimpleNamespace(
        name="Simulated H100", major=9, minor=0, total_memory=_MEMORY, multi_processor_count=132
    )
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "get_device_name": lambda *_: "NVIDIA H100 80GB HBM3",
        "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: properties,
        "mem_get_info": lambda *_: (_MEMORY, _MEMORY),
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "max_memory_reserved": lambda *_: 0,
        "memory_reserved": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
        "synchronize": lambda *_: device.counters.wait("synchronize"),
        "get_rng_state": lambda *_: device.random_state.clone(),
        "set_rng_state": set_random_state,
        "manual_seed": seed,
        "manual_seed_all": seed,
        "Event": _Event,
        "Stream": _Stream,
        "current_stream": lambda *_: _Stream(),
        "default_stream": lambda *_: _Stream(),
        "stream": lambda stream: stream or contextlib.nullcontext(),
    }


@contextlib.contextmanager
def simulated_cuda() -> Iterator[SimulatedCuda]:
    """Provide the simulated device in the body; every function of PyTorch that it replaces is restored at the end."""
    if not simulated_guard.is_loaded():
        raise RuntimeError("the simulated device needs simulated_guard.load_guard() before torch is imported")
    if SimulatedCuda.current is not None:
        raise RuntimeError("there is one simulated device")
    device = SimulatedCuda()
    lifts = torch._C._only_lift_cpu_tensors()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        for name, function in _functions_of_cuda(device).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", _attention))
        for module in (foreach_utils, importlib.import_module("torch.optim.optimizer")):
            types = [Tensor, torch.nn.Parameter, CudaTensor]
            stack.enter_context(mock.patch.object(module, "_foreach_supported_types", types))
        # `torch.tensor(..., device="cuda")` builds the tensor on the CPU; module.to() keeps parameters that are shared
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # threads do not inherit the mode
        stack.enter_context(mock.patch.object(SimulatedCuda, "current", device))
        stack.enter_context(device)
        yield device
