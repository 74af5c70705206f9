"""Tests of the graphs of autoregressive models: names and shapes that other programs expect, and one step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto
from small_transformers import POST_NORM, make_model

from kdmt.interop.onnx_quantization import quantize
from kdmt.interop.onnx_transformer import decoder_graph, encoder_graph


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_inputs_and_outputs_have_the_names_of_optimum() -> None:
    model = make_model(replace(POST_NORM, decoder_layers=1))
    encoder, decoder = session(encoder_graph(model)), session(decoder_graph(model))
    assert [each.name for each in encoder.get_inputs()] == ["input_ids", "attention_mask"]
    assert [each.name for each in encoder.get_outputs()] == ["last_hidden_state"]
    parts = [f"0.{side}.{part}" for side in ("decoder", "encoder") for part in ("key", "value")]
    assert {each.name for each in decoder.get_inputs()} == {
        *("encoder_attention_mask", "input_ids", "encoder_hidden_states", "use_cache_branch"),
        *(f"past_key_values.{part}" for part in parts),
    }
    assert [each.name for each in decoder.get_outputs()] == ["logits", *(f"present.{part}" for part in parts)]


@torch.inference_mode()
def test_rows_of_a_sentence_share_its_source() -> None:
    model = make_model().float()
    src_tokens = np.array([[5, 6, 7, 2], [8, 2, 1, 1]])
    mask = (src_tokens != 1).astype(np.int64)
    inputs = {"input_ids": src_tokens, "attention_mask": mask}
    (states,) = session(encoder_graph(model)).run(None, inputs)
    encoded = model.encode(torch.from_numpy(src_tokens))
    assert states[mask == 1] == pytest.approx(encoded.states_BSD.numpy()[mask == 1], abs=1e-5)
    decoder, beam, heads, width = session(decoder_graph(model)), 3, 2, 8
    cache = model.start_cache(encoded, beam=beam, max_len=4)
    names = [each.name for each in decoder.get_outputs()]
    feed: dict[str, Any] = {"encoder_attention_mask": mask, "encoder_hidden_states": states}
    for name in names[1:]:
        rows = 2 * beam if ".decoder." in name else 2
        feed[name.replace("present", "past_key_values")] = np.zeros((rows, heads, 0, width), np.float32)
    for step in range(4):
        tokens = torch.arange(2 * beam) + 4 + step
        found = decoder.run(
            None, {**feed, "input_ids": tokens[:, None].numpy(), "use_cache_branch": np.array([step > 0])}
        )
        assert found[0][:, 0] == pytest.approx(model.decode_step(tokens, cache).numpy(), abs=1e-4)
        for name, value in zip(names[1:], found[1:], strict=True):
            assert value.shape[2] == (step + 1 if ".decoder." in name else 4)
            feed[name.replace("present", "past_key_values")] = value


def test_tied_weights_are_stored_once() -> None:
    config = replace(POST_NORM, decoder_layers=3, share_all_embeddings=True)
    sizes = {
        tied: decoder_graph(make_model(replace(config, tied_decoder_layers=tied))).ByteSize() for tied in (False, True)
    }
    layer = sum(each.numel() for each in make_model(config).decoder_layers[0].parameters())
    assert sizes[False] - sizes[True] > 2 * 4 * layer
    names = [each.name for each in decoder_graph(make_model(config)).graph.initializer]
    assert "tgt.tokens" in names
    assert "output" not in names


def test_int8_graph_has_no_float_matrices_left() -> None:
    config = replace(POST_NORM, share_all_embeddings=True, decoder="ssru")
    for graph in (encoder_graph(make_model(config)), decoder_graph(make_model(config))):
        left = [each.name for each in quantize(graph).graph.initializer if len(each.dims) == 2 and each.data_type == 1]
        assert not left
