"""Export of an autoregressive Transformer as a model of Hugging Face's Transformers, with its tokenizer.

    model.safetensors, config.json              weights and shape, for the class named in `_CLASSES`
    generation_config.json                      search settings
    source.spm, target.spm, vocab.json          SentencePiece models and the id of each piece; target_vocab.json too if
                                                the languages have two vocabularies or two models
    tokenizer_config.json                       options of MarianTokenizer
    README.md                                   model card
    tokenizer/, text.json, dict.<lang>.txt      text processing, as in a checkpoint
    checksums.json                              sha256 of each file

Two classes of Transformers compute what kdmt's models compute:

* MarianMTModel: norms after the sublayers. Its positions are sinusoids with other frequencies, but they are a part of
  the weights, so that the rows of kdmt's positions can be stored instead. With `layout: fairseq` the ids are those of
  kdmt, and decoding starts with </s>. With `layout: marian` the ids are those of other Marian models: </s> 0, <unk> 1,
  the pieces, and a last row <pad>, which kdmt's model does not have. It is a zero vector, with which decoding starts,
  and its bias gives it the probability 0. The row of <pad> in kdmt becomes `<unused>`.
* M2M100ForConditionalGeneration: norms before the sublayers and all embeddings shared. It computes its own positions,
  which are those of fairseq.

Exporting needs only safetensors. If Transformers is installed, the new folder is loaded, and its tokens and logits are
compared with those of the checkpoint.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.tokenizer import SentencePieceModel, tokenizer_files
from kdmt.errors import UserError
from kdmt.files import naming, write_json
from kdmt.interop.export_folder import check_new, described_folder
from kdmt.interop.huggingface import import_transformers
from kdmt.interop.model_card import ExportFormat
from kdmt.interop.streaming_models import refuse_unidirectional
from kdmt.models.architecture import TransformerConfig
from kdmt.models.checkpoint import load_model, write_tensors
from kdmt.models.checkpoint_folder import log_opened, resolve_checkpoint
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import DecoderLayer, Embedder, EncoderLayer, Residual, Transformer
from kdmt.types import BOS, EOS, PAD, SPECIALS, UNK

WEIGHTS_FILE = "model.safetensors"
Kind = Literal["marian", "m2m_100"]  # `model_type` in config.json
_CLASSES: dict[Kind, str] = {"marian": "MarianMTModel", "m2m_100": "M2M100ForConditionalGeneration"}
_CHECKED_LENGTHS = (1, 4, 11, 20)  # in tokens, of the sentences that are compared after the export
_TOLERANCE = 1e-3  # of log-probabilities in float32
_NEVER = -1e4  # logit of a row without a token: its probability is 0 in float32 and float16
_UNUSED = "<unused>"  # name of kdmt's <pad> in an export with a <pad> of its own

CARD = ExportFormat(
    "Hugging Face Transformers",
    """
```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "FOLDER"  # of this file
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
batch = tokenizer(["..."], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))
```

