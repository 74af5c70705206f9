"""Tests of Marian's names of parameters, against those of the real Marian."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdmt.errors import UserError
from kdmt.interop.marian.files import read_model
from kdmt.interop.marian.names import from_marian, parts, to_marian
from kdmt.interop.marian.options import read_config
from kdmt.interop.marian.rows import SideRows, TokenRows

GOLDEN = Path(__file__).parents[3] / "golden" / "marian"


@pytest.mark.parametrize("name", ["attention", "ssru", "separate"])
def test_parameters_are_those_of_marian_in_both_directions(name: str) -> None:
    model = read_model(GOLDEN / f"{name}.npz")
    config = read_config(model.options, max_positions=64)
    assert {each for part in parts(config).values() for each in part.names} == model.parameters.keys()
    rows = TokenRows(*(SideRows(np.arange(size), 1) for size in model.options["dim-vocabs"]))
    weights = from_marian(model.parameters, config, rows)
    query = model.parameters["encoder_l1_self_Wq"]
    assert np.array_equal(weights["encoder_layers.0.self_attn.qkv_proj.weight"][: len(query)], query.T)
    back = to_marian(weights, config, rows)
    assert all(np.array_equal(back[each], array) for each, array in model.parameters.items())


def test_missing_and_further_parameters_are_named() -> None:
    model = read_model(GOLDEN / "attention.npz")
    config = read_config(model.options, max_positions=64)
    rows = TokenRows(*(SideRows(np.arange(size), 1) for size in model.options["dim-vocabs"]))
    rest = {name: each for name, each in model.parameters.items() if name != "Wemb"}
    with pytest.raises(UserError, match="missing Wemb"):
        from_marian(rest, config, rows)
    with pytest.raises(UserError, match="no place for Wpos"):
        from_marian(model.parameters | {"Wpos": np.zeros((1, 1), dtype=np.float32)}, config, rows)
    with pytest.raises(UserError, match=r"Wemb is \[16\]"):
        from_marian(model.parameters | {"Wemb": np.zeros(16, dtype=np.float32)}, config, rows)
