"""Small Marian, mBART-50, M2M-100 and NLLB models with random weights, saved by Transformers, with their tokenizers.

The SentencePiece models of the tokenizers are trained on a made-up language.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tiny_pipeline import WORDS

DIMENSIONS: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "init_std": 0.4,  # with the default of 0.02 all tokens are almost equally probable
    "scale_embedding": True,
}


@dataclass(frozen=True)
class Saved:
    """A folder with a saved model, and the codes of its languages."""

    folder: Path
    kind: str
    source_code: str | None
    target_code: str | None

    def setting(self) -> dict[str, str]:
        """Return the model as an item of `distill.teachers`."""
        codes = {"source_code": self.source_code, "target_code": self.target_code}
        return {"huggingface": str(self.folder)} | {name: code for name, code in codes.items() if code is not None}


CODES: dict[str, tuple[str | None, str | None]] = {
    "marian": (None, None),
    "marian_multilingual": (None, "deu"),
    "mbart50": ("en_XX", "de_DE"),
    "m2m100": ("en", "de"),
    "nllb": ("eng_Latn", "deu_Latn"),
}
# how probable </s> is, and a seed with which the model generates several words and then </s>
_DRAWN = {
    "marian": (0.8, 2),
    "marian_multilingual": (1.6, 4),
    "mbart50": (0.7, 3),
    "m2m100": (0.5, 2),
    "nllb": (0.8, 6),
}
_KINDS = {"marian_multilingual": "marian"}


def save_model(name: str, folder: Path, *, other: int = 0, lines: Sequence[str] | None = None) -> Saved:
    """Save the model of this name in `CODES`.

    Args:
        name: name of the model.
        folder: folder, which must not exist.
        other: another value gives other weights.
        lines: text from which the SentencePiece model is learnt (default: the made-up language).
    """
    import transformers

    folder.mkdir(parents=True)
    kind = _KINDS.get(name, name)
    size = {"marian": _marian, "mbart50": _mbart50, "m2m100": _m2m100, "nllb": _nllb}[kind](
        folder, lines or _lines(), **({"codes": ("deu", "fra")} if name == "marian_multilingual" else {})
    )
    torch.manual_seed(_DRAWN[name][1] + other)
    if kind == "marian":
        last = size - 1
        config = transformers.MarianConfig(
            vocab_size=size,
            pad_token_id=last,
            decoder_start_token_id=last,
            eos_token_id=0,
            forced_eos_token_id=None,
            activation_function="swish",
            **DIMENSIONS,
        )
        model = transformers.MarianMTModel(config)
    elif kind == "mbart50":
        config = transformers.MBartConfig(
            vocab_size=size,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
            activation_function="gelu",
            **DIMENSIONS,
        )
        model = transformers.MBartForConditionalGeneration(config)
    else:
        config = transformers.M2M100Config(
            vocab_size=size, decoder_start_token_id=2, activation_function="relu", **DIMENSIONS
        )
        model = transformers.M2M100ForConditionalGeneration(config)
    _liven(model, _DRAWN[name][0])
    model.eval().save_pretrained(folder)
    return Saved(folder, kind, *CODES[name])


@torch.no_grad()
def _liven(model: Any, ending: float) -> None:
    """Change the weights so that outputs vary and end; with the initial ones, a model repeats one token to the end."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # biases and norms, which are initialised to zeros and ones
            parameter.add_(0.1 * torch.randn_like(parameter))
        elif "embed" in name or "shared" in name:
            parameter.mul_(0.5)  # otherwise each token predicts itself, because input and output embeddings are shared
    decoder, end = model.get_decoder(), model.config.eos_token_id
    last_norm = getattr(decoder, "layer_norm", None) or decoder.layers[-1].final_layer_norm
    last_norm.bias[0] += 2.0  # this dimension adds the same to a token's logit at every position
    decoder.embed_tokens.weight[:, 0] = 0.0
    decoder.embed_tokens.weight[end, 0] = ending
    if model.config.model_type != "marian":  # Marian's <pad> has no row of its own
        decoder.embed_tokens.weight[model.config.pad_token_id, 0] = -16.0  # as improbable as after training
    if "final_logits_bias" in dict(model.named_buffers()):
        model.final_logits_bias.normal_(std=0.3)


def _lines() -> list[str]:
    return random_lines([*WORDS, *WORDS.values()], 400, seed=1)


def random_lines(words: Sequence[str], count: int, *, seed: int) -> list[str]:
    """Return lines of a few random words, some with a punctuation mark at the end."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(2, 7))) + rng.choice([".", "", "!"]) for _ in range(count)]


def _train(model_type: str, lines: Sequence[str]) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=60 if len(set("".join(lines))) < 20 else 170,
        model_type=model_type,
        hard_vocab_limit=False,
        minloglevel=2,
        normalization_rule_name="nmt_nfkc",
    )
    return model.getvalue()


def _pieces(model: bytes) -> list[str]:
    """Return the pieces of a SentencePiece model without <unk>, <s> and </s>."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(index) for index in range(3, processor.get_piece_size())]


def _write_vocabulary(path: Path, symbols: list[str]) -> None:
    path.write_text(json.dumps({symbol: index for index, symbol in enumerate(symbols)}), encoding="utf-8")


def _marian(folder: Path, lines: Sequence[str], codes: tuple[str, ...] = ()) -> int:
    import transformers

    model = _train("unigram", lines)
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(model)
    symbols = ["</s>", "<unk>", *_pieces(model), *(f">>{code}<<" for code in codes), "<pad>"]
    _write_vocabulary(folder / "vocab.json", symbols)
    transformers.MarianTokenizer.from_pretrained(folder, source_lang="en", target_lang="de").save_pretrained(folder)
    return len(symbols)


def _mbart50(folder: Path, lines: Sequence[str]) -> int:
    import transformers

    (folder / "sentencepiece.bpe.model").write_bytes(_train("unigram", lines))
    tokenizer = transformers.MBart50Tokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _m2m100(folder: Path, lines: Sequence[str]) -> int:
    import transformers

    model = _train("bpe", lines)
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *_pieces(model)]
    _write_vocabulary(folder / "vocab.json", symbols)
    tokenizer = transformers.M2M100Tokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return len(symbols) + len(tokenizer.lang_code_to_token) + 8  # and rows without a token


def _nllb(folder: Path, lines: Sequence[str]) -> int:
    import transformers

    (folder / "sentencepiece.bpe.model").write_bytes(_train("bpe", lines))
    codes = ["deu_Latn", "eng_Latn", "fra_Latn"]
    tokenizer = transformers.NllbTokenizer.from_pretrained(folder, src_lang="eng_Latn", extra_special_tokens=codes)
    tokenizer.save_pretrained(folder)
    return len(tokenizer) + 3