`generation_config.json` holds the search settings. The positions of a `MarianMTModel` are stored with the weights, and
`save_pretrained` of Transformers leaves them out: after fine-tuning, add `model.encoder.embed_positions.weight` and
`model.decoder.embed_positions.weight` to the saved weights again.
""",
    library="transformers",
    tags=("transformers", "safetensors"),
)

_logger = logging.getLogger(__name__)


def export_checkpoint(checkpoint: Path, folder: Path, *, decode: Decode | None = None, card: str | None = None) -> None:
    """Write the model of a checkpoint, with its tokenizer and text processing, as a model of Transformers.

    Args:
        checkpoint: a checkpoint folder, a pointer file or a run.
        folder: the new folder.
        decode: search settings in `generation_config.json` (default: the defaults of `Decode`).
        card: model card; None for none.

    Raises:
        UserError: if there is no checkpoint, the folder exists, or Transformers has no model, tokenizer or text
            processing that is equal to the checkpoint's. An error leaves no partial folder.
    """
    check_new(folder)
    source = resolve_checkpoint(checkpoint)
    log_opened(checkpoint, source)
    codec, model = TextCodec.load(source), load_model(source)
    kind = _kind_of(model)
    check_text(codec)
    tokenizer_models = tokenizer_files(source / "tokenizer")
    ids = _number(model)
    with described_folder(folder, None, codec.companions(source), card=card) as aside:
        with naming(folder / WEIGHTS_FILE):
            write_tensors(aside / WEIGHTS_FILE, dict(_weights(model, kind, ids)), metadata={"format": "pt"})
        write_json(aside / "config.json", model_config(model, kind, ids), indent=2)
        write_json(aside / "generation_config.json", generation_config(model, ids, decode or Decode()), indent=2)
        _write_tokenizer(aside, codec, tokenizer_models, ids, model.config.max_source_positions)
        _check(aside, folder, model, codec, ids)


# ---------------------------------------------------------------------------------------------------- what is supported


def _kind_of(model: Transformer) -> Kind:
    """Return the architecture of Transformers that computes the same as a model.

    Raises:
        UserError: if there is none. The message names the setting.
    """
    config = model.config
    if isinstance(model, NATransformer):
        raise UserError(f"Transformers has no decoder for a {model.nat.family!r} model, which is non-autoregressive")
    refuse_unidirectional(config, "Transformers")
    if config.has_own_tokens:
        raise UserError("the model is multilingual: the tokenizer of the export would put no language tokens in")
    if config.encoder_embed_dim != config.decoder_embed_dim:
        raise UserError("Transformers has no model with different widths of encoder and decoder")
    if config.decoder != "self_attention":
        raise UserError(f"Transformers has no model with 'model.decoder: {config.decoder}'")
    if config.layernorm_embedding:
        raise UserError("the export to Transformers supports no 'model.layernorm_embedding'")
    norms = {config.encoder_normalize_before, config.decoder_normalize_before}
    if norms == {False}:
        return "marian"
    if norms == {True, False}:
        raise UserError("Transformers has no model with norms before the sublayers in one of encoder and decoder only")
    _check_prenorm(config)
    return "m2m_100"


def _check_prenorm(config: TransformerConfig) -> None:
    if not config.share_all_embeddings:
        raise UserError("Transformers has norms before the sublayers (M2M-100) only with 'model.share_all_embeddings'")
    if config.encoder_learned_pos or config.decoder_learned_pos:
        raise UserError("Transformers has norms before the sublayers (M2M-100) only with sinusoidal positions")
    if config.encoder_embed_dim % 2:
        raise UserError("Transformers has norms before the sublayers (M2M-100) only with an even width")


def check_text(codec: TextCodec) -> None:
    """Check that tokenizers of Transformers process text in the same way.

    Raises:
        UserError: if the tokenizer is not SentencePiece, or text is processed before it.
    """
    settings = codec.text.text
    if not settings.changes_nothing:
        names = [name for name in ("normalize", "moses", "lowercase") if getattr(settings, name)]
        raise UserError(
            f"the text processing of the model ({', '.join(f'text.{name}' for name in names)}) is no part of the "
            "tokenizers of Transformers: its translations of raw text would be other ones"
        )
    if not isinstance(codec.tokenizers.source, SentencePieceModel):
        raise UserError("MarianTokenizer of Transformers needs SentencePiece models; the tokenizer is another one")


# ------------------------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class Ids:
    """Ids of the tokens of an export.

    Attributes:
        source, target: kdmt's id of each id of the export; rows after them belong to no token of kdmt.
        sizes: numbers of rows of the source and the target embeddings.
        pad: id of <pad>.
        start: id of the first decoder input.
    """

    source: list[int]
    target: list[int]
    sizes: tuple[int, int]
    pad: int
    start: int

    @property
    def eos(self) -> int:
        return self.target.index(EOS)

    @property
    def forbidden(self) -> list[int]:
        """Ids that are never generated."""
        return sorted({self.pad, self.target.index(PAD)})

    def find(self, side: Literal["source", "target"]) -> Tensor:
        """Return the id in the export of each id of kdmt: int64 [V]. That of <pad> is the `pad` of the export."""
        found = torch.argsort(torch.tensor(getattr(self, side)))
        return found.index_fill(0, torch.tensor([PAD]), self.pad)


def _number(model: Transformer) -> Ids:
    sizes = model.src_vocab_size, model.tgt_vocab_size
    if not model.tgt_embed.starts_from_zero:
        source, target = (list(range(size)) for size in sizes)
        return Ids(source, target, sizes, pad=PAD, start=EOS)
    source, target = ([EOS, UNK, *range(len(SPECIALS), size), BOS, PAD] for size in sizes)
    pad = max(sizes)
    return Ids(source, target, (pad + 1, pad + 1), pad=pad, start=pad)


def _weights(model: Transformer, kind: Kind, ids: Ids) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and values of the weights. Tied weights are written once."""
    config = model.config
    source = _rows(model.src_embed.tokens.weight, ids.source, ids.sizes[0])
    target = _rows(model.tgt_embed.tokens.weight, ids.target, ids.sizes[1])
    if config.share_all_embeddings:
        yield "model.shared.weight", source
    else:
        yield "model.encoder.embed_tokens.weight", source
        yield "model.decoder.embed_tokens.weight", target
        if not config.share_decoder_input_output_embed:
            yield "lm_head.weight", _rows(model.output_proj.weight, ids.target, ids.sizes[1])
    if kind == "marian":
        yield "final_logits_bias", _logits_bias(model, ids)
        size = _num_positions(model)
        for side, embedder, rows in (
            ("encoder", model.src_embed, config.max_source_positions),
            ("decoder", model.tgt_embed, config.max_target_positions),
        ):
            yield f"model.{side}.embed_positions.weight", _position_table(embedder, rows, size)
    for side, layers in (("encoder", model.encoder_layers), ("decoder", model.decoder_layers)):
        for number, layer in enumerate(layers):
            yield from _layer(f"model.{side}.layers.{number}", cast("EncoderLayer | DecoderLayer", layer))
    for side, norm in (("encoder", model.encoder_norm), ("decoder", model.decoder_norm)):
        if norm is not None:
            yield from _affine(f"model.{side}.layer_norm", norm)


