"""Translation with Argos Translate in an environment of its own (`make deploy-envs NAME=argos`), without a network."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from figures import REPOSITORY

PYTHON = REPOSITORY / ".deploy-envs" / "argos" / "bin" / "python"
# Argos Translate's own search, as arguments of CTranslate2
SEARCH = {"beam_size": 4, "length_penalty": 0.2, "replace_unknowns": True}
_PROGRAM = """
import sys
from argostranslate import package, translate
package.install_from_path(sys.argv[1])
translation = translate.get_translation_from_codes(*sys.argv[2:4])
print("\\n".join(translation.translate(line) for line in sys.stdin.read().splitlines()))
"""


def translate(
    package: Path,
    home: Path,
    lines: Sequence[str],
    *,
    compute_type: Literal["int8", "float32"],
    source_lang: str = "en",
) -> list[str]:
    """Install a package and translate lines into German. Each line is one sentence.

    Args:
        package: `.argosmodel` file.
        home: folder in which Argos Translate keeps its data.
        compute_type: number type in which CTranslate2 computes.
    """
    _write_splitter(home / "data" / "argos-translate" / "minisbd" / f"{source_lang}.onnx")
    folders = {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("DATA", "CONFIG", "CACHE")}
    ran = subprocess.run(
        [PYTHON, "-c", _PROGRAM, package, source_lang, "de"],
        input="\n".join(lines),
        env={"PATH": os.environ["PATH"], "HOME": str(home), "ARGOS_COMPUTE_TYPE": compute_type, **folders},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return ran.stdout.removesuffix("\n").split("\n")


def _write_splitter(path: Path) -> None:
    """Write a model of MiniSBD for which each paragraph is one sentence: it marks the last character as its end."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    end, other = 2, 0  # labels of MiniSBD
    weight, bias = np.zeros((1, 5), np.float32), np.full(5, -9.0, np.float32)
    weight[0, end], bias[end], bias[other] = 1.0, 0.0, 0.5
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "weight"], ["scores"]),
            helper.make_node("Add", ["scores", "bias"], ["logits"]),
        ],
        "splitter",
        [
            helper.make_tensor_value_info("units", TensorProto.INT64, ["B", "T"]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", "T", 1]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "T", 5])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    units = ["<PAD>", "<UNK>"]
    vocabulary = {"lang": "en", "_unit2id": {unit: index for index, unit in enumerate(units)}, "_id2unit": units}
    properties = {"lang_code": "en", "config": {"feat_funcs": ["end_of_para"]}, "vocab": vocabulary}
    helper.set_model_props(
        model, {name: value if isinstance(value, str) else json.dumps(value) for name, value in properties.items()}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
