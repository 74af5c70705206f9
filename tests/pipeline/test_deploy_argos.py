"""An exported package, installed and run by the real Argos Translate (`make deploy-envs NAME=argos`)."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import ctranslate2
import numpy as np
import pytest
import sentencepiece
from small_transformers import POST_NORM, make_model, vocabulary_sizes, write_sentencepiece

from kdmt.interop.argos_export import export_checkpoint
from kdmt.interop.ctranslate2_export import export_checkpoint as export_to_ctranslate2
from kdmt.models.architecture import TransformerConfig
from kdmt.models.checkpoint import save_checkpoint

PYTHON = Path(__file__).parents[2] / ".deploy-envs" / "argos" / "bin" / "python"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no Argos Translate: make deploy-envs NAME=argos")

SHARED = replace(POST_NORM, share_all_embeddings=True)
LINES = ["abba baba", "cab", "abcb cc abac", "a b c", "bacab  aab", "cccc"]
PROGRAM = """
import sys
from argostranslate import package, translate
package.install_from_path(sys.argv[1])
translation = translate.get_translation_from_codes("en", "de")
print("\\n".join(translation.translate(line) for line in sys.stdin.read().splitlines()))
"""


@pytest.mark.parametrize("config", [SHARED, replace(SHARED, layout="marian")], ids=["fairseq", "marian"])
def test_argos_translates_as_the_ctranslate2_model(tmp_path: Path, config: TransformerConfig) -> None:
    companions = write_sentencepiece(tmp_path / "text", vocabulary_sizes(config))
    save_checkpoint(tmp_path / "a", make_model(config, eos_logit=12.0).float(), companions=companions)
    export_checkpoint(tmp_path / "a", tmp_path / "a.argosmodel")
    write_splitter(tmp_path / "data" / "argos-translate" / "minisbd" / "en.onnx")
    folders = {f"XDG_{name}_HOME": str(tmp_path / name.lower()) for name in ("DATA", "CONFIG", "CACHE")}
    ran = subprocess.run(
        [PYTHON, "-c", PROGRAM, tmp_path / "a.argosmodel"],
        input="\n".join(LINES),
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ARGOS_COMPUTE_TYPE": "int8", **folders},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    export_to_ctranslate2(tmp_path / "a", tmp_path / "ct2", quantization="int8")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "a" / "tokenizer" / "joint.model"))
    results = ctranslate2.Translator(str(tmp_path / "ct2"), compute_type="int8").translate_batch(
        [[*pieces.encode(line, out_type=str), "</s>"] for line in LINES],
        **{"beam_size": 4, "length_penalty": 0.2, "replace_unknowns": True},
    )
    expected = [pieces.decode(result.hypotheses[0]) for result in results]
    assert ran.stdout.splitlines() == expected
    assert len(set(expected)) > 1


def write_splitter(path: Path) -> None:
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
    path.parent.mkdir(parents=True)
    onnx.save(model, path)
