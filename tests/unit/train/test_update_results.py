"""Results of an update that are read one update later."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from kdmt.train.update_results import HostCopy, UnreadUpdate, is_unusable

VALUES = (0.0, 2.5, math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("explosion_norm", [0.0, 2.0, 3.0])
def test_unusable_updates_are_those_that_python_finds(explosion_norm: float) -> None:
    for loss, nll, norm in itertools.product(VALUES, repeat=3):
        finite = all(map(math.isfinite, (loss, nll, norm)))
        expected = not finite or bool(explosion_norm and norm > explosion_norm)
        found = is_unusable(torch.tensor([loss, nll, norm], dtype=torch.float64), explosion_norm=explosion_norm)
        assert (found.dtype, found.shape, float(found)) == (torch.float32, (), float(expected))


def test_figures_come_back_by_name_without_rounding() -> None:
    figures = torch.tensor([1 / 3, 1e300, 0.1], dtype=torch.float64)
    unread = UnreadUpdate(
        update=7, epoch=2, batch=3, lr=0.1, counts={"loss": 2.0, "nll": 2.0}, figures=HostCopy(figures), speed=None
    )
    assert unread.read() == ({"loss": 1 / 3, "nll": 1e300}, 0.1)
    assert unread.place == "update 7 (epoch 2, batch 3)"
