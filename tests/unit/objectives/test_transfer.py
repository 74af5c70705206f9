"""Indices of masks, and copies of the values at them, against boolean indexing; batches are prepared on the host."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from copy_task import nat_objective
from small_nat import batch_of, small

from kdmt.families import FAMILIES, FamilyName
from kdmt.objectives.transfer import copied, indices_of, picked, put_back

CPU = torch.device("cpu")


def test_values_at_the_indices_of_a_mask_are_those_of_boolean_indexing() -> None:
    torch.manual_seed(1)
    values, mask = torch.randn(3, 5, 2, requires_grad=True), torch.rand(3, 5) < 0.5
    index = indices_of(mask, CPU)
    assert torch.equal(picked(values, index), values[mask])
    assert indices_of(torch.zeros(2, 3, dtype=torch.bool), CPU).tolist() == []
    factors = torch.randn(len(index), 2)
    found, expected = (
        torch.autograd.grad((each * factors).sum(), values)[0] for each in (picked(values, index), values[mask])
    )
    assert torch.equal(found, expected)


def test_values_are_put_back_at_the_indices_of_a_mask() -> None:
    torch.manual_seed(2)
    values, mask = torch.randn(3, 5, 2), torch.rand(3, 5) < 0.5
    others = torch.randn(int(mask.sum()), 2, requires_grad=True)
    found = put_back(values, indices_of(mask, CPU), others)
    expected = values.masked_scatter(mask[:, :, None], others)
    assert torch.equal(found, expected)
    factors = torch.randn(3, 5, 2)
    assert torch.equal(*(torch.autograd.grad((each * factors).sum(), others)[0] for each in (found, expected)))


def test_on_a_cpu_nothing_is_copied() -> None:
    values = torch.arange(3)
    assert copied(values, CPU) is values


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_counts_are_known_without_the_values_on_the_device(tmp_path: Path, family: FamilyName, training: bool) -> None:
    """Tensors on the meta device have no values, so that reading one from the device is an error."""
    objective, batch = nat_objective(small(family)).train(training), batch_of(tmp_path)
    found = []
    for each in (batch, batch.to("meta")):
        torch.manual_seed(1)
        found.append(objective.counts(objective.prepare(each)))
    assert found[0] == found[1]
