"""Lengths and what scores are divided by."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from kdmt.decode.search.lengths import normalized_score


@pytest.mark.parametrize("length", [1, 2, 7, 1000, 100_000])
@pytest.mark.parametrize("lenpen", [0.0, 0.6, 1.0, -1.0, 100.0, -100.0, 1000.0, -1000.0])
@pytest.mark.parametrize("total", [0.0, -1e-3, -5.0, -1e5])
def test_the_quotient_or_its_limit(length: int, lenpen: float, total: float) -> None:
    """Against decimal numbers, whose exponents have no bound here; what no float can hold is 0 or -inf."""
    exact = Decimal(total) / Decimal(length) ** Decimal(lenpen)
    score = normalized_score(total, length, lenpen)
    if not exact or abs(exact) < Decimal("1e-300"):
        assert score == pytest.approx(0.0, abs=1e-299)
    elif abs(exact) > Decimal("1.8e308"):
        assert score == -math.inf
    else:
        assert score == pytest.approx(float(exact), rel=1e-9)
