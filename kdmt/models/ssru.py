"""Simpler simple recurrent unit (SSRU; Kim et al. 2019), which replaces self-attention in a decoder.

In training all positions are computed at once by a scan; in decoding the unit needs one vector for each row.

Shapes: B batch, T target length, D model width, N rows in decoding, or positions of a packed row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdmt.models.attention import at_least_float32
from kdmt.models.packed_attention import pack_sentences, unpack_sentences
from kdmt.types import Packing


class SSRU(nn.Module):
    """Recurrent unit without products of its state and a matrix.

        f_t = sigmoid(W_f x_t + b_f)
        c_t = f_t * c_{t-1} + (1 - f_t) * W x_t,   c_0 = 0
        output relu(c_t)

    States are at least float32, since bfloat16 rounds a gate near 1 to 1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.state_proj = nn.Linear(dim, dim, bias=False)  # W
        self.gate_proj = nn.Linear(dim, dim)  # W_f and b_f
        nn.init.xavier_uniform_(self.state_proj.weight)
        nn.init.xavier_uniform_(self.gate_proj.weight)
        nn.init.zeros_(self.gate_proj.bias)

    def forward(self, x_BTD: Tensor, packing: Packing | None = None) -> Tensor:
        """Return the output at each position, computed from the inputs up to it: [B, T, D].

        In packed rows ([1, N, D]) `packing` has the limits of the sentences.
        """
        gate_BTD, new_BTD = self._gate_and_new(x_BTD)
        return _scan(gate_BTD, new_BTD, packing).relu()

    def first_state(self, num_rows: int, like: Tensor) -> Tensor:
        """Return the states before the first position, [N, D], on the device of a tensor."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return torch.zeros(num_rows, self.state_proj.out_features, dtype=dtype, device=like.device)

    def step(self, x_ND: Tensor, state_ND: Tensor) -> Tensor:
        """Return the output at the next position, [N, D], and update the states in place."""
        gate_ND, new_ND = self._gate_and_new(x_ND)
        torch.addcmul(new_ND, gate_ND, state_ND, out=state_ND)
        return state_ND.relu()

    def _gate_and_new(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return f and (1 - f) * W x."""
        gate_BTD = at_least_float32(self.gate_proj(x_BTD)).sigmoid()
        return gate_BTD, (1.0 - gate_BTD) * at_least_float32(self.state_proj(x_BTD))


def linear_scan(decay_BTD: Tensor, input_BTD: Tensor, packing: Packing | None = None) -> Tensor:
    """Return h_t = a_t * h_{t-1} + b_t, with h_t = b_t at the first position, for all positions t: [B, T, D].

    On a CPU the positions are computed one after the other, which reads each number once. On a GPU they are computed in
    log2(T) rounds (Hillis and Steele 1986), each of which doubles the number of inputs that a state depends on.

    Args:
        decay_BTD: a.
        input_BTD: b, of the same type.
        packing: limits of the sentences of packed rows, [1, N, D].
    """
    if packing is None:
        return _apply(decay_BTD, input_BTD, input_BTD.size(1))
    if _runs_in_order(input_BTD):
        decay_BTD, new_BTD = (unpack_sentences(each[0, :, None], packing)[:, 0] for each in (decay_BTD, input_BTD))
        states_BTD = _apply(decay_BTD, new_BTD, packing.longest)
        return pack_sentences(states_BTD[:, None], packing, input_BTD.size(1))[None, :, 0]
    first_N1 = packing.position_N.eq(0)[:, None]
    return _apply(decay_BTD.masked_fill(first_N1, 0.0), input_BTD, packing.longest)


def _apply(decay_BTD: Tensor, input_BTD: Tensor, longest: int) -> Tensor:
    """Return the states; each depends on at most `longest` inputs."""
    states_BTD = _Scan.apply(decay_BTD, input_BTD, longest)
    assert isinstance(states_BTD, Tensor)
    return states_BTD


_scan: Callable[[Tensor, Tensor, Packing | None], Tensor] = linear_scan  # replaced by `leave_scan_uncompiled`


@cache
def leave_scan_uncompiled() -> None:
    """Keep the scan out of compiled layers, since its number of operations depends on the length.

    This is called before layers are compiled; as a decorator it would load the modules of `torch.compile` always.
    """
    global _scan  # compiled layers read it
    _scan = torch.compiler.disable(linear_scan)


class _Scan(torch.autograd.Function):
    """The gradient g_t of b_t is the one of h_t plus a_{t+1} * g_{t+1}: a scan from the last position to the first."""

    @staticmethod
    def forward(ctx: Any, decay_BTD: Tensor, input_BTD: Tensor, longest: int) -> Tensor:
        if _runs_in_order(input_BTD):
            states_BTD = torch.empty_like(input_BTD)
            _accumulate(decay_BTD.unbind(1), input_BTD.unbind(1), states_BTD.unbind(1))
        else:
            states_BTD = _double(decay_BTD, input_BTD, longest)
        ctx.save_for_backward(decay_BTD, states_BTD)
        ctx.longest = longest
        return states_BTD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor, Tensor, None]:
        decay_BTD, states_BTD = ctx.saved_tensors
        if _runs_in_order(grad_BTD):
            found_BTD = torch.empty_like(states_BTD)
            after = (torch.zeros_like(decay_BTD[:, 0]), *decay_BTD.unbind(1)[:0:-1])
            _accumulate(after, grad_BTD.unbind(1)[::-1], found_BTD.unbind(1)[::-1])
        else:
            after_BTD = F.pad(decay_BTD[:, 1:], (0, 0, 0, 1))
            found_BTD = _double(after_BTD.flip(1), grad_BTD.flip(1), ctx.longest).flip(1)
        decay_grad_BTD = F.pad(found_BTD[:, 1:] * states_BTD[:, :-1], (0, 0, 1, 0))
        return decay_grad_BTD, found_BTD, None


def _runs_in_order(x_BTD: Tensor) -> bool:
    """Return whether the positions are computed one after the other."""
    return x_BTD.device.type == "cpu"


def _accumulate(decays: Sequence[Tensor], inputs: Sequence[Tensor], states: Sequence[Tensor]) -> None:
    """Write h_t = a_t * h_{t-1} + b_t into the states, one position after the other."""
    states[0].copy_(inputs[0])
    for before, decay, new, state in zip(states, decays[1:], inputs[1:], states[1:], strict=False):
        torch.addcmul(new, decay, before, out=state)


def _double(decay_BTD: Tensor, input_BTD: Tensor, longest: int) -> Tensor:
    """Return the states; after each round they depend on twice as many inputs."""
    states_BTD, reach = input_BTD, 1
    while reach < longest:
        longer_BTD = torch.empty_like(states_BTD)
        longer_BTD[:, :reach] = states_BTD[:, :reach]
        decays_BTD = decay_BTD[:, reach:]
        torch.addcmul(states_BTD[:, reach:], decays_BTD, states_BTD[:, :-reach], out=longer_BTD[:, reach:])
        states_BTD = longer_BTD
        decay_BTD = F.pad(decays_BTD * decay_BTD[:, :-reach], (0, 0, reach, 0))  # the first ones are not read again
        reach *= 2
    return states_BTD
