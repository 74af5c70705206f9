"""Named Transformer architectures under fairseq's names, and the record of one.

fairseq/models/transformer/transformer_legacy.py is the source of the figures; `transformer_multi30k` is the 4+4 layer
model of Wu et al. 2021 (Revisit-MMT), called Transformer-Tiny there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from pydantic import ConfigDict

from kdmt.choices import Activation, NATLayout, SourceCopy
from kdmt.errors import UserError
from kdmt.families import FAMILIES, FamilyName


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Everything that shapes a Transformer but its vocabularies. The defaults are fairseq's `transformer`."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)  # where it is read from JSON

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
    no_scale_embedding: bool = False  # embeddings as they are, not times sqrt(D)
    activation_fn: Activation = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    max_source_positions: int = 1024
    max_target_positions: int = 1024
    # of multilingual models, whose callers see neither: the token that the model itself puts before each source
    # sentence, and the one that it begins each translation with
    source_token: int | None = None
    target_token: int | None = None

    def __post_init__(self) -> None:
        for side in ("encoder", "decoder"):
            dim, heads = getattr(self, f"{side}_embed_dim"), getattr(self, f"{side}_attention_heads")
            if heads < 1:
                raise UserError(f"model.{side}_attention_heads ({heads}) is less than 1")
            if dim % heads:
                raise UserError(f"model.{side}_embed_dim ({dim}) is not a multiple of its attention heads ({heads})")
        if self.share_all_embeddings and self.encoder_embed_dim != self.decoder_embed_dim:
            raise UserError("model.share_all_embeddings needs encoder_embed_dim equal to decoder_embed_dim")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class NATConfig:
    """What makes a Transformer a non-autoregressive one.

    Attributes:
        family: how the decoder's output becomes a sentence.
        upsample: of `ctc` and `dag`, decoder positions for each source token.
        link_heads: of `dag`, distributions over the next vertex that are mixed.
        source_copy: of `nat`, `inat` and `nat_crf`, how the source's embeddings become decoder inputs; `none`: they do
            not, and nothing is known of any position but its place.
        crf_rank: of `nat_crf`, that of the matrix of transitions.
        crf_candidates: tokens of each position that are looked at.
        corrects: of `cmlm`, whether it writes words that it sees anew.
        layout: `fairseq` for a model that computes what fairseq's of the family does: sentences begin with <s> on both
            sides, heads that predict lengths and edits have no biases, an inserter says <pad> where nothing is missing,
            and the chain of `nat_crf` runs from <s> to </s>. Callers see no difference.
        lengths: what `nat`, `cmlm`, `inat` and `nat_crf` predict: the target's length less the source's, or itself.
        early_exit: of `levenshtein`, decoder layers that say what is deleted, where and how much is missing, and which
            words; None for all layers each time.
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

    def __post_init__(self) -> None:
        if self.layout == "fairseq" and FAMILIES[self.family].fairseq is None:
            raise UserError(f"nat.layout: fairseq has no {self.family!r} models")
        if self.early_exit is not None:  # JSON has no tuples
            object.__setattr__(self, "early_exit", tuple(self.early_exit))

    @property
    def frame(self) -> int:
        """Tokens that the model puts before each sentence."""
        return 1 if self.layout == "fairseq" else 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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
}


def architecture(name: str, overrides: Mapping[str, Any] | None = None) -> TransformerConfig:
    """The named architecture with some fields changed.

    Raises:
        UserError: for an unknown name or field.
    """
    if name not in ARCHITECTURES:
        raise UserError(f"model.arch: {name!r} is none of {', '.join(ARCHITECTURES)}")
    overrides = dict(overrides or {})
    unknown = set(overrides) - {field.name for field in fields(TransformerConfig)}
    if unknown:
        raise UserError(f"model: unknown setting {sorted(unknown)[0]!r}")
    return replace(ARCHITECTURES[name], **overrides)