def _rows(weight_VD: Tensor, order: Sequence[int], size: int) -> Tensor:
    """Return the rows `order` of a matrix, followed by zeros up to `size` rows."""
    return _copy(nn.functional.pad(weight_VD[order], (0, 0, 0, size - len(order))))


def _logits_bias(model: Transformer, ids: Ids) -> Tensor:
    """Return the bias of the output projection [1, V]; it gives rows without a token the probability 0."""
    bias_V = model.output_proj.bias
    if bias_V is None:
        bias_V = torch.zeros(model.tgt_vocab_size)
    return _copy(nn.functional.pad(bias_V[ids.target], (0, ids.sizes[1] - len(ids.target)), value=_NEVER)[None])


def _layer(prefix: str, layer: EncoderLayer | DecoderLayer) -> Iterator[tuple[str, Tensor]]:
    attention = layer.self_attn
    assert attention is not None  # other decoders were refused
    yield from _projections(f"{prefix}.self_attn", ("q", "k", "v"), attention.qkv_proj)
    yield from _affine(f"{prefix}.self_attn.out_proj", attention.out_proj)
    yield from _norm(f"{prefix}.self_attn_layer_norm", layer.self_attn_residual)
    if isinstance(layer, DecoderLayer):
        cross = layer.cross_attn
        yield from _affine(f"{prefix}.encoder_attn.q_proj", cross.q_proj)
        yield from _projections(f"{prefix}.encoder_attn", ("k", "v"), cross.kv_proj)
        yield from _affine(f"{prefix}.encoder_attn.out_proj", cross.out_proj)
        yield from _norm(f"{prefix}.encoder_attn_layer_norm", layer.cross_attn_residual)
    yield from _affine(f"{prefix}.fc1", layer.ffn.fc1)
    yield from _affine(f"{prefix}.fc2", layer.ffn.fc2)
    yield from _norm(f"{prefix}.final_layer_norm", layer.ffn_residual)


def _projections(prefix: str, names: Sequence[str], stacked: nn.Linear) -> Iterator[tuple[str, Tensor]]:
    """Yield the parts of a projection whose rows are those of several projections, one after the other."""
    weights, biases = stacked.weight.chunk(len(names)), stacked.bias.chunk(len(names))
    for name, weight, bias in zip(names, weights, biases, strict=True):
        yield f"{prefix}.{name}_proj.weight", _copy(weight)
        yield f"{prefix}.{name}_proj.bias", _copy(bias)


def _norm(prefix: str, residual: Residual) -> Iterator[tuple[str, Tensor]]:
    yield from _affine(prefix, residual.norm)


def _affine(prefix: str, module: nn.Linear | nn.LayerNorm) -> Iterator[tuple[str, Tensor]]:
    yield f"{prefix}.weight", _copy(module.weight)
    yield f"{prefix}.bias", _copy(module.bias)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


