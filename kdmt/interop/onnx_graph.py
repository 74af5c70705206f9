"""Construction of ONNX graphs, one operator at a time.

Graphs are built in this way, and not traced by `torch.onnx`, which takes a hundred times as long: a decoder step has a
cache whose length may be 0, rows that share the keys and values of their sentence, and a branch, and a matrix that is
both embedding and output projection is stored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from kdmt.errors import UserError

OPSET = 20
IR_VERSION = 10  # that of ONNX Runtime 1.20 and later
CONTRIB = "com.microsoft"  # operators that ONNX Runtime adds to those of ONNX, also in browsers
_LARGEST = 2**31 - 1  # bytes of a protocol buffer

Size = int | str  # a fixed size, or the name of one that varies


@dataclass
class GraphBuilder:
    """A graph that is being built. Methods that add an operator return the name of its output.

    Attributes:
        prefix: beginning of the names of new outputs, which differ from those of all other graphs of the model.
    """

    prefix: str = ""
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    inputs: list[ValueInfoProto] = field(default_factory=list)
    outputs: list[ValueInfoProto] = field(default_factory=list)
    _count: int = 0

    def input(self, name: str, dtype: int, shape: Sequence[Size]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[Size]) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add an operator with one output.

        Args:
            out: name of the output (default: a new name).
        """
        (name,) = self.ops(kind, *inputs, out=[out or self._new(kind)], **attributes)
        return name

    def ops(self, kind: str, *inputs: str, out: Sequence[str] = (), count: int = 0, **attributes: Any) -> list[str]:
        """Add an operator with several outputs.

        Args:
            out: names of the outputs (default: `count` new names).
        """
        names = list(out) or [self._new(kind) for _ in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """Add weights. Weights that were added before under this name are used again."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.array(values, order="C"), name)
        return name

    def ints(self, *values: int) -> str:
        """Add a constant int64 vector."""
        return self.weight("ints_" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def number(self, value: float) -> str:
        """Add a constant float32 scalar."""
        return self.weight(f"number_{value!r}", np.array(value, dtype=np.float32))

    def size(self, tensor: str, axis: int) -> str:
        """Return a size of a tensor, int64 [1]."""
        return self.op("Shape", tensor, start=axis, end=axis + 1)

    def reshape(self, tensor: str, *sizes: int | str) -> str:
        """Reshape a tensor. A string is the name of a size, int64 [1]; -1 and 0 have the meaning of `Reshape`."""
        if all(isinstance(size, int) for size in sizes):
            return self.op("Reshape", tensor, self.ints(*(int(size) for size in sizes)))
        parts = [size if isinstance(size, str) else self.ints(size) for size in sizes]
        return self.op("Reshape", tensor, self.op("Concat", *parts, axis=0))

    def subgraph(self, name: str, nodes: Sequence[NodeProto], outputs: Sequence[str]) -> GraphProto:
        """Return a branch of an `If`, which may read every tensor of this graph."""
        shapeless = [helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in outputs]
        return helper.make_graph(list(nodes), name, [], shapeless)

    def model(self, name: str) -> ModelProto:
        """Return the finished model."""
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, list(self.initializers.values()))
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
            ir_version=IR_VERSION,
            producer_name="kdmt",
        )

    def _new(self, kind: str) -> str:
        self._count += 1
        return f"{self.prefix}{kind}_{self._count}"


def save_model(model: ModelProto, path: Path) -> None:
    """Write a model as one file.

    Raises:
        UserError: if it is larger than a file of this format can be.
    """
    if model.ByteSize() > _LARGEST:
        raise UserError(f"{path.name}: the weights are more than the 2 GiB of an ONNX file")
    onnx.save_model(model, str(path))
