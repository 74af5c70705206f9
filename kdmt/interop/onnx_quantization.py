"""Dynamic quantization of ONNX graphs to 8 bits.

Weights of projections and embeddings have a scale for each output and each token, max|w| / 127, and activations one for
each row, max|x| / 127, that is, for each token of each sentence. The product is computed in integers, so a translation
does not depend on its batch. `quantize_dynamic` of ONNX Runtime instead has one scale for a whole batch, whose
sentences then change each other; it computes up to 1.5 times as fast.

    y = (round(x / s_x) @ round(W / s_W)) * s_x * s_W

Both factors are stored as unsigned numbers with the zero point 128: with signed weights, sums overflow on x86
processors without VNNI. A matrix that is both embedding and output projection is stored once.

Shapes: M rows, K inputs of a projection, N outputs of a projection, V tokens, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from kdmt.interop.onnx_graph import CONTRIB

_LEVELS = 127  # largest number on either side of the zero point
_ZERO_POINT = 128
_TINY = 1e-12  # smallest maximum of a row, so that a row of zeros has a scale


def quantize(model: ModelProto) -> ModelProto:
    """Return a model with weights of 8 bits. Learned positions, norms and biases stay in float32."""
    quantized = ModelProto()
    quantized.CopyFrom(model)
    _Quantizer(quantized.graph).run()
    if all(opset.domain != CONTRIB for opset in quantized.opset_import):
        quantized.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return quantized


def quantize_rows(weight_NK: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the numbers of each row with zero point 128, and the scale of each row: uint8 [N, K], float32 [N]."""
    scale_N = np.maximum(np.abs(weight_NK).max(axis=1), _TINY).astype(np.float32) / np.float32(_LEVELS)
    return (np.rint(weight_NK / scale_N[:, None]) + _ZERO_POINT).astype(np.uint8), scale_N


