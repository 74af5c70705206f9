"""Tests of the number and the choice of positions that glancing shows."""

from __future__ import annotations

import nat_oracles as oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.choices import GlancingRounding
from kdmt.objectives.glancing import Glance, glanced, random_state, repeated


@given(st.integers(0, 500), st.floats(0.0, 1.0))
@settings(max_examples=30, deadline=None)
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


@pytest.mark.parametrize(("rounding", "expected"), [("truncate", [0, 0, 1, 1, 2]), ("round", [0, 1, 1, 2, 2])])
def test_number_of_shown_positions_is_rounded_as_requested(rounding: GlancingRounding, expected: list[int]) -> None:
    """No error to four errors, times 0.5: a half is rounded up, or down by truncation."""
    keep = torch.ones(5, 6, dtype=torch.bool)
    glance = Glance([(0, 0.5)], rounding=rounding)
    assert glance.shown(torch.arange(5), keep, ratio=0.5).sum(1).tolist() == expected


def test_few_errors_are_shown_by_rounding_only() -> None:
    """At a ratio of 0.1 truncation shows nothing of a sentence with fewer than ten errors."""
    keep, wrong = torch.ones(12, 12, dtype=torch.bool), torch.arange(12)
    roundings: tuple[GlancingRounding, ...] = ("truncate", "round")
    numbers = [glanced(wrong, keep, ratio=0.1, rounding=each).sum(1).tolist() for each in roundings]
    assert numbers == [[0] * 10 + [1, 1], [0] * 5 + [1] * 7]


def test_bernoulli_draw_has_the_rate_of_each_sentence() -> None:
    """Each position is drawn independently with the probability ratio * errors / positions; others never."""
    torch.manual_seed(1)
    rows, errors, lengths = 20_000, torch.tensor([0, 2, 5, 8]), torch.tensor([8, 4, 8, 8])
    keep = torch.arange(8) < lengths[:, None].repeat(rows, 1)
    shown = Glance([(0, 0.4)], draw="bernoulli").shown(errors.repeat(rows), keep, ratio=0.4)
    assert not (shown & ~keep).any()
    of_sentence = shown.view(rows, 4, 8)
    for row, (wrong, length) in enumerate(zip(errors.tolist(), lengths.tolist(), strict=True)):
        rate = 0.4 * wrong / length
        bound = 5 * (rate * (1 - rate) / rows) ** 0.5
        found = of_sentence[:, row, :length].double()
        torch.testing.assert_close(found.mean(0), torch.full((length,), rate).double(), rtol=0, atol=bound + 1e-6)
        numbers = found.sum(1)
        variance = length * rate * (1 - rate)  # of a binomial distribution; an exact draw has none
        assert float(numbers.var()) == pytest.approx(variance, rel=0.06, abs=1e-9)


def test_repeated_random_numbers_leave_the_generator_where_it_was() -> None:
    cpu = torch.device("cpu")
    torch.manual_seed(5)
    state = random_state(cpu)
    first, second = torch.rand(4), torch.rand(4)
    with repeated(state, cpu):
        assert torch.equal(torch.rand(4), first)
    after = torch.rand(4)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(12), torch.cat([first, second, after]))
    with repeated(None, cpu):
        other = torch.rand(4)
    assert not torch.equal(other, first)
