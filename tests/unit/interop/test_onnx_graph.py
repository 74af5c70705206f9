"""Tests of the builder of ONNX graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from kdmt.errors import UserError
from kdmt.interop import onnx_graph
from kdmt.interop.onnx_graph import GraphBuilder, save_model


def test_graph_computes_and_passes_the_checks_of_onnx(tmp_path: Path) -> None:
    graph = GraphBuilder()
    graph.input("x", TensorProto.FLOAT, ["B", "T", 6])
    left, right = graph.ops("Split", "x", count=2, axis=-1, num_outputs=2)
    total = graph.op("Add", left, graph.op("Mul", right, graph.number(10.0)))
    graph.reshape(total, graph.size("x", 0), -1)
    graph.op("Reshape", total, graph.ints(0, -1), out="y")
    graph.output("y", TensorProto.FLOAT, ["B", "N"])
    save_model(graph.model("g"), tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    x = np.arange(24, dtype=np.float32).reshape(2, 2, 6)
    (y,) = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(["y"], {"x": x})
    assert np.array_equal(y, (x[..., :3] + 10 * x[..., 3:]).reshape(2, -1))


def test_weights_of_one_name_are_stored_once_and_scalars_stay_scalars() -> None:
    graph = GraphBuilder()
    assert graph.weight("w", np.ones((2, 2))) == graph.weight("w", np.ones((2, 2))) == "w"
    assert len(graph.initializers) == 1
    assert list(graph.initializers[graph.number(0.5)].dims) == []


def test_names_of_graphs_with_a_prefix_differ() -> None:
    assert {GraphBuilder().op("Abs", "x"), GraphBuilder("inside.").op("Abs", "x")} == {"Abs_1", "inside.Abs_1"}


def test_weights_that_are_too_large_for_a_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = GraphBuilder()
    graph.weight("w", np.ones((20, 20), dtype=np.float32))
    monkeypatch.setattr(onnx_graph, "_LARGEST", 1000)
    with pytest.raises(UserError, match=r"model\.onnx: the weights are more than the 2 GiB of an ONNX file"):
        save_model(graph.model("g"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
