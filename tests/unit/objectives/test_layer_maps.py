"""Tests of layer maps against values worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from kdmt.errors import UserError
from kdmt.objectives.layer_maps import last_layers, layer_pairs, uniform_layers


def test_layers() -> None:
    assert uniform_layers(3, 6) == [(0, 1), (1, 3), (2, 5)]
    assert uniform_layers(1, 6) == [(0, 5)]
    assert uniform_layers(4, 6) == [(0, 0), (1, 2), (2, 3), (3, 5)]
    assert uniform_layers(2, 2) == [(0, 0), (1, 1)]
    assert uniform_layers(4, 2) == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert uniform_layers(3, 2) == [(0, 0), (1, 1), (2, 1)]
    assert last_layers(3, 6, 2) == [(1, 4), (2, 5)]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("last:3", r"'last:3': the student has 2 layers, the teacher 6"),
        ([(2, 0)], r"\[2, 0\]: the student has no layer 2, only 0 to 1"),
        ([(0, 6)], r"\[0, 6\]: the teacher has no layer 6, only 0 to 5"),
        ([(0, 1), (0, 1)], r"\[\[0, 1\], \[0, 1\]\]: a pair is listed twice"),
    ],
)
def test_layers_that_do_not_exist_are_refused(layers: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        layer_pairs(layers, 2, 6)


def test_layer_pairs() -> None:
    assert layer_pairs("none", 2, 6) == []
    assert layer_pairs("uniform", 2, 6) == [(0, 2), (1, 5)]
    assert layer_pairs("last:2", 2, 6) == [(0, 4), (1, 5)]
    assert layer_pairs([(1, 3)], 2, 6) == [(1, 3)]
