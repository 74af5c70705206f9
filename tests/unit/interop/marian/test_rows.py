"""Tests of the order of tokens in another vocabulary."""

from __future__ import annotations

import numpy as np

from kdmt.interop.marian.rows import SideRows

ROWS = SideRows(np.array([2, 3, 4, -1, 0, 1]), 3)
MATRIX = np.arange(10, dtype=np.float32).reshape(5, 2)


def test_rows_are_in_the_new_order_and_absent_tokens_are_like_the_unknown_one() -> None:
    assert ROWS.matrix(MATRIX)[:, 0].tolist() == [4, 6, 8, 6, 0, 2]


def test_absent_tokens_have_a_logit_below_that_of_the_unknown_token() -> None:
    assert ROWS.bias(MATRIX[:, 0]).tolist() == [4, 6, 8, -14, 0, 2]


def test_inverse_restores_the_order() -> None:
    back = ROWS.inverse(1)
    assert back.index_V.tolist() == [4, 5, 0, 1, 2]
    assert np.array_equal(back.matrix(ROWS.matrix(MATRIX)), MATRIX)
    assert np.array_equal(back.bias(ROWS.bias(MATRIX[:, 0])), MATRIX[:, 0])
