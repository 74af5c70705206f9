"""Transformer architectures with the names of fairseq, and the records that describe a model.

The numbers come from fairseq/models/transformer/transformer_legacy.py; `transformer_multi30k` is the 4+4 layer model of
Wu et al. 2021 (Revisit-MMT), where it is called Transformer-Tiny. `student_tiny`, `student_base_memory` and
`student_base` are the students of Firefox Translations (mozilla/translations, pipeline/train/configs/model; Kim et al.
2019); those that end in `_attention` are the same with self-attention in the decoder, for engines without SSRUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from pydantic import ConfigDict

from kdmt.choices import Activation, DecoderKind, Initialisation, Layout, NATLayout, SourceCopy
from kdmt.errors import UserError
from kdmt.families import FAMILIES, FamilyName


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape of a Transformer, without its vocabularies. The defaults are those of fairseq's `transformer`.

    Attributes:
        layout: `marian` for a model that computes the same as Marian's Transformer: positions are counted from 0, the
            first decoder input is a zero vector, the output projection has a bias, and 1e-6 is added to the variance
            in layer norms.
        decoder: `ssru` for decoder layers with a recurrent unit (`kdmt.models.ssru`) instead of self-attention.
        tied_decoder_layers: whether all decoder layers have the same parameters.
        unidirectional_encoder: whether an encoder position attends only to itself and earlier positions, so that the
            source can be encoded while it arrives.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)  # for reading from JSON

    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_embed_dim: int = 512
    decoder_embed_dim: int = 512
    encoder_ffn_embed_dim: int = 2048
    decoder_ffn_embed_dim: int = 2048
    encoder_attention_heads: int = 8
    decoder_attention_heads: int = 8
    encoder_normalize_before: bool = False
    decoder_normalize_before: bool = False
    encoder_learned_pos: bool = False
    decoder_learned_pos: bool = False
    share_decoder_input_output_embed: bool = False
    share_all_embeddings: bool = False
    layernorm_embedding: bool = False
    no_scale_embedding: bool = False  # do not multiply embeddings by sqrt(D)
    activation_fn: Activation = "relu"
    init: Initialisation = "fairseq"  # `bert`: see `kdmt.models.initialise.draw_bert_weights`
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    max_source_positions: int = 1024
    max_target_positions: int = 1024
    # only for multilingual models: the token that the model itself puts before each source sentence, and the token with
    # which it begins each translation; both are invisible to callers
    source_token: int | None = None
    target_token: int | None = None
    # the first token of each source is not encoded: the decoder reads it after </s>, as it reads a `target_token`, so
    # that one model translates to several languages
    target_from_source: bool = False
    right_to_left: bool = False  # the last word is predicted first, invisibly to callers of engines
    layout: Layout = "fairseq"
    decoder: DecoderKind = "self_attention"
    tied_decoder_layers: bool = False
    unidirectional_encoder: bool = False

    def __post_init__(self) -> None:
        for side in ("encoder", "decoder"):
            dim, heads = getattr(self, f"{side}_embed_dim"), getattr(self, f"{side}_attention_heads")
            if heads < 1:
                raise UserError(f"model.{side}_attention_heads ({heads}) is less than 1")
            if dim % heads:
                raise UserError(f"model.{side}_embed_dim ({dim}) is not a multiple of its attention heads ({heads})")
        if self.share_all_embeddings and self.encoder_embed_dim != self.decoder_embed_dim:
            raise UserError("model.share_all_embeddings needs encoder_embed_dim equal to decoder_embed_dim")
        if self.target_from_source and self.target_token is not None:
            raise UserError("a model has a target_token or takes it from the source (target_from_source), not both")
        if self.layout == "marian":
            self._check_marian()

    def _check_marian(self) -> None:
        """Check that Marian has such a model.

        Raises:
            UserError: if it has none.
        """
        for name in ("embed_dim", "attention_heads", "normalize_before"):
            encoder, decoder = (getattr(self, f"{side}_{name}") for side in ("encoder", "decoder"))
            if encoder != decoder:
                raise UserError(
                    f"model.layout: a model of Marian has one value for encoder_{name} ({encoder}) and "
                    f"decoder_{name} ({decoder})"
                )
        if self.encoder_embed_dim % 2:
            raise UserError(f"model.layout: Marian's positions need an even width ({self.encoder_embed_dim})")
        if self.encoder_learned_pos or self.decoder_learned_pos:
            raise UserError(
                "model.layout: 'marian' has sinusoidal positions: leave out 'encoder_learned_pos' and others"
            )
        if self.encoder_normalize_before:
            raise UserError(
                "model.layout: with norms before the sublayers, Marian normalises queries only, not keys and values: "
                "leave out 'encoder_normalize_before' and 'decoder_normalize_before'"
            )
        if self.no_scale_embedding:
            raise UserError("model.layout: Marian multiplies embeddings by sqrt(D): leave out 'no_scale_embedding'")
        if self.activation_fn == "gelu":
            raise UserError("model.layout: Marian's 'gelu' is another function: use 'relu' or 'swish'")

    @property
    def begins_with_token(self) -> bool:
        """Whether the decoder reads the token of a language between </s> and the first token of each translation."""
        return self.target_token is not None or self.target_from_source

    @property
    def more_encoder_positions(self) -> int:
        """Number of tokens that the encoder reads beyond those of the source: 1, 0 or -1."""
        return (self.source_token is not None) - self.target_from_source

    @property
    def has_own_tokens(self) -> bool:
        """Whether the model itself puts tokens of languages into sentences."""
        return self.source_token is not None or self.begins_with_token

    @property
    def layer_norm_eps(self) -> float:
        """Number added to the variance in layer norms."""
        return 1e-6 if self.layout == "marian" else 1e-5

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        names = ("target_from_source", "right_to_left", "layout", "decoder", "tied_decoder_layers")
        for name in (*names, "unidirectional_encoder"):
            if values[name] == getattr(type(self), name):  # as in descriptions of earlier versions
                del values[name]
        return values


@dataclass(frozen=True, kw_only=True)
class NATConfig:
    """Settings of a non-autoregressive Transformer.

    Attributes:
        family: family of the model, which decides how the decoder's output becomes a sentence.
        upsample: number of decoder positions for each source token (`ctc`, `dag`).
        link_heads: number of mixed distributions over the next vertex (`dag`).
        source_copy: way in which source embeddings become decoder inputs (`nat`, `inat`, `nat_crf`); with `none` they
            do not, and all unknown positions have the embedding of <unk>. A `ctc` decoder repeats each source
            embedding, unless this is `none`.
        crf_rank: rank of the matrix of transitions (`nat_crf`).
        crf_candidates: number of candidate tokens of each position (`nat_crf`).
        corrects: whether the model also predicts the visible words again (`cmlm`).
        layout: `fairseq` for a model that computes the same as fairseq's model of the family: sentences begin with <s>
            on both sides, the heads that predict lengths and edits have no biases, an `insertion` model predicts <pad>
            where nothing is missing, and the chain of `nat_crf` runs from <s> to </s>. Callers see no difference.
        lengths: prediction of `nat`, `cmlm`, `inat` and `nat_crf`: `difference` for the length of the target minus the
            length of the source, `length` for the length of the target.
        dslp: whether each decoder layer but the first reads the prediction of the layer below together with its hidden
            state (`nat`, `cmlm`, `ctc`; Huang et al. 2022, layer-wise prediction).
        early_exit: numbers of decoder layers that predict deletions, numbers of placeholders, and words
            (`levenshtein`); None for all layers in all cases.
        streaming: number of source tokens of a chunk, and number of tokens after it that a chunk depends on (`ctc`);
            None for models in which everything depends on the whole source.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    family: FamilyName
    upsample: int = 3
    link_heads: int = 4
    source_copy: Literal[SourceCopy, "none"] = "uniform"
    crf_rank: int = 32
    crf_candidates: int = 64
    corrects: bool = False
    layout: NATLayout = "own"
    lengths: Literal["difference", "length"] = "difference"
    early_exit: tuple[int, int, int] | None = None
    dslp: bool = False
    streaming: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.streaming is not None:
            object.__setattr__(self, "streaming", tuple(self.streaming))  # JSON has no tuples
            if self.family != "ctc":
                raise UserError(f"nat.streaming: there are no streaming {self.family!r} models")
            if self.streaming[0] < 1:
                raise UserError(f"nat.streaming: a chunk of {self.streaming[0]} tokens is too small")
        if self.dslp and "dslp" not in FAMILIES[self.family].settings:
            raise UserError(f"nat.dslp: there are no {self.family!r} models with layer-wise predictions")
        if self.dslp and self.layout == "fairseq":
            raise UserError("nat.dslp: fairseq has no models with layer-wise predictions ('layout: fairseq')")
        if self.layout == "fairseq" and FAMILIES[self.family].fairseq is None:
            raise UserError(f"nat.layout: fairseq has no {self.family!r} models")
        if self.early_exit is not None:  # JSON has no tuples
            object.__setattr__(self, "early_exit", tuple(self.early_exit))

    @property
    def frame(self) -> int:
        """Number of tokens that the model itself puts before each sentence."""
        return 1 if self.layout == "fairseq" else 0

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        if values["streaming"] is None:  # as in descriptions of earlier versions
            del values["streaming"]
        return values


