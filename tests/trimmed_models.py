"""Small multilingual models of two made-up languages in two scripts, to be trimmed to one of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_models import Saved, random_lines, save_model
from safetensors.torch import load_file, save_file
from tiny_pipeline import WORDS

from kdmt.config import Text, Tokenizer
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import SentencePieceModel, train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.interop.huggingface import read_kind, read_tokenizer
from kdmt.languages import Direction
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import save_checkpoint
from kdmt.models.transformer import Transformer
from kdmt.types import SPECIALS

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


DIRECTIONS = tuple(Direction(*pair.split("-")) for pair in ("en-de", "de-en", "en-ru", "ru-en"))
SIDES = Direction("src", "tgt")
CONFIG = TransformerConfig(
    encoder_layers=1,
    decoder_layers=1,
    encoder_embed_dim=16,
    decoder_embed_dim=16,
    encoder_ffn_embed_dim=32,
    decoder_ffn_embed_dim=32,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    share_all_embeddings=True,
    max_source_positions=64,
    max_target_positions=64,
)
TAGS = ["<2de>", "<2en>", "<2ru>", "<bt>"]


def write_codec(
    folder: Path, tokenizer: Tokenizer, *, directions: tuple[Direction, ...] = DIRECTIONS, text: Text | None = None
) -> TextCodec:
    """Write a tokenizer of both scripts, the dictionaries and the text processing, and load them."""
    folder.mkdir(parents=True)
    lines = [*latin_lines(300, seed=1), *random_lines(CYRILLIC, 300, seed=2)]
    path = write_text(folder.parent / f"{folder.name}.txt", lines)
    sides = SIDES if directions else Direction("en", "de")
    model = train_tokenizer(tokenizer, (path, path), folder / "tokenizer", sides).source
    if isinstance(model, SentencePieceModel):
        symbols = [symbol for symbol in model.symbols if symbol not in SPECIALS]
    else:
        symbols = sorted({token for line in model.encode_lines(lines) for token in line.split()})
    dictionary = Dictionary.from_vocabulary([*symbols, *(TAGS if directions else ())], {})
    for lang in sides.sides:
        dictionary.save(folder / f"dict.{lang}.txt")
    processor = replace(TextProcessor(text or Text(), *sides.sides), directions=directions)
    (folder / "text.json").write_text(json.dumps(processor.to_dict()), encoding="utf-8")
    return TextCodec.load(folder)


def save_trained(folder: Path, codec: TextCodec, model: Transformer, improbable: Sequence[str] = ()) -> Path:
    """Save a model with random weights that predicts none of the tokens `improbable`."""
    with torch.no_grad():
        norm = model.decoder_layers[-1].ffn_residual.norm  # type: ignore[union-attr]
        norm.weight[0], norm.bias[0] = 0.0, 2.0
        rows = model.tgt_embed.tokens.weight
        rows.mul_(4.0)
        rows[:, 0] = 0.0
        rows[[codec.tgt_dictionary.index(symbol) for symbol in improbable], 0] = IMPROBABLE
        if model.output_proj.bias is not None:
            model.output_proj.bias.normal_(std=0.3)
    save_checkpoint(folder, model, companions=codec.companions(folder.parent / "text"))
    return folder


def save_checkpoint_of_both(folder: Path) -> Path:
    """Save a checkpoint of both languages."""
    codec = write_codec(folder / "text", Tokenizer(type="sentencepiece", model="bpe", vocab_size=120))
    size = len(codec.src_dictionary)
    return save_trained(folder / "model", codec, build_transformer(CONFIG, src_vocab_size=size, tgt_vocab_size=size))
