"""Tests of converted state dicts against the results of fairseq 0.12.2 (tests/golden/make_model.py)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kdmt.config import Train
from kdmt.errors import UserError
from kdmt.interop.fairseq.states import convert_state
from kdmt.losses.cross_entropy import label_smoothed_cross_entropy
from kdmt.models.architecture import TransformerConfig, architecture
from kdmt.models.build import build_transformer, count_parameters
from kdmt.models.transformer import Transformer
from kdmt.train.schedule import inverse_sqrt
from kdmt.types import PAD

GOLDEN = Path(__file__).parents[3] / "golden" / "model"
CASES = json.loads((GOLDEN / "cases.json").read_text())
ARCHITECTURES = json.loads((GOLDEN / "architectures.json").read_text())
SCHEDULES = json.loads((GOLDEN / "schedule.json").read_text())

# measured: at most 3e-7; fairseq computes attention softmax, sinusoids and gelu in float32 for every dtype of model
TOLERANCE = 1e-6


@cache
def golden(case: str) -> tuple[TransformerConfig, dict[str, Tensor], dict[str, Tensor]]:
    """Return the architecture of a case, fairseq's state dict, and fairseq's inputs and outputs."""
    with np.load(GOLDEN / f"{case}.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    state = {name.removeprefix("weights/"): value for name, value in arrays.items() if name.startswith("weights/")}
    return TransformerConfig(**CASES[case]["config"]), state, arrays


def converted_model(case: str) -> Transformer:
    config, state, _ = golden(case)
    model = build_transformer(config, src_vocab_size=CASES[case]["src_vocab"], tgt_vocab_size=CASES[case]["tgt_vocab"])
    weights = convert_state(state, config)
    parameters = dict(model.named_parameters())
    assert set(weights) == set(parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return model.double().eval()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_encoder_output_equals_fairseq_with_padding_on_either_side(case: str) -> None:
    arrays = golden(case)[2]
    states_BSD = converted_model(case).encode(arrays["src_tokens"]).states_BSD
    states = states_BSD[arrays["src_tokens"].ne(PAD)]
    torch.testing.assert_close(states, arrays["states"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(states, arrays["left_states"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_log_probs_equal_fairseq_with_padding_on_either_side(case: str) -> None:
    arrays = golden(case)[2]
    logits_BTV = converted_model(case)(arrays["src_tokens"], arrays["prev_tokens"])
    log_probs = logits_BTV.log_softmax(dim=-1)[arrays["prev_tokens"].ne(PAD)]
    torch.testing.assert_close(log_probs, arrays["log_probs"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(log_probs, arrays["left_log_probs"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_log_probs_of_incremental_decoding_equal_fairseq(case: str) -> None:
    arrays = golden(case)[2]
    model, prev_tokens_BT = converted_model(case), arrays["prev_tokens"]
    cache = model.start_cache(model.encode(arrays["src_tokens"]), beam=1, max_len=prev_tokens_BT.size(1))
    steps = [model.decode_step(prev_tokens_BT[:, position], cache) for position in range(prev_tokens_BT.size(1))]
    log_probs_BTV = torch.stack(steps, dim=1).log_softmax(dim=-1)
    real_BT = prev_tokens_BT.ne(PAD)
    torch.testing.assert_close(log_probs_BTV[real_BT], arrays["log_probs"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_label_smoothed_cross_entropy_equals_fairseq(case: str) -> None:
    arrays = golden(case)[2]
    targets_M = arrays["tgt_tokens"][arrays["tgt_tokens"].ne(PAD)]
    for epsilon, expected in zip(arrays["smoothing"].tolist(), arrays["loss_and_nll"], strict=True):
        loss_and_nll = torch.stack(label_smoothed_cross_entropy(arrays["log_probs"], targets_M, epsilon=epsilon))
        torch.testing.assert_close(loss_and_nll, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: f"lr {schedule['settings']['lr']}")
def test_learning_rates_equal_fairseq(schedule: dict) -> None:
    settings = Train(**schedule["settings"])
    ours = [inverse_sqrt(update, settings) for update in schedule["updates"]]
    assert ours == pytest.approx(schedule["learning_rates"], rel=1e-12, abs=0)


@pytest.mark.parametrize("name", ARCHITECTURES["architectures"])
def test_named_architecture_equals_fairseq(name: str) -> None:
    theirs = ARCHITECTURES["architectures"][name]
    config = architecture(name)
    assert {field: config.as_dict()[field] for field in theirs["fields"]} == theirs["fields"]
    with torch.device("meta"):
        model = build_transformer(config, src_vocab_size=ARCHITECTURES["vocab"], tgt_vocab_size=ARCHITECTURES["vocab"])
    assert count_parameters(model) == theirs["parameters"]


# ----------------------------------------------------------------------------------------- incompatible state dicts


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layers.1.self_attn.k_proj.bias",
        "decoder.layers.0.encoder_attn.v_proj.weight",
        "decoder.layer_norm.bias",
        "encoder.embed_positions.weight",
        "decoder.output_projection.weight",
    ],
)
def test_missing_tensor_is_named(name: str) -> None:
    config, state, _ = golden("pre_norm_learned")
    with pytest.raises(UserError, match=f"missing {name}"):
        convert_state(without(state, name), config)


def test_unexpected_tensors_are_named() -> None:
    config, state, _ = golden("post_norm_shared")
    extra = {"encoder.layer_norm.weight": torch.ones(16), "encoder.layers.2.fc1.bias": torch.ones(20)}
    with pytest.raises(UserError, match=r"no place for encoder\.layer_norm\.weight, encoder\.layers\.2\.fc1\.bias$"):
        convert_state({**state, **extra}, config)


@pytest.mark.parametrize("name", ["encoder.layers.0.self_attn.q_proj.weight", "decoder.layers.1.fc2.bias"])
def test_tensor_of_another_shape_is_named(name: str) -> None:
    config, state, _ = golden("post_norm_shared")
    wrong = state[name][:-1]
    with pytest.raises(UserError, match=f"{name} is \\[{len(wrong)}"):
        convert_state({**state, name: wrong}, config)


@pytest.mark.parametrize("case", ["post_norm_shared", "layernorm_embedding_gelu"])
def test_shared_tensors_that_differ_are_refused(case: str) -> None:
    config, state, _ = golden(case)
    name = "decoder.output_projection.weight"
    with pytest.raises(UserError, match=f"{name} and .*embed_tokens.weight differ"):
        convert_state({**state, name: state[name] + 1}, config)


def test_conversion_does_not_change_the_state_dict() -> None:
    config, state, _ = golden("pre_norm_learned")
    before = {name: value.clone() for name, value in state.items()}
    for tensor in convert_state(state, config).values():
        tensor.zero_()
    assert all(torch.equal(state[name], value) for name, value in before.items())