_SMALL_SIDE = {
    "encoder_embed_dim": 64,
    "encoder_ffn_embed_dim": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_embed_dim": 64,
    "decoder_ffn_embed_dim": 64,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
}


def _student(width: int, ffn_width: int, decoder_layers: int) -> TransformerConfig:
    return TransformerConfig(
        encoder_embed_dim=width,
        encoder_ffn_embed_dim=ffn_width,
        decoder_embed_dim=width,
        decoder_ffn_embed_dim=ffn_width,
        decoder_layers=decoder_layers,
        share_all_embeddings=True,
        layout="marian",
        decoder="ssru",
    )


_STUDENTS = {
    "student_tiny": _student(256, 1536, decoder_layers=2),
    "student_base_memory": _student(384, 1536, decoder_layers=4),
    "student_base": _student(512, 2048, decoder_layers=2),
}

ARCHITECTURES: Mapping[str, TransformerConfig] = {
    "transformer": TransformerConfig(),
    "transformer_tiny": TransformerConfig(**_SMALL_SIDE),  # type: ignore[arg-type]
    "transformer_multi30k": TransformerConfig(
        encoder_embed_dim=128,
        encoder_ffn_embed_dim=256,
        encoder_layers=4,
        encoder_attention_heads=4,
        decoder_embed_dim=128,
        decoder_ffn_embed_dim=256,
        decoder_layers=4,
        decoder_attention_heads=4,
        share_all_embeddings=True,
        dropout=0.3,
    ),
    "transformer_iwslt_de_en": TransformerConfig(
        encoder_ffn_embed_dim=1024,
        encoder_attention_heads=4,
        decoder_ffn_embed_dim=1024,
        decoder_attention_heads=4,
    ),
    "transformer_big": TransformerConfig(
        encoder_embed_dim=1024,
        encoder_ffn_embed_dim=4096,
        encoder_attention_heads=16,
        decoder_embed_dim=1024,
        decoder_ffn_embed_dim=4096,
        decoder_attention_heads=16,
        dropout=0.3,
    ),
    **_STUDENTS,
    **{f"{name}_attention": replace(config, decoder="self_attention") for name, config in _STUDENTS.items()},
}


def architecture(name: str, overrides: Mapping[str, Any] | None = None) -> TransformerConfig:
    """Return the named architecture with some fields changed.

    Raises:
        UserError: if the name or a field is unknown.
    """
    if name not in ARCHITECTURES:
        raise UserError(f"model.arch: {name!r} is none of {', '.join(ARCHITECTURES)}")
    overrides = dict(overrides or {})
    unknown = set(overrides) - {field.name for field in fields(TransformerConfig)}
    if unknown:
        raise UserError(f"model: unknown setting {sorted(unknown)[0]!r}")
    return replace(ARCHITECTURES[name], **overrides)
