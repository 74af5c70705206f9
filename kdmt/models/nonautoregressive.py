"""Transformers whose decoder writes all positions at once (Gu et al. 2018).

The encoder and the layers are those of `transformer`; a decoder position sees all others of its sentence, and what it
starts from is no earlier output but something that the source alone gives.

Shapes: B batch, S source length, L decoder positions, V vocabulary, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.lengths import LengthHead, uniform_places
from kdmt.models.links import LinkHead
from kdmt.models.transformer import EncoderOutput, Trace, Transformer
from kdmt.types import BOS, EOS, UNK


class NATransformer(Transformer):
    """Encoder and non-causal decoder.

    Args:
        nat: the family and its sizes.

    With a `ctc` decoder the output has one row more than the dictionary: the blank, the last one.
    """

    def __init__(
        self, config: TransformerConfig, nat: NATConfig, *, src_vocab_size: int, tgt_vocab_size: int, pad: int
    ) -> None:
        super().__init__(
            config,
            src_vocab_size=src_vocab_size,
            tgt_vocab_size=tgt_vocab_size,
            pad=pad,
            causal=False,
            decoder_positions=nat.upsample * config.max_source_positions if nat.family in ("ctc", "dag") else None,
        )
        self.nat = nat
        dim = config.decoder_embed_dim
        if nat.family == "ctc":
            self.blank_1D = nn.Parameter(torch.empty(1, dim))
            nn.init.normal_(self.blank_1D, mean=0.0, std=dim**-0.5)
        if nat.family == "dag":
            self.links = LinkHead(dim, nat.link_heads)
        if nat.family in ("nat", "cmlm"):
            self.lengths = LengthHead(config.encoder_embed_dim)

    @property
    def blank(self) -> int:
        """The id of the blank."""
        return self.tgt_vocab_size

    @property
    def output_weight_VD(self) -> Tensor:
        """See `Transformer.output_weight_VD`; the blank's row too, where there is one."""
        weight_VD = self.output_proj.weight
        return torch.cat([weight_VD, self.blank_1D]) if self.nat.family == "ctc" else weight_VD

    def upsample(self, src_tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder inputs that are the source's embeddings, each so many times in a row (Libovicky & Helcl 2018).

        Returns:
            The inputs without positions (`tgt_embed.place`), [B, L, D], and which are real, bool [B, L].
        """
        tokens_BL = src_tokens_BS.repeat_interleave(self.nat.upsample, dim=1)
        return self.src_embed.look_up(tokens_BL), tokens_BL.ne(self.pad)

    def look_up_output(self, symbols_BL: Tensor) -> Tensor:
        """Embeddings of output tokens, the blank among them, without positions: [B, L, D]."""
        is_blank_BL = symbols_BL.eq(self.blank)
        x_BLD = self.tgt_embed.look_up(symbols_BL.masked_fill(is_blank_BL, self.pad))
        return torch.where(is_blank_BL[:, :, None], self.blank_1D * self.tgt_embed.scale, x_BLD)

    def vertices(self, src_tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder inputs of a directed acyclic decoder: <s>, nothing known, </s>, so many for each source token.

        Returns:
            As `upsample`.
        """
        keep_BL = src_tokens_BS.ne(self.pad).repeat_interleave(self.nat.upsample, dim=1)
        tokens_BL = torch.full_like(keep_BL, UNK, dtype=src_tokens_BS.dtype).masked_fill_(~keep_BL, self.pad)
        tokens_BL[:, 0] = BOS
        tokens_BL.scatter_(1, keep_BL.sum(1, keepdim=True) - 1, EOS)
        return self.tgt_embed.look_up(tokens_BL), keep_BL

    def link(self, features_BLD: Tensor, keep_BL: Tensor) -> Tensor:
        """Log-probabilities of the next vertex, [B, L, L]; see `LinkHead`."""
        return self.links(features_BLD, self.tgt_embed.positions(0, features_BLD.size(1)), keep_BL)

    def fill(
        self, src_tokens_BS: Tensor, seen_BT: Tensor, encoder_output: EncoderOutput, trace: Trace | None = None
    ) -> Tensor:
        """Features of the target's own positions, of `nat` and `cmlm`: [B, T, D].

        Args:
            seen_BT: what is known of the target, <unk> where nothing is. There a decoder of `nat` starts from the
                source token that lies opposite.
        """
        keep_BT = seen_BT.ne(self.pad)
        x_BTD = self.tgt_embed.look_up(seen_BT)
        if self.nat.family == "cmlm":
            return self.decode_all(x_BTD, keep_BT, encoder_output, trace)
        places_BT = uniform_places(src_tokens_BS.ne(self.pad).sum(1), keep_BT.sum(1), seen_BT.size(1))
        copied_BT = src_tokens_BS.gather(1, places_BT).masked_fill(~keep_BT, self.pad)
        x_BTD = torch.where(seen_BT.eq(UNK)[:, :, None], self.src_embed.look_up(copied_BT), x_BTD)
        return self.decode_all(x_BTD, keep_BT, encoder_output, trace)

    def decode_all(
        self, x_BLD: Tensor, keep_BL: Tensor, encoder_output: EncoderOutput, trace: Trace | None = None
    ) -> Tensor:
        """Decoder features of all positions at once, before the output projection: [B, L, D].

        Args:
            x_BLD: inputs without positions.
            keep_BL: bool, real positions.
        """
        return self._decode(self.tgt_embed.place(x_BLD), encoder_output, trace, keep_BL)