def _num_positions(model: Transformer) -> int:
    return max(model.config.max_source_positions, model.config.max_target_positions)


def _position_table(embedder: Embedder, rows: int, size: int) -> Tensor:
    """Return the embeddings of the first `rows` positions as a table of `size` rows; further rows are zeros."""
    return _copy(nn.functional.pad(embedder.positions(0, rows), (0, 0, 0, size - rows)))


# ------------------------------------------------------------------------------------------------------- configuration


def model_config(model: Transformer, kind: Kind, ids: Ids) -> dict[str, Any]:
    """Return the content of `config.json`."""
    config = model.config
    shared = config.share_all_embeddings
    values = {
        "model_type": kind,
        "architectures": [_CLASSES[kind]],
        "vocab_size": ids.sizes[0],
        "d_model": config.encoder_embed_dim,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "num_hidden_layers": config.encoder_layers,
        "encoder_ffn_dim": config.encoder_ffn_embed_dim,
        "decoder_ffn_dim": config.decoder_ffn_embed_dim,
        "encoder_attention_heads": config.encoder_attention_heads,
        "decoder_attention_heads": config.decoder_attention_heads,
        "activation_function": config.activation_fn,
        "scale_embedding": not config.no_scale_embedding,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "max_position_embeddings": _num_positions(model),
        "is_encoder_decoder": True,
        "use_cache": True,
        "tie_word_embeddings": shared or config.share_decoder_input_output_embed,
        "torch_dtype": "float32",
        "forced_eos_token_id": ids.eos,
        **_special_ids(ids),
    }
    if kind == "marian":
        values |= {"decoder_vocab_size": ids.sizes[1], "share_encoder_decoder_embeddings": shared}
    return values


def _special_ids(ids: Ids) -> dict[str, int]:
    return {
        "bos_token_id": ids.target.index(BOS),
        "pad_token_id": ids.pad,
        "eos_token_id": ids.eos,
        "decoder_start_token_id": ids.start,
    }


def generation_config(model: Transformer, ids: Ids, decode: Decode) -> dict[str, Any]:
    """Return search settings for the search of `kdmt translate`.

    Transformers has one maximum length for all sentences, the first decoder input counted, instead of max_len_a and
    max_len_b.
    """
    values: dict[str, Any] = {
        **_special_ids(ids),
        "forced_eos_token_id": ids.eos,
        "bad_words_ids": [[token] for token in ids.forbidden],
        "num_beams": decode.beam,
        "max_length": model.config.max_target_positions + 1,
        "min_length": 2,  # one token before </s>
        "do_sample": False,
    }
    if decode.beam > 1:
        values |= {"early_stopping": True, "length_penalty": decode.lenpen}
    return values


# ----------------------------------------------------------------------------------------------------------- tokenizer


def _write_tokenizer(
    folder: Path, codec: TextCodec, models: tuple[Path, Path], ids: Ids, max_source_positions: int
) -> None:
    """Write the files of MarianTokenizer, which looks up pieces of SentencePiece in a vocabulary."""
    for path, name in zip(models, ("source.spm", "target.spm"), strict=True):
        shutil.copy2(path, folder / name)
    source = _vocabulary(codec.src_dictionary.symbols, ids.source, ids.pad)
    target = _vocabulary(codec.tgt_dictionary.symbols, ids.target, ids.pad)
    is_separate = source != target or models[0] != models[1]
    write_json(folder / "vocab.json", source, indent=None)
    if is_separate:
        write_json(folder / "target_vocab.json", target, indent=None)
    source_lang, target_lang = codec.text.direction.sides
    specials: dict[str, Any] = {"eos_token": SPECIALS[EOS], "unk_token": SPECIALS[UNK], "pad_token": SPECIALS[PAD]}
    if languages := codec.text.language_symbols:
        specials["additional_special_tokens"] = languages  # in text, the tokenizer leaves them whole
    write_json(folder / "special_tokens_map.json", specials, indent=2)
    options = {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": source_lang,
        "target_lang": target_lang,
        "separate_vocabs": is_separate,
        "model_max_length": max_source_positions,
        "clean_up_tokenization_spaces": False,
        "sp_model_kwargs": {},
        **specials,
    }
    write_json(folder / "tokenizer_config.json", options, indent=2)


