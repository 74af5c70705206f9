"""The table of training sets, compared with the settings and rules that it names."""

from __future__ import annotations

import pytest

from kdmt.config import Distill, Student
from kdmt.distill.target_choices import CHOICES
from kdmt.training_sets import TRAINING_SETS, parts_of, stage_folders


def test_every_choice_has_a_rule_and_every_rule_a_training_set() -> None:
    assert {name for name, made in TRAINING_SETS.items() if made.origin == "choice"} == set(CHOICES)


@pytest.mark.parametrize("name", TRAINING_SETS)
def test_a_training_set_names_settings_that_exist_and_belong_to_it_alone(name: str) -> None:
    own = TRAINING_SETS[name].own_settings
    assert set(own) <= set(Distill.model_fields)
    others = {setting for other, made in TRAINING_SETS.items() if other != name for setting in made.own_settings}
    assert not others & set(own)


def test_only_a_union_has_no_folder_and_folders_are_distinct() -> None:
    assert {name for name in TRAINING_SETS if name not in stage_folders()} == {"mixed"}
    assert len(set(stage_folders().values())) == len(stage_folders())


@pytest.mark.parametrize("name", TRAINING_SETS)
def test_parts_have_folders(name: str) -> None:
    assert parts_of(name) == (("raw", "distilled") if name == "mixed" else (name,))
    assert set(parts_of(name)) <= set(stage_folders())


@pytest.mark.parametrize("name", [name for name, made in TRAINING_SETS.items() if made.origin != "pool"])
def test_students_can_learn_from_exactly_the_training_sets_of_the_table(name: str) -> None:
    assert Student(data=name).data == name
    for wrong in (f"{name}?", "pool"):  # a pool is no training set
        with pytest.raises(ValueError, match="'raw', 'distilled', 'interpolated'"):
            Student(data=wrong)
