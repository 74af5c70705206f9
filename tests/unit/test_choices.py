"""Names of choices: one type for each set, the same names wherever a table or a setting has them."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

import pytest

from kdmt import choices
from kdmt.losses.divergences import DIVERGENCES

SETS = {name: value for name, value in vars(choices).items() if get_origin(value) is Literal}


def test_there_are_sets_of_names() -> None:
    assert SETS.keys() >= {"Precision", "ComputeType", "CheckpointName", "BleuTokenizer", "DivergenceName", "OnFailure"}


@pytest.mark.parametrize("name", SETS)
def test_names_of_a_set_are_distinct(name: str) -> None:
    names = get_args(SETS[name])
    assert len(set(names)) == len(names) > 1
    assert all(isinstance(each, str) for each in names)


def test_every_checkpoint_has_its_place_in_the_order_of_preference() -> None:
    assert sorted(choices.CHECKPOINT_PREFERENCE) == sorted(get_args(choices.CheckpointName))


def test_names_are_in_the_order_of_the_type() -> None:
    assert choices.names(Literal["b", "a"]) == ("b", "a")


def test_settings_offer_every_divergence_of_the_table() -> None:
    assert set(get_args(choices.DivergenceName)) == set(DIVERGENCES)
