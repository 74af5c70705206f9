"""The table of families compared with the settings, the models and the objectives that read it."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from copy_task import TINY, VOCAB, nat_objective

from kdmt.config import NAT
from kdmt.families import ALIGNED, EDITING, FAMILIES, POSITIONAL, FamilyName, families_with
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive

OF_ALL_FAMILIES = {"family", "deep_supervision"}


def test_every_name_has_an_entry() -> None:
    assert get_args(FamilyName) == tuple(FAMILIES)


def test_every_family_has_one_kind_of_decoder_positions() -> None:
    assert sorted([*POSITIONAL, *ALIGNED, *EDITING]) == sorted(FAMILIES)
    assert [FAMILIES[name].why_not_target_positions is None for name in POSITIONAL] == [True] * len(POSITIONAL)
    assert all(FAMILIES[name].why_not_target_positions for name in (*ALIGNED, *EDITING))


def test_every_setting_belongs_to_all_families_or_to_those_that_name_it() -> None:
    named = {setting for family in FAMILIES.values() for setting in family.settings}
    assert named | OF_ALL_FAMILIES == set(NAT.model_fields)
    assert not named & OF_ALL_FAMILIES
    assert families_with("deep_supervision") == ()
    assert families_with("distance") == ("nat", "ctc")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_model_and_an_objective(family: FamilyName) -> None:
    model = build_nonautoregressive(
        replace(TINY, decoder_layers=2), NATConfig(family=family), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB
    )
    assert {"loss", "nll", "deep"} <= set(nat_objective(model, deep_supervision=0.5).weights)
    assert model.iterates == FAMILIES[family].iterates


def test_fairseqs_models_have_different_names() -> None:
    names = [family.fairseq for family in FAMILIES.values() if family.fairseq is not None]
    assert len(set(names)) == len(names) == 6