def _vocabulary(symbols: Sequence[str], order: Sequence[int], pad: int) -> dict[str, int]:
    """Return the id of each symbol in the export."""
    found = {symbols[token]: number for number, token in enumerate(order)}
    if found[SPECIALS[PAD]] != pad:
        found[_UNUSED] = found[SPECIALS[PAD]]
        found[SPECIALS[PAD]] = pad
    return found


# --------------------------------------------------------------------------------------------------------------- check


@dataclass(frozen=True)
class _Sample:
    """Sentences of random tokens, with the ids of kdmt."""

    src_tokens_BS: Tensor  # int64 [B, S]
    tgt_tokens_BT: Tensor  # int64 [B, T], the decoder input, </s> first

    @classmethod
    def draw(cls, model: Transformer) -> _Sample:
        generator = torch.Generator().manual_seed(0)
        limits = model.config.max_source_positions, model.config.max_target_positions
        sides = []
        for size, limit in zip((model.src_vocab_size, model.tgt_vocab_size), limits, strict=True):
            lengths = [min(length, limit - 1) for length in _CHECKED_LENGTHS]
            tokens_BT = torch.full((len(lengths), max(lengths) + 1), PAD)
            for row, length in zip(tokens_BT, lengths, strict=True):
                row[:length] = torch.randint(UNK, size, (length,), generator=generator)
                row[length] = EOS
            sides.append(tokens_BT)
        return cls(sides[0], sides[1].roll(1, dims=1).index_fill(1, torch.tensor([0]), EOS))


def _check(aside: Path, folder: Path, model: Transformer, codec: TextCodec, ids: Ids) -> None:
    """Compare an export with the checkpoint, if Transformers is installed.

    Raises:
        UserError: if tokens or log-probabilities differ.
    """
    try:
        transformers = import_transformers()
    except UserError as error:
        _logger.warning(f"{folder}: the export is not checked: {error}")
        return
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(str(aside), dtype=torch.float32, local_files_only=True)
    sample = _Sample.draw(model)
    difference = _largest_difference(model, theirs.eval(), sample, ids)
    if not difference <= _TOLERANCE:
        raise UserError(
            f"{folder}: Transformers {transformers.__version__} computes other probabilities from the export: "
            f"log-probabilities differ by {difference:.3g}; nothing was written"
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(aside), local_files_only=True)
    their_ids, languages = ids.find("source"), codec.text.language_symbols
    prefix = [codec.src_dictionary.index(token) for token in languages]
    sources = sample.src_tokens_BS.masked_fill(torch.isin(sample.src_tokens_BS, torch.tensor(prefix)), PAD)
    text = codec.decode_sources(*_flat(sources))
    for line, tokens in zip(text, codec.encode_source(text), strict=True):
        found = tokenizer("".join(f"{token} " for token in languages) + line)["input_ids"]
        if found != their_ids[torch.tensor([*prefix, *tokens.tolist()])].tolist():
            raise UserError(
                f"{folder}: the tokenizer of Transformers {transformers.__version__} divides {line[:80]!r} in another "
                "way; nothing was written"
            )


def _flat(tokens_BS: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return sentences without padding and </s> as one array, and their lengths."""
    rows = [row[row.ne(PAD) & row.ne(EOS)].numpy() for row in tokens_BS]
    return np.concatenate(rows), np.array([len(row) for row in rows])


@torch.inference_mode()
def _largest_difference(model: Transformer, theirs: nn.Module, sample: _Sample, ids: Ids) -> float:
    """Return the largest absolute difference of log-probabilities."""
    src_tokens_BS, tgt_tokens_BT = sample.src_tokens_BS, sample.tgt_tokens_BT
    decoder_input_BT = ids.find("target")[tgt_tokens_BT].index_fill(1, torch.tensor([0]), ids.start)
    logits_BTV = theirs(
        input_ids=ids.find("source")[src_tokens_BS],
        attention_mask=src_tokens_BS.ne(PAD).long(),
        decoder_input_ids=decoder_input_BT,
    ).logits
    theirs_BTV = logits_BTV.log_softmax(-1)[..., : len(ids.target)]
    ours_BTV = model.float().cpu()(src_tokens_BS, tgt_tokens_BT).log_softmax(-1)[..., ids.target]
    keep_BT = tgt_tokens_BT.ne(PAD)
    return float((ours_BTV - theirs_BTV).abs().amax(-1)[keep_BT].max())
