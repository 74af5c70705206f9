"""A multilingual model with random weights: its translations are meaningless, but its scores and messages are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tiny_pipeline
import torch
from tiny_pipeline import WORDS, kdmt, working_in, write_lines

from kdmt.corpus.codec import TextCodec
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import load_model, save_checkpoint

SIZES = {"train": 40, "valid": 4, "test": 3}
IN_LANGUAGE: dict[str, Callable[[str], str]] = {
    "en": str,
    "de": WORDS.__getitem__,
    "fr": lambda word: f"z{WORDS[word]}",
}
SMALL = {"encoder_layers": 1, "decoder_layers": 1, "share_all_embeddings": True} | {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {"embed_dim": 16, "ffn_embed_dim": 16, "attention_heads": 2}.items()
}


def document(**changes: Any) -> dict[str, Any]:
    """Return the document of a pipeline with three directions and a zero-shot one."""

    def parallel(split: str) -> dict[str, Any]:
        return {"parallel": {code: {"path": f"text/{split}.{code}"} for code in IN_LANGUAGE}}

    prepare = {
        "train": [parallel("train")],
        "valid": parallel("valid"),
        "test": {"test": parallel("test")},
        "tokenizer": {"vocab_size": 40},
        "workers": 1,
    }
    whole = {"name": "tiny", "directions": ["en-de", "en-fr", "fr-en"], "zero_shot": ["fr-de"], "prepare": prepare}
    return json.loads(json.dumps(whole | changes))


def prepare(folder: Path, made: dict[str, Any], more: Mapping[str, Callable[[str], str]] | None = None) -> Path:
    """Write the text of a pipeline, run its prepare stage, and return its folder.

    Args:
        more: word in another language for each English word.
    """
    pairs = list(dict.fromkeys(tiny_pipeline.make_pairs(600, seed=1)))
    (folder / "text").mkdir(parents=True)
    for split, size in SIZES.items():
        own, pairs = pairs[:size], pairs[size:]
        for code, word in (IN_LANGUAGE | dict(more or {})).items():
            lines = [" ".join(map(word, source.split())) for source, _ in own]
            write_lines(folder / "text" / f"{split}.{code}", lines)
    (folder / "tiny.yaml").write_text(tiny_pipeline.to_yaml(made))
    with working_in(folder):
        finished = kdmt("prepare", "tiny.yaml")
    assert finished.code == 0, finished.err
    return folder / "runs" / "tiny" / "prepare"


def write_checkpoint(prepared: Path, folder: Path, **config: Any) -> Path:
    """Write a checkpoint with random weights for the text of a prepare stage, and return its folder."""
    codec = TextCodec.load(prepared)
    torch.manual_seed(7)
    shape = TransformerConfig(max_source_positions=64, max_target_positions=64, **SMALL | config)
    model = build_transformer(
        shape, src_vocab_size=len(codec.src_dictionary), tgt_vocab_size=len(codec.tgt_dictionary)
    ).eval()
    with torch.no_grad():  # larger weights, so that each source token has an effect
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(2.0)
    save_checkpoint(folder, model, companions=codec.companions(prepared))
    return folder


def scores_in(model: Path, target_lang: str, pairs: list[tuple[str, str]]) -> list[float]:
    """Return the log-probability of each target after the source tokens `<2target_lang> ... </s>`."""
    codec, engine = TextCodec.load(model), TorchEngine(load_model(model))
    token = codec.src_dictionary.symbols.index(f"<2{target_lang}>")
    sources = [np.array([token, *ids]) for ids in codec.encode_source([source for source, _ in pairs])]
    found = engine.score_pairs(sources, codec.encode_target([target for _, target in pairs]))
    return [float(each.sum(dtype=np.float64)) for each in found]
