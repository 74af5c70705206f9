"""Random Transformers with many configurations, for tests that compare another engine with PyTorch's."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from kdmt.config import Text, Tokenizer
from kdmt.corpus.binarize import data_prefix
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedWriter
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.languages import Direction
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_transformer
from kdmt.models.transformer import DecoderLayer, Transformer
from kdmt.types import EOS, PAD, SPECIALS

SRC_VOCAB, TGT_VOCAB = 15, 18
POSITIONS = 24

POST_NORM = TransformerConfig(
    encoder_layers=2,
    decoder_layers=2,
    encoder_embed_dim=16,
    decoder_embed_dim=16,
    encoder_ffn_embed_dim=24,
    decoder_ffn_embed_dim=20,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    max_source_positions=POSITIONS,
    max_target_positions=POSITIONS,
)
CONFIGS = {
    "post-norm": POST_NORM,
    "pre-norm": replace(POST_NORM, encoder_normalize_before=True, decoder_normalize_before=True),
    "pre-norm encoder, post-norm decoder": replace(POST_NORM, encoder_normalize_before=True),
    "post-norm encoder, pre-norm decoder": replace(POST_NORM, decoder_normalize_before=True),
    "learned positions": replace(POST_NORM, encoder_learned_pos=True, decoder_learned_pos=True),
    "one side's positions learned": replace(POST_NORM, decoder_learned_pos=True),
    "normalised embeddings": replace(POST_NORM, layernorm_embedding=True),
    "all embeddings shared": replace(POST_NORM, share_all_embeddings=True),
    "target embeddings shared": replace(POST_NORM, share_decoder_input_output_embed=True),
    "gelu": replace(POST_NORM, activation_fn="gelu"),
    "other depths": replace(POST_NORM, encoder_layers=3, decoder_layers=1),
    "other widths and heads": replace(
        POST_NORM, encoder_embed_dim=24, encoder_attention_heads=3, decoder_attention_heads=4
    ),
    "an odd width": replace(POST_NORM, encoder_embed_dim=15, encoder_attention_heads=1),
    "Marian's layout": replace(POST_NORM, layout="marian", share_all_embeddings=True),
    "Marian's layout, swish": replace(POST_NORM, layout="marian", activation_fn="swish", layernorm_embedding=True),
    "everything at once": replace(
        POST_NORM,
        encoder_layers=1,
        decoder_layers=3,
        encoder_normalize_before=True,
        decoder_normalize_before=True,
        encoder_learned_pos=True,
        layernorm_embedding=True,
        share_all_embeddings=True,
        activation_fn="gelu",
        encoder_attention_heads=4,
        max_source_positions=POSITIONS + 2,
    ),
}


def vocabulary_sizes(config: TransformerConfig) -> tuple[int, int]:
    return (TGT_VOCAB, TGT_VOCAB) if config.share_all_embeddings else (SRC_VOCAB, TGT_VOCAB)


def symbols(size: int, side: str = "") -> list[str]:
    return [*SPECIALS, *(f"{side}{number}" for number in range(len(SPECIALS), size))]


def make_model(
    config: TransformerConfig = POST_NORM,
    *,
    seed: int = 0,
    pad_logit: float = -30.0,
    eos_logit: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Transformer:
    """Return a model with random weights, in which all norms differ.

    <pad> has the same logit at all positions; the logit of </s> rises with the position, starting near `eos_logit`.
    """
    torch.manual_seed(seed)
    src_size, tgt_size = vocabulary_sizes(config)
    model = build_transformer(config, src_vocab_size=src_size, tgt_vocab_size=tgt_size).double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
            if isinstance(module, torch.nn.Linear) and module.bias is not None:
                module.bias.normal_(std=0.1)
        fix_logits(model, pad_logit, eos_logit)
    return model.to(dtype)


def fix_logits(model: Transformer, pad_logit: float, eos_logit: float) -> None:
    """Set the logits of <pad> and </s>.

    The last norm gives the features a sum of `dim`, so that a constant row of the output matrix is a constant logit.
    """
    last_layer = model.decoder_layers[-1]
    assert isinstance(last_layer, DecoderLayer)
    norm = model.decoder_norm or last_layer.ffn_residual.norm
    dim = model.config.decoder_embed_dim
    norm.weight.fill_(2.0)  # sharper than fresh weights, so that hypotheses differ
    norm.bias.fill_(1.0)
    model.output_proj.weight[PAD] = pad_logit / dim
    model.output_proj.weight[EOS] = eos_logit / dim + 8.0 * _way_to_the_end(model)


def _way_to_the_end(model: Transformer) -> torch.Tensor:
    """Return a row of the output matrix whose logit rises by 1 on average from the early to the late positions."""
    src_tokens = torch.randint(3, SRC_VOCAB, (20, 8))
    prev_tokens = torch.randint(3, TGT_VOCAB, (20, POSITIONS))
    features = model.decode(prev_tokens, model.encode(src_tokens)).mean(0)[:, : model.config.decoder_embed_dim]
    way = features[POSITIONS // 2 :].mean(0) - features[: POSITIONS // 2].mean(0)
    return way / way.square().sum()


def make_sources(lengths: list[int], *, seed: int = 0) -> list[np.ndarray]:
    """Return sentences with these numbers of tokens before </s>."""
    rng = np.random.default_rng(seed)
    return [np.append(rng.integers(3, SRC_VOCAB, size=length), EOS).astype(np.int32) for length in lengths]


def write_text_processing(folder: Path, *, multiple: int = 8) -> tuple[int, list[Path]]:
    """Write a tokenizer and dictionaries of words of a and b, as in a checkpoint folder.

    Return the size of the vocabulary, which both languages share and which is a multiple of `multiple`, and the files.
    """
    folder.mkdir()
    text = folder / "train"
    text.write_text("abba baba\nab ba bab\n" * 5)
    settings = Tokenizer(type="subword-nmt", model="bpe", vocab_size=8)
    train_tokenizer(settings, (text, text), folder / "tokenizer", Direction("en", "de"))
    (folder / "text.json").write_text(json.dumps(TextProcessor(Text(), "en", "de").to_dict()))
    dictionary = Dictionary.from_counts({"a": 3, "b": 2, "ba@@": 1}, padding_factor=multiple)
    for lang in ("en", "de"):
        dictionary.save(folder / f"dict.{lang}.txt")
    return len(dictionary), TextCodec.load(folder).companions(folder)


def write_sentencepiece(folder: Path, sizes: tuple[int, int], *, joint: bool = True) -> list[Path]:
    """Write SentencePiece models and dictionaries of these sizes, as in a checkpoint folder, and return the files.

    Pieces that do not fit into a dictionary are unknown.
    """
    folder.mkdir()
    text = folder / "train"
    words = ["".join(letters) for letters in itertools.product("abc", repeat=4)]
    text.write_text("".join(f"{first} {second}\n" for first, second in itertools.pairwise(words[::2] * 3)))
    settings = Tokenizer(type="sentencepiece", vocab_size=24, joint=joint, hard_vocab_limit=False)
    tokenizers = train_tokenizer(settings, (text, text), folder / "tokenizer", Direction("en", "de"))
    (folder / "text.json").write_text(json.dumps(TextProcessor(Text(), "en", "de").to_dict()))
    for lang, tokenizer, size in zip(("en", "de"), (tokenizers.source, tokenizers.target), sizes, strict=True):
        pieces = [piece for piece in tokenizer.symbols if piece not in SPECIALS][: size - len(SPECIALS)]
        dictionary = Dictionary.from_counts(dict.fromkeys(pieces, 1), padding_factor=1)
        assert len(dictionary) == size
        dictionary.save(folder / f"dict.{lang}.txt")
    return TextCodec.load(folder).companions(folder)


def write_data_bin(folder: Path, text: Path) -> Path:
    """Write a data-bin of random text with the dictionaries of a folder of `write_sentencepiece`, and return it."""
    folder.mkdir(parents=True)
    direction = Direction("en", "de")
    rng = np.random.default_rng(1)
    for lang in direction.sides:
        dictionary = Dictionary.load(text / f"dict.{lang}.txt")
        dictionary.save(folder / f"dict.{lang}.txt")
        for split, count in (("train", 40), ("valid", 5)):
            with IndexedWriter(data_prefix(folder, split, direction, lang), len(dictionary)) as writer:
                for _ in range(count):
                    writer.add(np.array([*rng.integers(len(SPECIALS), len(dictionary), 4), EOS]))
    return folder
