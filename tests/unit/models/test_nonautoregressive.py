"""Tests of non-autoregressive models of every family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from copy_task import TINY, VOCAB

from kdmt.families import ALIGNED, EDITING, POSITIONAL, FamilyName
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_model, build_nonautoregressive, describe_model
from kdmt.models.nonautoregressive import NATransformer


def small(family: FamilyName = "ctc", upsample: int = 2, *, layers: int = 1) -> NATransformer:
    torch.manual_seed(1)
    nat = NATConfig(family=family, upsample=upsample)
    config = replace(TINY, dropout=0.0, decoder_layers=layers)
    model = build_nonautoregressive(config, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    return model.double()


@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
def test_model_is_rebuilt_from_its_description(family: FamilyName) -> None:
    model = small(family, upsample=3).float()
    again = build_model(describe_model(model))
    assert isinstance(again, NATransformer)
    assert again.nat == model.nat
    assert {name: each.shape for name, each in again.named_parameters()} == {
        name: each.shape for name, each in model.named_parameters()
    }
