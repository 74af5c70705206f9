"""Names of choices: each set has one type, and tables and settings use the same names."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

import pytest

from kdmt import choices
from kdmt.losses.divergences import DIVERGENCES

SETS = {name: value for name, value in vars(choices).items() if get_origin(value) is Literal}


def test_sets_of_names_are_found() -> None:
    assert SETS.keys() >= {"Precision", "ComputeType", "CheckpointName", "BleuTokenizer", "DivergenceName", "OnFailure"}


@pytest.mark.parametrize("name", SETS)
def test_names_of_a_set_are_distinct(name: str) -> None:
    names = get_args(SETS[name])
    assert len(set(names)) == len(names) >= 1
    assert all(isinstance(each, str) for each in names)


def test_the_order_of_preference_has_every_checkpoint() -> None:
    # a run that is named without a checkpoint is not the average of its best ones, nor compared by validation
    others = {"auto", "average_best"}
    assert {*choices.CHECKPOINT_PREFERENCE, *others} == set(get_args(choices.CheckpointName))


def test_names_are_in_the_order_of_the_type() -> None:
    assert choices.names(Literal["b", "a"]) == ("b", "a")


def test_settings_offer_every_divergence_of_the_table() -> None:
    assert set(get_args(choices.DivergenceName)) == set(DIVERGENCES)
