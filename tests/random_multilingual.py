"""A multilingual model with random weights: its translations are meaningless, but its scores and messages are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdmt.corpus.codec import TextCodec
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import load_model, save_checkpoint

SMALL = {"encoder_layers": 1, "decoder_layers": 1, "share_all_embeddings": True} | {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {"embed_dim": 16, "ffn_embed_dim": 16, "attention_heads": 2}.items()
}


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
