"""Tests of the graphs of non-autoregressive students: names, shapes, and values of each part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto
from small_transformers import POST_NORM

from kdmt.interop.onnx_nonautoregressive import nonautoregressive_graphs
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer

SHARED = replace(POST_NORM, share_all_embeddings=True)
SOURCES = np.array([[5, 6, 7, 8, 2], [9, 10, 2, 1, 1]])


def make_student(family: str, **settings: Any) -> NATransformer:
    torch.manual_seed(2)
    nat = NATConfig(family=family, **settings)  # type: ignore[arg-type]
    return build_nonautoregressive(SHARED, nat, src_vocab_size=18, tgt_vocab_size=18).eval()


def run(model: ModelProto, **inputs: Any) -> list[Any]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


@torch.inference_mode()
@pytest.mark.parametrize("settings", [{}, {"layout": "fairseq"}, {"lengths": "length"}], ids=str)
def test_lengths_are_sorted_by_probability(settings: dict[str, Any]) -> None:
    model = make_student("nat", **settings)
    graphs = nonautoregressive_graphs(model)
    assert sorted(graphs) == ["decoder_model.onnx", "encoder_model.onnx"]
    states, lengths = run(graphs["encoder_model.onnx"], src_tokens=SOURCES)
    encoded = model.encode(torch.from_numpy(SOURCES))
    keep = encoded.keep_BS.numpy()
    assert states[keep] == pytest.approx(encoded.states_BSD.numpy()[keep], abs=1e-5)
    limit = model.config.max_target_positions
    assert lengths.shape == (2, 256)
    assert np.array_equal(lengths[:, :10], model.lengths.best(encoded, 10, limit=limit).numpy())
    assert (lengths.min(), lengths.max()) == (2, limit)


@torch.inference_mode()
def test_links_and_tokens_of_a_dag_model() -> None:
    model = make_student("dag", upsample=3)
    sources = torch.from_numpy(SOURCES[:1])
    tokens, log_probs, links = run(nonautoregressive_graphs(model)["model.onnx"], src_tokens=SOURCES[:1])
    x_BLD, keep_BL = model.vertices(sources)
    features_BLD = model.decode_all(x_BLD, keep_BL, model.encode(sources))
    expected_tokens, expected_log_probs = model.best_symbols(features_BLD)
    assert np.array_equal(tokens, expected_tokens.numpy())
    assert log_probs == pytest.approx(expected_log_probs.numpy(), abs=1e-5)
    expected = model.link(features_BLD, keep_BL).numpy()
    assert np.array_equal(np.isinf(links), np.isinf(expected))
    assert links[np.isfinite(links)] == pytest.approx(expected[np.isfinite(expected)], abs=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("settings", [{}, {"source_copy": "soft"}, {"layout": "fairseq"}], ids=str)
def test_padding_is_never_predicted(settings: dict[str, Any]) -> None:
    model = make_student("nat", **settings)
    with torch.no_grad():
        model.output_proj.weight[1] = 5 * model.output_proj.weight[4:].mean(0)
    graphs = nonautoregressive_graphs(model)
    states, _ = run(graphs["encoder_model.onnx"], src_tokens=SOURCES)
    drafts = np.array([[3, 3, 3, 2], [3, 2, 1, 1]])
    tokens, log_probs = run(graphs["decoder_model.onnx"], src_tokens=SOURCES, states=states, draft=drafts)
    assert not (tokens == 1).any()
    sources, seen = torch.from_numpy(SOURCES), torch.from_numpy(drafts)
    expected = model.best_symbols(model.fill(sources, seen, model.encode(sources)))
    real = drafts != 1
    assert np.array_equal(tokens[real], expected[0].numpy()[real])
    assert log_probs[real] == pytest.approx(expected[1].numpy()[real], abs=1e-5)


def test_shared_embeddings_of_a_ctc_model_are_stored_once() -> None:
    graph = nonautoregressive_graphs(make_student("ctc"))["model.onnx"].graph
    assert [list(each.dims) for each in graph.initializer if 18 in each.dims or 19 in each.dims] == [[19, 16]]
