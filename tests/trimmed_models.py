"""Small multilingual models of two made-up languages in two scripts, to be trimmed to one of them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_models import Saved, random_lines, save_model
from safetensors.torch import load_file, save_file
from tiny_pipeline import WORDS

from kdmt.interop.huggingface import read_kind, read_tokenizer

LATIN = [*WORDS, *WORDS.values(), "romulp", "olpilp", "bageda", "gibide"]
CYRILLIC = [word.translate(str.maketrans("abdegiklmopru", "абдегиклмопру")) for word in LATIN]
KINDS = ("nllb", "m2m100", "mbart50")
IMPROBABLE = -16.0  # in the dimension that adds the same to a token's logit at every position


def latin_lines(count: int, *, seed: int) -> list[str]:
    """Return lines in the language that stays."""
    return random_lines(LATIN, count, seed=seed)


def save_bilingual(name: str, folder: Path) -> Saved:
    """Save a model of both languages."""
    lines = [*latin_lines(400, seed=1), *random_lines(CYRILLIC, 400, seed=2)]
    random.Random(3).shuffle(lines)
    return save_model(name, folder, lines=lines)


def make_improbable(folder: Path, tokens: Iterable[str]) -> None:
    """Change a model so that it predicts no token of these, as a trained model that translates into another language.

    With random weights, all tokens have some probability. A token that is removed then changes those of the others,
    and which hypothesis of a beam is the best.
    """
    names = read_tokenizer(folder, read_kind(folder)).names
    weights = load_file(folder / "model.safetensors")
    weights["model.shared.weight"][torch.tensor([names.index(token) for token in tokens]), 0] = IMPROBABLE
    weights["model.decoder.layer_norm.weight"][0] = 0.0  # so that its bias alone decides about this dimension
    weights["model.shared.weight"][names.index("</s>"), 0] = 0.5
    for name, weight in weights.items():
        if name.endswith("encoder_attn.out_proj.weight"):
            weight *= 10  # so that translations depend on the source
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def write_text(path: Path, lines: list[str]) -> Path:
    """Write lines to a file and return its path."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
