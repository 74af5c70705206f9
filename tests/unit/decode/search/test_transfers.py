"""Values that are read from a GPU as one tensor keep their shapes, types and exact values."""

from __future__ import annotations

import numpy as np
import torch

from kdmt.decode.search.transfers import pack, to_device, to_host, unpack

TENSORS = (
    torch.tensor([[1, 2**52 + 1], [-3, 0]]),
    torch.tensor([True, False, True]),
    torch.tensor([[0.1, -torch.inf]], dtype=torch.float32),
    torch.empty(0, 3, dtype=torch.int64),
    torch.tensor(torch.nan, dtype=torch.float64),
    torch.tensor([0.5], dtype=torch.bfloat16),
)


def test_packed_values_are_the_tensors() -> None:
    packed = pack(TENSORS)
    assert packed.dtype == torch.float64
    for array, tensor in zip(unpack(packed.numpy(), TENSORS), TENSORS, strict=True):
        assert array.shape == tuple(tensor.shape)
        assert np.array_equal(array, tensor.double().numpy(), equal_nan=True)
    assert [array.dtype.kind for array in unpack(packed.numpy(), TENSORS)] == ["i", "b", "f", "i", "f", "f"]


def test_values_on_a_cpu_are_not_copied() -> None:
    tensor = torch.tensor([1, 2, 3])
    (array,) = to_host(tensor)
    tensor[0] = 7
    assert array.tolist() == [7, 2, 3]
    assert to_host(TENSORS[-1])[0].tolist() == [0.5]
    assert to_device(tensor, "cpu") is tensor
