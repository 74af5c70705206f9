"""Non-autoregressive Transformers (Gu et al. 2018).

The encoder and the layers are those of `transformer`. A decoder position attends to all others of its sentence, and no
position waits for the output of an earlier one: the inputs come from the source or from a draft of the target.

Shapes: B batch, S source length, L decoder positions, V vocabulary, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdmt.families import FAMILIES
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.edit_heads import EditHeads, neighbours
from kdmt.models.length_prediction import LengthHead, soft_copy, uniform_copy
from kdmt.models.links import LinkHead
from kdmt.models.prefix_masks import chunk_mask
from kdmt.models.transformer import EncoderOutput, Trace, Transformer
from kdmt.models.transitions import Transitions
from kdmt.types import BOS, EOS, UNK, Packing

_POSITIONS_AT_ONCE = 1024  # number of positions whose logits exist at one time, in decoding

# function of the number of a decoder layer, from 0, its features [B, L, D] and its predictions int64 [B, L], which
# returns the symbols that the next layer reads, int64 [B, L]
Revise = Callable[[int, Tensor, Tensor], Tensor]

Policy = Literal["deletion", "placeholders", "words"]
_POLICIES: tuple[Policy, ...] = ("deletion", "placeholders", "words")


class NATransformer(Transformer):
    """Transformer with a non-causal decoder.

    The output of a `ctc` decoder has one row more than the dictionary: the last row is the blank.

    Args:
        nat: family and its settings.
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
            source_positions=config.max_source_positions + nat.frame,
            decoder_positions=_decoder_positions(config, nat),
        )
        self.nat, self.family = nat, FAMILIES[nat.family]
        dim = config.decoder_embed_dim
        if nat.family == "ctc":
            self.blank_1D = nn.Parameter(torch.empty(1, dim))
            nn.init.normal_(self.blank_1D, mean=0.0, std=dim**-0.5)
        if nat.family == "dag":
            self.links = LinkHead(dim, nat.link_heads)
        if self.family.positions == "target":
            self.lengths = LengthHead(
                config.encoder_embed_dim,
                bias=nat.layout == "own",
                absolute=nat.lengths == "length",
                frame=nat.frame,
            )
        if self.family.positions == "target" and nat.source_copy == "soft":
            self.log_temperature = nn.Parameter(torch.zeros(()))
        if nat.family == "nat_crf":
            self.transitions = Transitions(tgt_vocab_size, nat.crf_rank)
        if nat.family == "levenshtein":
            self.edits = EditHeads(dim, bias=nat.layout == "own")
        if nat.family == "insertion":
            self.slot_proj = nn.Linear(2 * dim, dim)
        if nat.dslp:
            self.layer_inputs = nn.ModuleList(_layer_input(dim) for _ in range(config.decoder_layers - 1))

    @property
    def blank(self) -> int:
        """Id of the blank."""
        return self.tgt_vocab_size

    @property
    def nothing(self) -> int:
        """Id that an `insertion` model predicts for a slot in which nothing is missing."""
        return self.pad if self.nat.layout == "fairseq" else EOS

    @property
    def output_weight_VD(self) -> Tensor:
        """See `Transformer.output_weight_VD`. In the `ctc` family it has a row for the blank too."""
        weight_VD = self.output_proj.weight
        return torch.cat([weight_VD, self.blank_1D]) if self.nat.family == "ctc" else weight_VD

    @property
    def iterates(self) -> bool:
        """Whether decoding takes several passes."""
        return self.family.iterates

    @property
    def max_decoder_positions(self) -> int:
        """Largest number of decoder positions of a sentence."""
        return _decoder_positions(self.config, self.nat)

    def upsample(
        self, src_tokens_BS: Tensor, repeats_B: Tensor | None = None, *, width: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the source embeddings, each repeated, as decoder inputs (Libovicky & Helcl 2018).

        With `nat.source_copy: none`, all inputs are the embedding of <unk>.

        Args:
            repeats_B: int64, number of copies of each source token (default: `nat.upsample`).
            width: L, if there are `repeats_B` (default: the largest number of positions of a sentence, for which the
                host waits if the tokens are on a GPU).

        Returns:
            The inputs without positions (`tgt_embed.place` adds them), [B, L, D], and a mask that is True on real
            positions, bool [B, L].
        """
        tokens_BL = self._repeated(src_tokens_BS, repeats_B, width)
        keep_BL = tokens_BL.ne(self.pad)
        if self.nat.source_copy == "none":
            unknown_BL = torch.where(keep_BL, UNK, self.pad)
            return self.tgt_embed.look_up(unknown_BL), keep_BL
        return self.src_embed.look_up(tokens_BL), keep_BL

    def _repeated(self, src_tokens_BS: Tensor, repeats_B: Tensor | None, width: int | None) -> Tensor:
        """Return the source tokens, each repeated `repeats_B` times in a row: [B, L]."""
        if repeats_B is None:
            return src_tokens_BS.repeat_interleave(self.nat.upsample, dim=1)
        lengths_B = repeats_B * src_tokens_BS.ne(self.pad).sum(1)
        columns_L = torch.arange(int(lengths_B.max()) if width is None else width, device=src_tokens_BS.device)
        index_BL = (columns_L // repeats_B[:, None]).clamp_max(src_tokens_BS.size(1) - 1)
        return src_tokens_BS.gather(1, index_BL).masked_fill(columns_L >= lengths_B[:, None], self.pad)

    def best_symbols(self, features_BLD: Tensor, *, eos_penalty: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the most probable token or blank at each position, int64, and its natural log-probability.

        Both results are [B, L]. Families that read their own output cannot predict padding. The blank is handled
        separately, since `output_weight_VD` with its row is a copy, which would slow down decoding of a single
        sentence.

        Args:
            eos_penalty: number that is subtracted from the logit of </s>; in the `insertion` family, from the logit of
                `nothing`.
        """
        parts = [
            self._best_symbols(part_MD, eos_penalty) for part_MD in features_BLD.flatten(0, 1).split(_POSITIONS_AT_ONCE)
        ]
        symbols_M, log_probs_M = (torch.cat(each) for each in zip(*parts, strict=True))
        return symbols_M.view(features_BLD.shape[:2]), log_probs_M.view(features_BLD.shape[:2])

    def _best_symbols(self, features_MD: Tensor, eos_penalty: float) -> tuple[Tensor, Tensor]:
        """Return the results of `best_symbols` for M positions: [M] each."""
        logits_MV = features_MD @ self.output_proj.weight.t()
        logits_MV[:, self.nothing if self.nat.family == "insertion" else EOS] -= eos_penalty
        pad_M = logits_MV[:, self.pad].clone()
        if self.family.positions != "aligned" and not self._says_padding:
            logits_MV[:, self.pad] = -torch.inf  # padding marks the end of a draft
        peak_M, symbols_M = logits_MV.max(1)
        # in float16 a sum over a flat distribution of 65,505 tokens or more would be infinite
        whole = torch.promote_types(logits_MV.dtype, torch.float32)
        total_M = logits_MV.sub_(peak_M[:, None]).exp_().sum(1, dtype=whole)
        if self.nat.layout == "fairseq" and not self._says_padding:
            total_M += (pad_M - peak_M).exp()  # fairseq does not output padding either, but counts its probability
        if self.nat.family != "ctc":
            return symbols_M, -total_M.log()
        over_M = (features_MD @ self.blank_1D[0]) - peak_M  # logit of the blank minus the logit of the best token
        higher_M = over_M.clamp_min(0.0)
        total_M = total_M * (-higher_M).exp() + (over_M - higher_M).exp()
        return symbols_M.masked_fill(over_M > 0.0, self.blank), -total_M.log()

    @property
    def _says_padding(self) -> bool:
        return self.nat.family == "insertion" and self.nothing == self.pad

    def look_up_output(self, symbols_BL: Tensor) -> Tensor:
        """Return the embeddings of output symbols, which may be blanks in the `ctc` family: [B, L, D].

        Positions are not added.
        """
        if self.nat.family != "ctc":
            return self.tgt_embed.look_up(symbols_BL)
        is_blank_BL = symbols_BL.eq(self.blank)
        x_BLD = self.tgt_embed.look_up(symbols_BL.masked_fill(is_blank_BL, self.pad))
        return torch.where(is_blank_BL[:, :, None], self.blank_1D * self.tgt_embed.scale, x_BLD)

    def vertices(
        self, src_tokens_BS: Tensor, repeats_B: Tensor | None = None, *, width: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs of a directed acyclic decoder: <s>, then <unk> at all other positions, then </s>.

        The number of positions, the arguments and the results are those of `upsample`.
        """
        keep_BL = self._repeated(src_tokens_BS, repeats_B, width).ne(self.pad)
        tokens_BL = torch.full_like(keep_BL, UNK, dtype=src_tokens_BS.dtype).masked_fill_(~keep_BL, self.pad)
        tokens_BL[:, 0] = BOS
        tokens_BL.scatter_(1, keep_BL.sum(1, keepdim=True) - 1, EOS)
        return self.tgt_embed.look_up(tokens_BL), keep_BL

    def link(self, features_BLD: Tensor, keep_BL: Tensor) -> Tensor:
        """Return the log-probabilities of the next vertex, [B, L, L]. See `LinkHead`."""
        return self.links(features_BLD, self.tgt_embed.positions(0, features_BLD.size(1)), keep_BL)

    def fill(
        self,
        src_tokens_BS: Tensor,
        seen_BT: Tensor,
        encoder_output: EncoderOutput,
        trace: Trace | None = None,
        revise: Revise | None = None,
    ) -> Tensor:
        """Return decoder features in families that have a position for each target token: [B, T, D].

        Args:
            seen_BT: visible tokens of the target, <unk> where the token is hidden. In families that copy the source,
                the input of a hidden position is a copy of the source embeddings at the corresponding positions.
            revise: see `decode_all`.
        """
        return self.fill_framed(src_tokens_BS, seen_BT, encoder_output, trace, revise)[:, self.nat.frame :]

    def fill_framed(
        self,
        src_tokens_BS: Tensor,
        seen_BT: Tensor,
        encoder_output: EncoderOutput,
        trace: Trace | None = None,
        revise: Revise | None = None,
    ) -> Tensor:
        """Return the result of `fill`, preceded by the features of the <s> that the model puts before the target.

        Only models of the fairseq layout put <s> before the target.
        """
        copied_BT = seen_BT.eq(UNK)
        if self.nat.layout == "fairseq":
            # in fairseq the inputs of <s> and </s> are copies of the source too in the first pass; in later passes no
            # input is a copy
            nothing_known_B1 = (copied_BT | seen_BT.eq(EOS) | seen_BT.eq(self.pad)).all(1, keepdim=True)
            seen_BT = self._framed(seen_BT)
            copied_BT = nothing_known_B1.expand_as(seen_BT)
        keep_BT = seen_BT.ne(self.pad)
        x_BTD = self.tgt_embed.look_up(seen_BT)
        if self.family.copies_source and self.nat.source_copy != "none":
            copies_BTD = self._copied(self._framed(src_tokens_BS), keep_BT)
            x_BTD = torch.where(copied_BT[:, :, None], copies_BTD, x_BTD)
        return self.decode_all(x_BTD, keep_BT, encoder_output, trace, revise=revise)

    def encode(
        self, src_tokens_BS: Tensor, trace: Trace | None = None, packing: Packing | None = None
    ) -> EncoderOutput:
        """See `Transformer.encode`. The output has one more position if the model puts <s> before the source.

        Raises:
            ValueError: if the sentences are packed.
        """
        if packing is not None:
            raise ValueError("a non-autoregressive model does not read packed sentences")
        return super().encode(self._framed(src_tokens_BS), trace)

    def _encoder_masks(self, keep_BS: Tensor) -> list[Tensor | None]:
        """See `Transformer._encoder_masks`.

        In a streaming model only the first layer sees tokens after the chunk, so that the output of a chunk depends on
        no more than `right_context` of them, however many layers there are.
        """
        if self.nat.streaming is None:
            return super()._encoder_masks(keep_BS)
        chunk, right_context = self.nat.streaming
        length, keep_B11S = keep_BS.size(1), keep_BS[:, None, None, :]
        first, others = (
            keep_B11S
            & chunk_mask(length, length, query_chunk=chunk, key_chunk=chunk, ahead=ahead, device=keep_BS.device)
            for ahead in (right_context, 0)
        )
        masks: list[Tensor | None] = [first, *[others] * (len(self.encoder_layers) - 1)]
        return masks[: len(self.encoder_layers)]  # there may be no layer

    def _decoder_masks(
        self, x_BTD: Tensor, encoder_output: EncoderOutput, keep_BT: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Transformer._decoder_masks`. In a streaming model a position sees no later chunk of either side."""
        if self.nat.streaming is None:
            return super()._decoder_masks(x_BTD, encoder_output, keep_BT)
        assert keep_BT is not None, "decoder positions are masked"
        chunk, length, keep_BS = self.nat.streaming[0], x_BTD.size(1), encoder_output.keep_BS
        own, device = self.nat.upsample * chunk, keep_BS.device
        source = chunk_mask(length, keep_BS.size(1), query_chunk=own, key_chunk=chunk, device=device)
        itself = chunk_mask(length, length, query_chunk=own, key_chunk=own, device=device)
        return keep_BS[:, None, None, :] & source, keep_BT[:, None, None, :] & itself

    def _framed(self, tokens_BT: Tensor) -> Tensor:
        """Put <s> before each sentence in models of the fairseq layout; padding is on the right."""
        return F.pad(tokens_BT, (self.nat.frame, 0), value=BOS)

    def _copied(self, src_tokens_BS: Tensor, keep_BT: Tensor) -> Tensor:
        """Return copies of the source embeddings as decoder inputs: [B, T, D]."""
        x_BSD, src_keep_BS = self.src_embed.look_up(src_tokens_BS), src_tokens_BS.ne(self.pad)
        lengths_B, width = keep_BT.sum(1), keep_BT.size(1)
        if self.nat.source_copy == "soft":
            return soft_copy(x_BSD, src_keep_BS, lengths_B, width, log_temperature=self.log_temperature)
        return uniform_copy(x_BSD, src_keep_BS, lengths_B, width)

    def read_draft(
        self,
        draft_BN: Tensor,
        encoder_output: EncoderOutput,
        trace: Trace | None = None,
        *,
        policy: Policy = "words",
    ) -> Tensor:
        """Return the features of the tokens of a draft, including <s> and </s>, in families that edit: [B, N, D].

        Args:
            policy: prediction that the features are used for; with `early_exit` it decides the number of layers.
        """
        layers = None if self.nat.early_exit is None else self.nat.early_exit[_POLICIES.index(policy)]
        x_BND, keep_BN = self.tgt_embed.look_up(draft_BN), draft_BN.ne(self.pad)
        return self.decode_all(x_BND, keep_BN, encoder_output, trace, layers=layers)

    def slots(self, features_BND: Tensor) -> Tensor:
        """Return the features of the slots between neighbours in the `insertion` family: [B, N - 1, D]."""
        return self.slot_proj(neighbours(features_BND))

    def decode_all(
        self,
        x_BLD: Tensor,
        keep_BL: Tensor,
        encoder_output: EncoderOutput,
        trace: Trace | None = None,
        *,
        layers: int | None = None,
        revise: Revise | None = None,
    ) -> Tensor:
        """Return the decoder features of all positions, computed in parallel, before the output projection: [B, L, D].

        Args:
            x_BLD: inputs without positions.
            keep_BL: bool, real positions.
            layers: number of decoder layers to run, from the first one; None for all.
            revise: function that replaces predictions of the lower layers; only with `nat.dslp`.
        """
        between = partial(self._with_predictions, revise=revise) if self.nat.dslp else None
        return self._decode(self.tgt_embed.place(x_BLD), encoder_output, trace, keep_BL, layers=layers, between=between)

    def _with_predictions(self, number: int, x_BLD: Tensor, *, revise: Revise | None) -> Tensor:
        """Return the input of the layer after layer `number`: W [h ; e(argmax p)], [B, L, D] (Huang et al. 2022, DSLP).

        h is the output of the layer, p its distribution over the symbols, and e the embedding of a symbol.
        """
        features_BLD = x_BLD if self.decoder_norm is None else self.decoder_norm(x_BLD)
        symbols_BL = self._predicted(features_BLD)
        if revise is not None:
            symbols_BL = revise(number, features_BLD, symbols_BL)
        both_BLE = torch.cat([x_BLD, self.look_up_output(symbols_BL).to(x_BLD.dtype)], dim=-1)
        return self.layer_inputs[number](both_BLE).to(x_BLD.dtype)  # autocast computes in another type

    @torch.no_grad()
    def _predicted(self, features_BLD: Tensor) -> Tensor:
        """Return the most probable symbols, as `best_symbols` does, int64 [B, L]."""
        weight_VD, features_MD = self.output_weight_VD, features_BLD.flatten(0, 1)
        whole = torch.compiler.is_exporting()  # an exported program has no number of parts
        parts = (features_MD,) if whole else features_MD.split(_POSITIONS_AT_ONCE)
        found = []
        for part_MD in parts:
            logits_MV = part_MD @ weight_VD.t()
            if self.family.positions != "aligned":
                logits_MV[:, self.pad] = -torch.inf
            found.append(logits_MV.argmax(1))
        return torch.cat(found).view(features_BLD.shape[:2])

    def deep_trace(self) -> Trace:
        """Return a trace that keeps the outputs of all decoder layers except the last."""
        return Trace(frozenset(("decoder", layer) for layer in range(len(self.decoder_layers) - 1)))

    def lower_layers(self, trace: Trace) -> list[Tensor]:
        """Return decoder features as if each lower layer were the last one: [B, L, D] each."""
        states = [trace.found["decoder", layer] for layer in range(len(self.decoder_layers) - 1)]
        return states if self.decoder_norm is None else [self.decoder_norm(state) for state in states]


def _layer_input(dim: int) -> nn.Linear:
    """Return the projection of a hidden state and the embedding of a prediction."""
    projection = nn.Linear(2 * dim, dim, bias=False)
    nn.init.xavier_uniform_(projection.weight)
    return projection


def _decoder_positions(config: TransformerConfig, nat: NATConfig) -> int:
    positions = FAMILIES[nat.family].positions
    if positions == "aligned":
        return nat.upsample * config.max_source_positions
    return config.max_target_positions + (1 if positions == "draft" or nat.frame else 0)  # <s> before the target
