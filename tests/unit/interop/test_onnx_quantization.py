"""Tests of the quantization of ONNX graphs against the formula in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from kdmt.interop.onnx_graph import GraphBuilder
from kdmt.interop.onnx_quantization import quantize, quantize_rows

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(1)
WEIGHT_NK = RNG.standard_normal((7, 5)).astype(np.float32)
BIAS_N = RNG.standard_normal(7).astype(np.float32)
ROWS_MK = (RNG.standard_normal((4, 5)) * np.array([[1], [100], [0.01], [0]])).astype(np.float32)


def run(model: ModelProto, **inputs: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def by_formula(x_MK: NDArray[Any], weight_NK: NDArray[Any]) -> NDArray[Any]:
    """Return round(x / s_x) @ round(W / s_W) * s_x * s_W in integers, with a scale of each row of both."""
    x_scale = np.maximum(np.abs(x_MK).max(1, keepdims=True), 1e-12) / 127
    w_scale = np.abs(weight_NK).max(1) / 127
    x_int, w_int = np.rint(x_MK / x_scale).astype(np.int64), np.rint(weight_NK / w_scale[:, None]).astype(np.int64)
    return (x_int @ w_int.T) * x_scale * w_scale


def names(model: ModelProto) -> Sequence[str]:
    return [each.name for each in model.graph.initializer]


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Transpose"])
def test_projection_is_the_formula(kind: str) -> None:
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["M", 5])
    if kind == "MatMul":
        graph.op("MatMul", "x", graph.weight("weight", WEIGHT_NK.T), out="y")
    elif kind == "Gemm":
        graph.op("Gemm", "x", graph.weight("weight", WEIGHT_NK), graph.weight("bias", BIAS_N), transB=1, out="y")
    else:
        turned = graph.op("Transpose", graph.weight("weight", WEIGHT_NK), perm=[1, 0])
        graph.op("MatMul", "x", turned, out="y")
    graph.output("y", FLOAT, ["M", 7])
    model = quantize(graph.model("g"))
    assert "weight" not in names(model)
    expected = by_formula(ROWS_MK, WEIGHT_NK) + (BIAS_N if kind == "Gemm" else 0)
    assert run(model, x=ROWS_MK) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_row_does_not_depend_on_the_others() -> None:
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["M", 5])
    graph.op("MatMul", "x", graph.weight("weight", WEIGHT_NK.T), out="y")
    graph.output("y", FLOAT, ["M", 7])
    model = quantize(graph.model("g"))
    together = run(model, x=ROWS_MK)
    for row, expected in zip(ROWS_MK, together, strict=True):
        assert np.array_equal(run(model, x=row[None])[0], expected)


def test_matrix_of_embeddings_and_output_is_stored_once() -> None:
    graph = GraphBuilder()
    graph.input("ids", INT64, ["M"])
    weight = graph.weight("tokens", WEIGHT_NK)
    graph.op("Gemm", graph.op("Gather", weight, "ids"), weight, transB=1, out="y")
    graph.output("y", FLOAT, ["M", 7])
    model = quantize(graph.model("g"))
    assert [name for name in names(model) if name.startswith("tokens")] == ["tokens.rows.int8", "tokens.rows.scale"]
    numbers, scale = quantize_rows(WEIGHT_NK)
    embedded = (numbers[[3, 0]].astype(np.float32) - 128) * scale[[3, 0], None]
    assert run(model, ids=np.array([3, 0])) == pytest.approx(by_formula(embedded, WEIGHT_NK), rel=1e-4, abs=1e-5)


def test_branches_are_quantized_and_positions_are_not() -> None:
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["M", 5])
    graph.input("turn", TensorProto.BOOL, [1])
    inside = GraphBuilder("inside.", initializers=graph.initializers)
    product = inside.op("MatMul", "x", inside.weight("weight", WEIGHT_NK.T))
    other = GraphBuilder("other.", initializers=graph.initializers)
    positions = other.op("Gather", other.weight("src.positions", WEIGHT_NK.T), other.ints(0, 1))
    branches = {
        "then_branch": graph.subgraph("one", inside.nodes, [product]),
        "else_branch": graph.subgraph("two", other.nodes, [positions]),
    }
    graph.ops("If", "turn", out=["y"], **branches)
    graph.output("y", FLOAT, ["M", 7])
    model = quantize(graph.model("g"))
    assert "src.positions" in names(model)
    assert run(model, x=ROWS_MK, turn=np.array([True])) == pytest.approx(
        by_formula(ROWS_MK, WEIGHT_NK), rel=1e-5, abs=1e-6
    )
    assert np.array_equal(run(model, x=ROWS_MK, turn=np.array([False])), WEIGHT_NK.T[:2])


def test_quantized_rows_are_within_half_a_level() -> None:
    numbers, scale = quantize_rows(WEIGHT_NK)
    assert numbers.dtype == np.uint8
    assert np.abs((numbers.astype(np.float64) - 128) * scale[:, None] - WEIGHT_NK).max() <= scale.max() / 2 + 1e-7
    assert np.abs(numbers.astype(int) - 128).max(1).tolist() == [127] * 7
