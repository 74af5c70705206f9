"""Tests of pools of candidates: order, counts of draws, progress."""

from __future__ import annotations

import pytest

from kdmt.config import Decode, Pool
from kdmt.distill.pool import beam_of, merged, pooled
from kdmt.types import Hypothesis


def hypothesis(*tokens: int, score: float = -1.0) -> Hypothesis:
    return Hypothesis(tokens, score, (score,))


def test_hypotheses_of_the_beam_come_first_then_the_most_often_drawn_samples() -> None:
    best = [hypothesis(5, score=-0.1), hypothesis(6, 7, score=-0.2)]
    samples = [hypothesis(*tokens, score=score) for tokens, score in [((8,), -3.0), ((6, 7), -0.2), ((9,), -2.0)]]
    samples += [hypothesis(4, score=-9.0), hypothesis(6, 7, score=-0.2), hypothesis(4, score=-9.0)]
    found = merged(best, samples)
    assert [(each.tokens, each.draws) for each in found] == [((5,), 0), ((6, 7), 2), ((4,), 2), ((9,), 1), ((8,), 1)]
    assert [each.score for each in found] == [-0.1, -0.2, -9.0, -2.0, -3.0]


def test_the_order_does_not_depend_on_the_order_of_equal_samples() -> None:
    samples = [hypothesis(4), hypothesis(5), hypothesis(6)]
    assert merged([], samples) == merged([], samples[::-1])


@pytest.mark.parametrize(("pool", "counted"), [(Pool(), "draw"), (Pool(samples=0), "search"), (Pool(beam=0), "draw")])
def test_each_source_is_counted_once(pool: Pool, counted: str) -> None:
    done: list[int] = []

    def work(progress: object) -> list[list[Hypothesis]]:
        assert callable(progress)
        progress(2)
        return [[hypothesis(4)], [hypothesis(5)]]

    def not_wanted(_: object) -> list[list[Hypothesis]]:
        raise AssertionError

    found = pooled(
        2,
        pool,
        search=work if pool.beam else not_wanted,
        draw=work if pool.samples else not_wanted,
        progress=done.append,
    )
    assert sum(done) == 2, counted
    assert [[each.tokens for each in own] for own in found] == [[(4,)], [(5,)]]


def test_the_beam_of_a_pool_keeps_the_other_settings() -> None:
    assert beam_of(Decode(beam=9, lenpen=0.6), Pool(beam=3)) == Decode(beam=3, nbest=3, lenpen=0.6)
