"""Tests of the factors of activations, against inputs of matrices that are recorded by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_transformers import CONFIGS, make_model

from kdmt.errors import UserError
from kdmt.interop.marian.alphas import activation_factors, output_name
from kdmt.interop.marian.files import is_matrix
from kdmt.interop.marian.names import parts

MARIAN = CONFIGS["Marian's layout"]
SOURCES = [np.array([4, 5, 6, 2]), np.array([7, 2])]


def test_factor_follows_its_formula() -> None:
    model = make_model(MARIAN).float()
    largest: list[float] = []
    layer = model.encoder_layers[0].ffn.fc2
    handle = layer.register_forward_pre_hook(lambda _, inputs: largest.append(float(inputs[0].abs().max())))
    factors = activation_factors(model, SOURCES)
    handle.remove()
    assert len(largest) == 1  # one batch
    assert factors["encoder_l1_ffn_W2"] == pytest.approx(127 / largest[0])
    steps: list[float] = []
    handle = model.output_proj.register_forward_pre_hook(lambda _, inputs: steps.append(float(inputs[0].abs().max())))
    factors = activation_factors(model, SOURCES)
    handle.remove()
    assert len(steps) > 1
    assert factors["Wemb"] == pytest.approx(127 / (np.mean(steps) + 1.1 * np.std(steps)))
    assert factors["none"] == factors["Wemb"]


@pytest.mark.parametrize("decoder", ["self_attention", "ssru"])
def test_every_matrix_has_a_factor(decoder: str) -> None:
    config = replace(MARIAN, decoder=decoder, encoder_layers=2)
    factors = activation_factors(make_model(config).float(), SOURCES)
    matrices = {name for part in parts(config).values() for name in part.names if is_matrix(name)}
    assert matrices | {"none"} == factors.keys()
    assert all(np.isfinite(value) and value > 0 for value in factors.values())


def test_no_hooks_are_left() -> None:
    model = make_model(MARIAN).float()
    activation_factors(model, SOURCES)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_output_has_the_name_of_what_it_shares() -> None:
    torch.manual_seed(1)
    separate = replace(MARIAN, share_all_embeddings=False)
    assert output_name(make_model(MARIAN)) == "Wemb"
    assert output_name(make_model(separate)) == "decoder_ff_logit_out_Wt"
    assert output_name(make_model(replace(separate, share_decoder_input_output_embed=True))) == "decoder_Wemb"


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(UserError, match="sample for the factors of activations is empty"):
        activation_factors(make_model(MARIAN).float(), [])
