"""Tests of the number and the choice of positions that glancing shows."""

from __future__ import annotations

import nat_oracles as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.objectives.glancing import glanced


@given(st.integers(0, 500), st.floats(0.0, 1.0))
@settings(max_examples=50, deadline=None)
def test_number_of_shown_positions_follows_the_distance(seed: int, ratio: float) -> None:
    torch.manual_seed(seed)
    wrong, keep = torch.rand(5, 9) < 0.6, torch.arange(9) < torch.tensor([9, 4, 1, 7, 9])[:, None]
    shown = glanced((wrong & keep).sum(1), keep, ratio=ratio)
    assert not (shown & ~keep).any()
    for row in range(5):
        answers = torch.where(wrong[row], 1, 0)[keep[row]].tolist()
        ratio32 = float(torch.tensor(ratio, dtype=torch.float32))
        counts = {
            oracle.glancing_count(answers, [0] * len(answers), each, oracle.hamming_distance)
            for each in (ratio, ratio32)
        }
        assert int(shown[row].sum()) in counts


def test_shown_positions_are_drawn_uniformly() -> None:
    torch.manual_seed(1)
    keep = torch.ones(20_000, 4, dtype=torch.bool)
    shown = glanced(keep.sum(1), keep, ratio=0.5)
    torch.testing.assert_close(shown.float().mean(0), torch.full((4,), 0.5), rtol=0, atol=5 * 0.5 / 20_000**0.5)