@dataclass
class _Quantizer:
    """Replacement of the operators of one graph and its branches.

    Attributes:
        weights: initializers of the whole graph.
        transposed: output of a `Transpose` of a weight -> the weight.
        added: new initializers, by name.
    """

    graph: GraphProto
    weights: dict[str, TensorProto] = field(default_factory=dict)
    transposed: dict[str, str] = field(default_factory=dict)
    added: dict[str, TensorProto] = field(default_factory=dict)
    count: int = 0

    def run(self) -> None:
        self.weights = {each.name: each for each in self.graph.initializer if _is_matrix(each)}
        for node in self.graph.node:
            if node.op_type == "Transpose" and node.input[0] in self.weights:
                self.transposed[node.output[0]] = node.input[0]
        self._replace(self.graph)
        self.graph.initializer.extend(self.added.values())
        _drop_unused(self.graph)

    def _replace(self, graph: GraphProto) -> None:
        """Replace the operators of a graph or a branch."""
        rows: dict[str, tuple[str, str]] = {}  # activation -> its numbers and the scales of its rows
        nodes: list[NodeProto] = []
        for node in graph.node:
            for branch in _branches(node):
                self._replace(branch)
            nodes += self._replaced(node, rows)
        del graph.node[:]
        graph.node.extend(nodes)

    def _replaced(self, node: NodeProto, rows: dict[str, tuple[str, str]]) -> list[NodeProto]:
        """Return the operators in place of one."""
        if node.op_type == "Gather" and node.input[0] in self.weights and not node.input[0].endswith("positions"):
            return self._gather(node)
        if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2:
            return [node]
        name, is_rows_of_outputs = node.input[1], False
        if name in self.transposed:
            name, is_rows_of_outputs = self.transposed[name], True
        if name not in self.weights:
            return [node]
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        is_rows_of_outputs ^= bool(attributes.get("transB", 0))
        if attributes.get("transA", 0) or {attributes.get(factor, 1.0) for factor in ("alpha", "beta")} != {1.0}:
            return [node]
        return self._project(node, name, is_rows_of_outputs, rows)

    def _project(
        self, node: NodeProto, name: str, is_rows_of_outputs: bool, rows: dict[str, tuple[str, str]]
    ) -> list[NodeProto]:
        """Return the operators of a projection.

        Args:
            is_rows_of_outputs: whether the weight is [N, K] and not [K, N].
        """
        nodes: list[NodeProto] = []
        if node.input[0] not in rows:
            nodes += self._quantize_activation(node.input[0], rows)
        numbers, row_scale = rows[node.input[0]]
        weight, scale = self._weight(name, rows_of_outputs=is_rows_of_outputs)
        if is_rows_of_outputs:
            turned = self._new(f"{weight}.t")
            nodes.append(helper.make_node("Transpose", [weight], [turned], perm=[1, 0]))
            weight = turned
        product, has_bias = self._new("product"), len(node.input) > 2 and bool(node.input[2])
        one, zero_point = self._number("one", 1.0), self._zero_point()
        inputs = [numbers, weight, one, scale, zero_point, zero_point]
        nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [product], domain=CONTRIB))
        out = self._new("scaled") if has_bias else node.output[0]
        nodes.append(helper.make_node("Mul", [product, row_scale], [out]))
        if has_bias:
            nodes.append(helper.make_node("Add", [out, node.input[2]], [node.output[0]]))
        return nodes

    def _quantize_activation(self, x: str, rows: dict[str, tuple[str, str]]) -> list[NodeProto]:
        """Return the operators that quantize the rows of an activation."""
        absolute, largest, bounded, scale, scaled, numbers = (
            self._new(name) for name in ("absolute", "largest", "bounded", "scale", "divided", "numbers")
        )
        rows[x] = numbers, scale
        axis = self._constant("last_axis", np.array([-1], dtype=np.int64))
        return [
            helper.make_node("Abs", [x], [absolute]),
            helper.make_node("ReduceMax", [absolute, axis], [largest], keepdims=1),
            helper.make_node("Max", [largest, self._number("tiny", _TINY)], [bounded]),
            helper.make_node("Mul", [bounded, self._number("level", 1.0 / _LEVELS)], [scale]),
            helper.make_node("Div", [x, scale], [scaled]),
            helper.make_node("QuantizeLinear", [scaled, self._number("one", 1.0), self._zero_point()], [numbers]),
        ]

    def _gather(self, node: NodeProto) -> list[NodeProto]:
        """Return the operators that look up embeddings, [..., D]."""
        weight, scale = self._weight(node.input[0], rows_of_outputs=True)
        found, real, centred, scales, column = (
            self._new(name) for name in ("found", "real", "centred", "scales", "column")
        )
        axis = self._constant("last_axis", np.array([-1], dtype=np.int64))
        return [
            helper.make_node("Gather", [weight, node.input[1]], [found]),
            helper.make_node("Cast", [found], [real], to=TensorProto.FLOAT),
            helper.make_node("Sub", [real, self._number("zero_point_float", _ZERO_POINT)], [centred]),
            helper.make_node("Gather", [scale, node.input[1]], [scales]),
            helper.make_node("Unsqueeze", [scales, axis], [column]),
            helper.make_node("Mul", [centred, column], [node.output[0]]),
        ]

    def _weight(self, name: str, *, rows_of_outputs: bool) -> tuple[str, str]:
        """Add a weight with its scales, and return both names."""
        side = "rows" if rows_of_outputs else "columns"
        names = f"{name}.{side}.int8", f"{name}.{side}.scale"
        if names[0] not in self.added:
            weight = numpy_helper.to_array(self.weights[name])
            numbers, scale = quantize_rows(weight if rows_of_outputs else weight.T)
            self._constant(names[0], numbers if rows_of_outputs else numbers.T)
            self._constant(names[1], scale)
        return names

    def _number(self, name: str, value: float) -> str:
        return self._constant(f"quantization.{name}", np.array(value, dtype=np.float32))

    def _zero_point(self) -> str:
        return self._constant("quantization.zero_point", np.array(_ZERO_POINT, dtype=np.uint8))

    def _constant(self, name: str, values: NDArray) -> str:
        if name not in self.added:
            self.added[name] = numpy_helper.from_array(np.array(values, order="C"), name)
        return name

    def _new(self, name: str) -> str:
        self.count += 1
        return f"quantized.{self.count}.{name}"


def _is_matrix(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2


def _branches(node: NodeProto) -> list[GraphProto]:
    return [each.g for each in node.attribute if each.type == AttributeProto.GRAPH]


def _inputs(graph: GraphProto) -> Iterator[str]:
    """Yield the inputs of all operators, those in branches too, and the outputs of the graph."""
    for node in graph.node:
        yield from node.input
        for branch in _branches(node):
            yield from _inputs(branch)
    yield from (each.name for each in graph.output)


def _drop_unused(graph: GraphProto) -> None:
    """Remove the weights that no operator reads, and their transpositions."""
    used = Counter(_inputs(graph))
    kept_nodes = [node for node in graph.node if node.op_type != "Transpose" or used[node.output[0]]]
    del graph.node[:]
    graph.node.extend(kept_nodes)
    used = Counter(_inputs(graph))
    kept = [each for each in graph.initializer if used[each.name]]
    del graph.initializer[:]
    graph.initializer.extend(kept)
