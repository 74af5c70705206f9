"""Tests of models for Transformers.js: files, inputs and outputs as it expects them, tokenizer, and its translations.

The test with Transformers.js itself needs Node.js and `make deploy-envs NAME=transformers-js`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest
import transformers_js_program
from small_transformers import CONFIGS, POST_NORM, make_model, vocabulary_sizes, write_sentencepiece
from tokenizers import Tokenizer

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.errors import UserError
from kdmt.interop.transformers_js_export import export_checkpoint
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.checkpoint import load_model, save_checkpoint

SHARED = replace(POST_NORM, share_all_embeddings=True)
CHOSEN = {
    "fairseq's layout": SHARED,
    "Marian's layout": replace(SHARED, layout="marian"),
    "pre-norm": replace(CONFIGS["pre-norm"], share_all_embeddings=True),
}
LINES = ["abba baba", "cab", "  abcb cc   abac", "a b c", "bacab aab", "xyz cccc", "aabb" * 3]


def write(folder: Path, config: TransformerConfig = SHARED, *, joint: bool = True, eos_logit: float = 4.0) -> Path:
    companions = write_sentencepiece(folder.with_name(f"{folder.name}-text"), vocabulary_sizes(config), joint=joint)
    save_checkpoint(folder, make_model(config, eos_logit=eos_logit).float(), companions=companions)
    return folder


def ours(folder: Path, lines: Sequence[str]) -> list[str]:
    """Return greedy translations of kdmt without unknown tokens, which `skip_special_tokens` leaves out."""
    codec = TextCodec.load(folder)
    found = TorchEngine(load_model(folder)).decode(codec.encode_raw_source(lines), Decode(beam=1, max_len_b=200))
    return [codec.decode_target([token for token in nbest[0].tokens if token != 3]) for nbest in found]


def theirs(exported: Path, line: str) -> str:
    """Translate as Transformers.js does, whose first caches are empty but for the sizes that it knows."""
    encoder, decoder = (
        onnxruntime.InferenceSession(str(exported / "onnx" / name), providers=["CPUExecutionProvider"])
        for name in ("encoder_model.onnx", "decoder_model_merged.onnx")
    )
    config, options = (json.loads((exported / name).read_text()) for name in ("config.json", "generation_config.json"))
    tokenizer = Tokenizer.from_file(str(exported / "tokenizer.json"))
    tokens = np.array([tokenizer.encode(line).ids])
    mask = np.ones_like(tokens)
    (states,) = encoder.run(["last_hidden_state"], {"input_ids": tokens, "attention_mask": mask})
    caches: dict[str, Any] = {
        each.name: np.zeros([{"batch_size": 1}.get(size, 0) if isinstance(size, str) else size for size in each.shape])
        for each in decoder.get_inputs()
        if each.name.startswith("past_key_values.")
    }
    assert len(caches) == 4 * config["decoder_layers"]
    caches = {name: each.astype(np.float32) for name, each in caches.items()}
    names = [each.name for each in decoder.get_outputs()]
    given = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    found = [options["decoder_start_token_id"]]
    while len(found) == 1 or found[-1] != options["eos_token_id"]:
        step = {"input_ids": np.array([found[-1:]]), "use_cache_branch": np.array([len(found) > 1])}
        values = dict(zip(names, decoder.run(None, {**given, **step, **caches}), strict=True))
        logits = values["logits"][0, -1].copy()
        logits[[token for (token,) in options["bad_words_ids"]]] = -np.inf
        if len(found) < options["min_length"]:
            logits[options["eos_token_id"]] = -np.inf
        is_last = len(found) + 1 == options["max_length"]
        found.append(options["forced_eos_token_id"] if is_last else int(logits.argmax()))
        caches = {
            name: each if "encoder" in name and len(found) > 2 else values[name.replace("past_key_values", "present")]
            for name, each in caches.items()
        }
    return str(tokenizer.decode(found, skip_special_tokens=True))


@pytest.mark.parametrize("name", CHOSEN)
def test_greedy_search_over_the_graphs_translates_as_kdmt(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a", CHOSEN[name])
    export_checkpoint(tmp_path / "a", tmp_path / "out")
    expected = ours(tmp_path / "a", LINES)
    assert [theirs(tmp_path / "out", line) for line in LINES] == expected
    assert len(set(expected)) > 2


def test_files_are_those_that_transformers_js_looks_for(tmp_path: Path) -> None:
    write(tmp_path / "a")
    for quantization, suffix in (("float32", ""), ("int8", "_quantized")):
        out = tmp_path / quantization
        export_checkpoint(tmp_path / "a", out, quantization=quantization)
        names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        graphs = {f"onnx/{name}{suffix}.onnx" for name in ("encoder_model", "decoder_model_merged")}
        texts = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
        assert graphs | texts < names
        assert {name for name in names if name.endswith(".onnx")} == graphs
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("marian", ["MarianMTModel"])
    assert (config["pad_token_id"], config["eos_token_id"], config["decoder_start_token_id"]) == (1, 2, 2)


def test_tokens_are_those_of_kdmt_and_a_sentence_ends_in_eos(tmp_path: Path) -> None:
    write(tmp_path / "a")
    export_checkpoint(tmp_path / "a", tmp_path / "out")
    tokenizer, codec = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")), TextCodec.load(tmp_path / "a")
    size = len(codec.src_dictionary)
    for line, expected in zip(LINES, codec.encode_raw_source(LINES), strict=True):
        found = [token if token < size else 3 for token in tokenizer.encode(line).ids]
        assert found == expected.tolist()
        text = codec.decode_target(expected[expected != 3].tolist())
        assert tokenizer.decode(found, skip_special_tokens=True).strip() == text


REFUSED = {
    "SSRU": (replace(SHARED, layout="marian", decoder="ssru"), True, "no model with 'model.decoder: ssru'"),
    "two tokenizers": (SHARED, False, "one tokenizer for both languages"),
    "a language token": (replace(SHARED, source_token=4), True, "multilingual"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_it_does_not_run_are_refused(tmp_path: Path, name: str) -> None:
    config, joint, message = REFUSED[name]
    write(tmp_path / "a", config, joint=joint)
    with pytest.raises(UserError, match=message):
        export_checkpoint(tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_non_autoregressive_models_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "text")
    model = build_nonautoregressive(SHARED, NATConfig(family="ctc"), src_vocab_size=18, tgt_vocab_size=18)
    companions = TextCodec.load(tmp_path / "text").companions(tmp_path / "text")
    save_checkpoint(tmp_path / "a", model, companions=companions)
    with pytest.raises(UserError, match="no decoder for a 'ctc' model"):
        export_checkpoint(tmp_path / "a", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.skipif(
    not (transformers_js_program.ENVIRONMENT / "complete").is_file(), reason="make deploy-envs NAME=transformers-js"
)
@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_transformers_js_translates_as_kdmt(tmp_path: Path, quantization: str) -> None:
    write(tmp_path / "a", CHOSEN["Marian's layout"], eos_logit=20.0)
    export_checkpoint(tmp_path / "a", tmp_path / "out", quantization=quantization)
    dtype: Literal["fp32", "q8"] = "q8" if quantization == "int8" else "fp32"
    found = transformers_js_program.translate(tmp_path / "out", LINES, dtype=dtype, limit=22)
    same = sum(one == other for one, other in zip(found, ours(tmp_path / "a", LINES), strict=True))
    assert same == len(LINES) if quantization == "float32" else same >= len(LINES) / 2
