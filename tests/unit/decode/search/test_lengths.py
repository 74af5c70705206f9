"""Tests of lengths and of length normalisation of scores."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from kdmt.decode.search.lengths import normalized_score


@pytest.mark.parametrize("length", [1, 2, 7, 1000, 100_000])
@pytest.mark.parametrize("lenpen", [0.0, 0.6, 1.0, -1.0, 100.0, -100.0, 1000.0, -1000.0])
@pytest.mark.parametrize("total", [0.0, -1e-3, -5.0, -1e5])
def test_normalized_score_equals_the_exact_quotient_or_its_limit(length: int, lenpen: float, total: float) -> None:
    """Compare with decimal numbers, which do not overflow here; quotients beyond the range of floats are 0 or -inf."""
    exact = Decimal(total) / Decimal(length) ** Decimal(lenpen)
    score = normalized_score(total, length, lenpen)
    if not exact or abs(exact) < Decimal("1e-300"):
        assert score == pytest.approx(0.0, abs=1e-299)
    elif abs(exact) > Decimal("1.8e308"):
        assert score == -math.inf
    else:
        assert score == pytest.approx(float(exact), rel=1e-9)
