"""View and term of students whose decoder has more positions than the target: `ctc` and `dag`.

The loss is the negative log-likelihood of the target over all its alignments with the decoder positions. The formulas
are in `kdmt.losses.ctc` and `kdmt.losses.dag`.

Shapes: B batch, L decoder positions, T target tokens without </s>, K symbols whose probabilities are needed: those of
the target and the symbols that frame or separate them, M real decoder positions, D model width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from kdmt.choices import LossAverage, OnTooLong, Precision
from kdmt.config import NAT
from kdmt.corpus.batching import Batch
from kdmt.losses.ctc import ctc_best_alignment, ctc_log_likelihood
from kdmt.losses.dag import dag_best_alignment, dag_log_likelihood
from kdmt.losses.edit_scripts import compact, levenshtein_distance
from kdmt.losses.gathered import best_tokens, gathered_log_probs, overlapping_log_probs
from kdmt.losses.ngram_matching import ctc_ngram_similarity, dag_ngram_similarity
from kdmt.models.attention import at_least_float32
from kdmt.models.nonautoregressive import NATransformer, Revise
from kdmt.models.transformer import EncoderOutput, Trace, Transformer
from kdmt.objectives.glancing import Glance, repeated
from kdmt.objectives.mixing import drawn_replacements, mixed_with
from kdmt.objectives.objective import Pass, Prepared, Term, TracePoint, View, autocast, product_type
from kdmt.objectives.transfer import copied, indices_of, picked, put_back
from kdmt.types import BOS, EOS, PAD, UNK


@dataclass(frozen=True)
class Words:
    """Targets without their </s>."""

    tokens_BT: Tensor  # int64, padded
    lengths_B: Tensor

    def copied(self, device: torch.device) -> Words:
        """Return words of the host on a device."""
        return Words(copied(self.tokens_BT, device), copied(self.lengths_B, device))

    @classmethod
    def of(cls, batch: Batch) -> Words:
        _, tgt_tokens_BT = batch.targets
        tokens_BT = tgt_tokens_BT[:, :-1]  # without the </s> of the longest one, or padding
        if not tokens_BT.size(1):  # no target has a word
            tokens_BT = torch.full_like(tgt_tokens_BT, PAD)
        # the lengths decide, since a sentence of a data-bin may contain <s> and </s>, which frame drafts: they are
        # replaced by <unk>
        lengths_B = (tgt_tokens_BT.ne(PAD).sum(1) - 1).clamp_min(0)
        columns_T = torch.arange(tokens_BT.size(1), device=tokens_BT.device)
        words_BT = torch.where(tokens_BT.eq(BOS) | tokens_BT.eq(EOS), UNK, tokens_BT)
        return cls(words_BT.masked_fill(columns_T >= lengths_B[:, None], PAD), lengths_B)

    def framed(self) -> Tensor:
        """Return <s>, the words, </s>: [B, T + 2], padded."""
        start_B1 = torch.full_like(self.tokens_BT[:, :1], BOS)
        framed_BT = torch.cat([start_B1, self.tokens_BT, torch.full_like(start_B1, PAD)], dim=1)
        return framed_BT.scatter(1, self.lengths_B[:, None] + 1, EOS)


@dataclass(frozen=True, kw_only=True)
class AlignedPrepared(Prepared):
    """Batch with decided numbers of decoder positions.

    `num_loss_tokens` and `count` are those of all target tokens, from which the speed in the log is computed; the loss
    is divided by `num_words` or `num_alignable`.

    Attributes:
        words: targets without </s>.
        alignable_B: bool, True for targets that have an alignment.
        repeats_B: int64, number of decoder positions for each source token; None: the model's factor in all sentences.
        index_M: int64, indices of the real decoder positions in the flattened batch of positions.
        width: number of decoder positions of the longest sentence, or of padded sources, L.
        num_words: number of target tokens in the sentences that have an alignment.
        num_alignable: number of these sentences.
    """

    words: Words
    alignable_B: Tensor
    repeats_B: Tensor | None
    index_M: Tensor
    width: int
    num_words: float
    num_alignable: float


@dataclass(frozen=True)
class Reading:
    """Output of the decoder at its positions.

    Attributes:
        features_BLD: features of one layer.
        keep_BL: bool, True on real positions.
        log_probs_BLK: log-probabilities of the symbols of each sentence.
        index_M: int64, indices of the real positions, flattened.
        overlap_BL: sum over all tokens but the blank of the product of their probabilities at each position and at the
            next one; None if the view does not compute it.
    """

    model: NATransformer
    precision: Precision
    features_BLD: Tensor
    keep_BL: Tensor
    log_probs_BLK: Tensor
    index_M: Tensor
    overlap_BL: Tensor | None = None

    @property
    def positions_B(self) -> Tensor:
        return self.keep_BL.sum(1)

    @cached_property
    def links_BLL(self) -> Tensor:
        """Log-probabilities of the links of a directed acyclic decoder, with the gradient mode of the first use."""
        with autocast(self.features_BLD.device, self.precision):
            return self.model.link(self.features_BLD, self.keep_BL)


@dataclass(frozen=True)
class AlignedPass(Pass):
    """Pass of a student over a batch.

    Attributes:
        readings: output of the last layer; with deep supervision, preceded by the outputs of the lower layers.
    """

    readings: tuple[Reading, ...]


class Glimpse(NamedTuple):
    """Part of the target that a student is shown: [B, L] each.

    Attributes:
        shown_BL: bool, positions that are shown.
        symbols_BL: int64, symbols that are shown there.
        index_BL: int64, symbols of the most probable alignment as indices of `Alignment.symbols`.
    """

    shown_BL: Tensor
    symbols_BL: Tensor
    index_BL: Tensor


class Alignment(ABC):
    """Alignment between the target and the decoder positions.

    Attributes:
        frame: number of symbols that frame the words of an output.
    """

    frame = 0

    @abstractmethod
    def needed(self, words: Words) -> Tensor:
        """Return the smallest number of positions with which each target has an alignment, int64 [B]."""

    @abstractmethod
    def inputs(self, model: NATransformer, prepared: AlignedPrepared) -> tuple[Tensor, Tensor]:
        """Return decoder inputs without positions, [B, L, D], and a mask of the real ones, bool [B, L]."""

    @abstractmethod
    def symbols(self, model: NATransformer, words: Words) -> Tensor:
        """Return the symbols whose probabilities are needed, int64 [B, K]."""

    @abstractmethod
    def log_likelihood(self, reading: Reading, words: Words) -> Tensor:
        """Return log P(target) of each sentence, [B]."""

    @abstractmethod
    def similarity(self, reading: Reading, words: Words, order: int) -> Tensor:
        """Return the similarity of the expected n-grams to those of the target, 0 to 1: [B].

        Args:
            order: number of tokens of an n-gram.
        """

    @abstractmethod
    def best(self, reading: Reading, words: Words) -> tuple[Tensor, Tensor]:
        """Return the symbol of each position on the most probable path, and a mask of those that may be shown: [B, L].

        Symbols are int64, the mask is bool.
        """


class CTCArguments(TypedDict):
    """Arguments of the functions of `kdmt.losses.ctc`."""

    blank_BL: Tensor
    match_BLT: Tensor
    tgt_tokens_BT: Tensor
    lengths_B: Tensor
    tgt_lengths_B: Tensor


class CTC(Alignment):
    """Alignment of the target with an upsampled source, with blanks between equal tokens."""

    def needed(self, words: Words) -> Tensor:
        """See `Alignment.needed`: two equal tokens in a row need a blank in between."""
        same_BT = words.tokens_BT[:, 1:].eq(words.tokens_BT[:, :-1]) & words.tokens_BT[:, 1:].ne(PAD)
        return words.lengths_B + same_BT.sum(1)

    def inputs(self, model: NATransformer, prepared: AlignedPrepared) -> tuple[Tensor, Tensor]:
        """See `Alignment.inputs`."""
        x_BLD, keep_BL = model.upsample(prepared.src_tokens_BS, prepared.repeats_B, width=prepared.width)
        # target embeddings are not used without glancing, and DDP waits for a gradient of every parameter
        return x_BLD + 0.0 * model.tgt_embed.tokens.weight[0, 0], keep_BL

    def symbols(self, model: NATransformer, words: Words) -> Tensor:
        """See `Alignment.symbols`: the blank, then the words."""
        return torch.cat([torch.full_like(words.tokens_BT[:, :1], model.blank), words.tokens_BT], dim=1)

    def log_likelihood(self, reading: Reading, words: Words) -> Tensor:
        """See `Alignment.log_likelihood`."""
        return ctc_log_likelihood(**self._arguments(reading, words))

    def similarity(self, reading: Reading, words: Words, order: int) -> Tensor:
        """See `Alignment.similarity`: the F-measure."""
        assert reading.overlap_BL is not None
        arguments = self._arguments(reading, words)
        arguments["tgt_lengths_B"] = words.lengths_B
        return ctc_ngram_similarity(**arguments, overlap_BL=reading.overlap_BL, order=order)

    def best(self, reading: Reading, words: Words) -> tuple[Tensor, Tensor]:
        """See `Alignment.best`: all positions have a symbol."""
        states_BL = ctc_best_alignment(**self._arguments(reading, words))
        return torch.where(states_BL % 2 == 1, (states_BL + 1) // 2, 0), reading.keep_BL  # even states are blanks

    def _arguments(self, reading: Reading, words: Words) -> CTCArguments:
        return {
            "blank_BL": reading.log_probs_BLK[:, :, 0],
            "match_BLT": reading.log_probs_BLK[:, :, 1:],
            "tgt_tokens_BT": words.tokens_BT,
            "lengths_B": reading.positions_B,
            "tgt_lengths_B": words.lengths_B.clamp_min(1),
        }


class DAGArguments(TypedDict):
    """Arguments of the functions of `kdmt.losses.dag`."""

    match_BTL: Tensor
    links_BLL: Tensor
    tgt_lengths_B: Tensor
    vertices_B: Tensor


class DAG(Alignment):
    """Paths through a directed acyclic decoder; the first vertex is <s>, the last one </s>."""

    frame = 2

    def needed(self, words: Words) -> Tensor:
        """See `Alignment.needed`."""
        return words.lengths_B + 2

    def inputs(self, model: NATransformer, prepared: AlignedPrepared) -> tuple[Tensor, Tensor]:
        """See `Alignment.inputs`."""
        return model.vertices(prepared.src_tokens_BS, prepared.repeats_B, width=prepared.width)

    def symbols(self, model: NATransformer, words: Words) -> Tensor:  # noqa: ARG002
        """See `Alignment.symbols`: <s>, the words, </s>."""
        return words.framed()

    def log_likelihood(self, reading: Reading, words: Words) -> Tensor:
        """See `Alignment.log_likelihood`."""
        return dag_log_likelihood(**self._arguments(reading, words))

    def similarity(self, reading: Reading, words: Words, order: int) -> Tensor:
        """See `Alignment.similarity`: clipped precision times brevity penalty, <s> and </s> included."""
        return dag_ngram_similarity(**self._arguments(reading, words), tgt_tokens_BT=words.framed(), order=order)

    def best(self, reading: Reading, words: Words) -> tuple[Tensor, Tensor]:
        """See `Alignment.best`: all vertices on the path but the first and the last may be shown."""
        vertices_BK = dag_best_alignment(**self._arguments(reading, words))
        columns_K = torch.arange(vertices_BK.size(1), device=vertices_BK.device).expand_as(vertices_BK)
        inner_BK = (columns_K > 0) & (columns_K <= words.lengths_B[:, None])
        outside = reading.keep_BL.size(1)  # a column that is cut off
        index_BL = torch.zeros_like(reading.keep_BL[:, :1], dtype=torch.int64).repeat(1, outside + 1)
        index_BL.scatter_(1, vertices_BK.masked_fill(~inner_BK, outside), columns_K)
        index_BL = index_BL[:, :-1]
        return index_BL, index_BL > 0

    def _arguments(self, reading: Reading, words: Words) -> DAGArguments:
        return {
            "match_BTL": reading.log_probs_BLK.transpose(1, 2),
            "links_BLL": reading.links_BLL,
            "tgt_lengths_B": words.lengths_B + 2,
            "vertices_B": reading.positions_B,
        }


class AlignedPositions(View[AlignedPass]):
    """View in which the decoder sees inputs that are computed from the source, and with glancing some target tokens.

    Args:
        glancing: in training a first pass decides how much of the most probable alignment is shown to the second one
            (Qian et al. 2021; with CTC section 4.3, with a directed acyclic decoder Huang et al. 2022, DA-Transformer,
            section 3.4). Its errors are the positions that differ from the most probable alignment, or, for CTC, the
            edits between its output and the target. None for one pass.
        too_long: whether a target that has no alignment is left out, or its source is upsampled more in training.
        deep: whether to keep the output of the lower layers in training.
        overlap: whether to compute the overlap of neighbouring distributions.
        mixing: probability that the prediction of a lower layer is replaced by the symbol of the layer's own most
            probable alignment in training, for models with layer-wise predictions (`kdmt.objectives.mixing`). The first
            pass of glancing reads its own predictions.
    """

    def __init__(
        self,
        alignment: Alignment,
        *,
        glancing: Glance | None = None,
        too_long: OnTooLong = "skip",
        deep: bool = False,
        mixing: float = 0.0,
        overlap: bool = False,
    ) -> None:
        super().__init__()
        self.alignment, self.too_long, self.deep, self.mixing = alignment, too_long, deep, mixing
        self.overlap = overlap
        self.glancing = glancing
        self.ratio = 0.0 if glancing is None else glancing.ratio(0)

    def before_update(self, update: int) -> None:
        """See `View.before_update`."""
        if self.glancing is not None:
            self.ratio = self.glancing.ratio(update)

    def prepare(self, model: Transformer, prepared: Prepared) -> AlignedPrepared:
        """See `View.prepare`: decide on the number of decoder positions."""
        assert isinstance(model, NATransformer)
        batch, device = prepared.batch.on_host, prepared.src_tokens_BS.device
        words = Words.of(batch)
        alignable_B, repeats_B = self._repeats(model, batch.src_tokens_BS, words)
        positions_B = batch.src_tokens_BS.ne(PAD).sum(1) * (model.nat.upsample if repeats_B is None else repeats_B)
        width = batch.src_tokens_BS.size(1) * model.nat.upsample if repeats_B is None else int(positions_B.max())
        given = {each.name: getattr(prepared, each.name) for each in fields(prepared)}
        return AlignedPrepared(
            **given,
            words=words.copied(device),
            alignable_B=copied(alignable_B, device),
            repeats_B=None if repeats_B is None else copied(repeats_B, device),
            index_M=indices_of(torch.arange(width) < positions_B[:, None], device),
            width=width,
            num_words=float((words.lengths_B * alignable_B).sum()),
            num_alignable=float(alignable_B.sum()),
        )

    def _repeats(self, model: NATransformer, src_tokens_BS: Tensor, words: Words) -> tuple[Tensor, Tensor | None]:
        """Return which targets have an alignment, and the number of decoder positions for each source token.

        The former is bool [B], the latter int64 [B] or None as in `AlignedPrepared`.
        """
        needed_B, sources_B = self.alignment.needed(words), src_tokens_BS.ne(PAD).sum(1)
        has_words_B = words.lengths_B.gt(0)
        if self.too_long == "skip" or not self.training:
            return has_words_B & needed_B.le(model.nat.upsample * sources_B), None
        repeats_B = (-(-needed_B // sources_B)).clamp_min(model.nat.upsample)
        alignable_B = has_words_B & (repeats_B * sources_B).le(model.max_decoder_positions)
        return alignable_B, torch.where(alignable_B, repeats_B, model.nat.upsample)

    def passes(
        self, model: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> Iterator[AlignedPass]:
        """See `View.passes`."""
        assert isinstance(model, NATransformer)
        assert isinstance(prepared, AlignedPrepared)
        device = prepared.src_tokens_BS.device
        trace = Trace(trace_points)
        with autocast(device, precision):
            encoded = model.encode(prepared.src_tokens_BS, trace if trace_points else None)
            x_BLD, keep_BL = self.alignment.inputs(model, prepared)
        revise = self.revision(model, prepared, keep_BL, precision)
        state, glimpse = None, None
        if self.training and self.glancing is not None:
            state = self.glancing.dropout_state(device)
            with torch.no_grad():
                (first,) = self.read_positions(model, x_BLD, keep_BL, encoded, prepared, precision)
            glimpse = self.glance(first, prepared.words)
            with autocast(device, precision):
                revealed_BLD = model.look_up_output(glimpse.symbols_BL).to(x_BLD.dtype)
                x_BLD = torch.where(glimpse.shown_BL[:, :, None], revealed_BLD, x_BLD)
        deep = self.training and self.deep
        with repeated(state, device):
            readings = self.read_positions(
                model, x_BLD, keep_BL, encoded, prepared, precision, deep=deep, overlap=self.overlap, revise=revise
            )
        if glimpse is not None and self.glancing is not None and self.glancing.keep_path:
            readings = [through_shown(each, glimpse) for each in readings]
        yield AlignedPass(model, precision, prepared, trace, encoded, tuple(readings))

    def revision(
        self, model: NATransformer, prepared: AlignedPrepared, keep_BL: Tensor, precision: Precision
    ) -> Revise | None:
        """Draw the predictions of the lower layers that are replaced by symbols of alignments, None for none."""
        if not (self.training and self.mixing):
            return None
        batch, width = keep_BL.shape
        replaced_NBL = drawn_replacements(model, (batch, width), self.mixing, keep_BL.device)
        symbols_BK, index_M = self.alignment.symbols(model, prepared.words), prepared.index_M

        @torch.no_grad()
        def aligned(features_BLD: Tensor) -> Tensor:
            log_probs_BLK = _log_probs_of(symbols_BK, model, features_BLD, index_M, precision)
            reading = Reading(model, precision, features_BLD, keep_BL, log_probs_BLK, index_M)
            return symbols_BK.gather(1, self.alignment.best(reading, prepared.words)[0])

        return mixed_with(replaced_NBL & prepared.alignable_B[:, None], aligned)

    def read_positions(
        self,
        model: NATransformer,
        x_BLD: Tensor,
        keep_BL: Tensor,
        encoded: EncoderOutput,
        prepared: AlignedPrepared,
        precision: Precision,
        *,
        deep: bool = False,
        overlap: bool = False,
        revise: Revise | None = None,
    ) -> list[Reading]:
        """Return the output of the last layer; with `deep`, preceded by the outputs of the lower layers.

        Args:
            overlap: whether to compute the overlap of neighbouring distributions.
            revise: function that replaces predictions of lower layers (`NATransformer.decode_all`).
        """
        trace = model.deep_trace() if deep else None
        with autocast(x_BLD.device, precision):
            features_BLD = model.decode_all(x_BLD, keep_BL, encoded, trace, revise=revise)
            lower = [] if trace is None else model.lower_layers(trace)
        symbols_BK, index_M = self.alignment.symbols(model, prepared.words), prepared.index_M
        readings = []
        for each in (*lower, features_BLD):
            if overlap:
                log_probs_BLK, overlap_BL = _overlapping_of(symbols_BK, model, each, index_M, precision)
            else:
                log_probs_BLK, overlap_BL = _log_probs_of(symbols_BK, model, each, index_M, precision), None
            readings.append(Reading(model, precision, each, keep_BL, log_probs_BLK, index_M, overlap_BL))
        return readings

    @torch.no_grad()
    def glance(self, first: Reading, words: Words) -> Glimpse:
        """Return the positions that are shown, as many as the errors of the first pass times the ratio."""
        assert self.glancing is not None
        model = first.model
        index_BL, may_BL = self.alignment.best(first, words)
        symbols_BK = self.alignment.symbols(model, words)
        aligned_BL = symbols_BK.gather(1, index_BL)
        best_M = best_tokens(
            picked(first.features_BLD, first.index_M),
            model.output_weight_VD,
            product_type=product_type(first.precision),
        )
        best_BL = put_back(aligned_BL, first.index_M, best_M)
        if self.glancing.distance == "hamming":
            wrong_B = (best_BL.ne(aligned_BL) & may_BL).sum(1)
        else:
            wrong_B = edits_of_output(best_BL, may_BL, words, blank=model.blank)
        shown_BL = self.glancing.shown(wrong_B, may_BL, ratio=self.ratio)
        if self.glancing.reveal == "state":
            return Glimpse(shown_BL, aligned_BL, index_BL)
        return Glimpse(shown_BL, symbols_BK.gather(1, words_at_blanks(index_BL, words)), index_BL)


def _log_probs_of(
    symbols_BK: Tensor, model: NATransformer, features_BLD: Tensor, index_M: Tensor, precision: Precision
) -> Tensor:
    """Return the log-probabilities of a sentence's symbols at each of its positions, [B, L, K]; 0 on padding."""
    batch, width = features_BLD.shape[:2]
    ids_MK = symbols_BK.index_select(0, index_M // width)
    found_MK = gathered_log_probs(
        picked(features_BLD, index_M), model.output_weight_VD, ids_MK, product_type=product_type(precision)
    )
    found_MK = at_least_float32(found_MK)  # sums over a path exceed half precision
    return put_back(found_MK.new_zeros(batch, width, ids_MK.size(1)), index_M, found_MK)


def _overlapping_of(
    symbols_BK: Tensor, model: NATransformer, features_BLD: Tensor, index_M: Tensor, precision: Precision
) -> tuple[Tensor, Tensor]:
    """Return the result of `_log_probs_of`, and the overlap of each position's words with the next one's, [B, L].

    The overlap of the last position of a sentence is that with the next sentence.
    """
    batch, width = features_BLD.shape[:2]
    ids_MK = symbols_BK.index_select(0, index_M // width)
    found_MK, overlap_M = map(
        at_least_float32,
        overlapping_log_probs(
            picked(features_BLD, index_M),
            model.output_weight_VD,
            ids_MK,
            without=model.blank,
            product_type=product_type(precision),
        ),
    )
    log_probs_BLK = put_back(found_MK.new_zeros(batch, width, ids_MK.size(1)), index_M, found_MK)
    return log_probs_BLK, put_back(overlap_M.new_zeros(batch, width), index_M, overlap_M)


def through_shown(reading: Reading, glimpse: Glimpse) -> Reading:
    """Return a reading in which each shown symbol has probability 1 at its vertex, and 0 at all others.

    The likelihood is then the sum over the paths through all shown symbols, without their own probabilities.
    """
    here_BLK = torch.zeros_like(reading.log_probs_BLK, dtype=torch.bool)
    here_BLK.scatter_(2, glimpse.index_BL[:, :, None], glimpse.shown_BL[:, :, None])
    elsewhere_BLK = here_BLK.any(1, keepdim=True) & ~here_BLK
    kept_BLK = reading.log_probs_BLK.masked_fill(here_BLK, 0.0).masked_fill(elsewhere_BLK, -torch.inf)
    return replace(reading, log_probs_BLK=kept_BLK)


def words_at_blanks(index_BL: Tensor, words: Words) -> Tensor:
    """Return an alignment in which each blank is replaced by the next word, or by the last word after the end.

    Args:
        index_BL: int64, number of the word at each position on a path of CTC, counted from 1; 0 for a blank.
    """
    next_BL = (index_BL.cummax(1).values + 1).minimum(words.lengths_B[:, None])
    return torch.where(index_BL.eq(0), next_BL, index_BL)


def edits_of_output(best_BL: Tensor, may_BL: Tensor, words: Words, *, blank: int) -> Tensor:
    """Return the number of edits between a CTC output and the target, int64 [B].

    It is limited to the number of positions that may be shown.
    """
    is_new_BL = torch.cat([torch.ones_like(may_BL[:, :1]), best_BL[:, 1:].ne(best_BL[:, :-1])], dim=1)
    is_token_BL = is_new_BL & may_BL & best_BL.ne(blank)
    edits_B = levenshtein_distance(
        compact(best_BL, is_token_BL, pad=PAD, width=None if best_BL.device.type == "cpu" else best_BL.size(1)),
        words.tokens_BT,
        hyp_lengths_B=is_token_BL.sum(1),
        ref_lengths_B=words.lengths_B,
    )
    return edits_B.minimum(may_BL.sum(1))


class AlignmentLikelihood(Term[AlignedPass]):
    """Negative log-likelihood of the target over all its alignments, `loss` and `nll`; the latter always per word.

    `impossible` is the share of sentences that are left out because their target has no alignment.

    Args:
        deep_supervision: weight of `deep`, the mean of the loss over the lower layers of the decoder (Huang et al.
            2022, DSLP); 0 for none.
        average: `token` divides the sum over sentences by the number of words, `sentence` divides the loss of each
            sentence by its number of words and takes the mean over the sentences that have an alignment.
    """

    def __init__(self, alignment: Alignment, *, deep_supervision: float = 0.0, average: LossAverage = "token") -> None:
        super().__init__()
        self.alignment, self.average = alignment, average
        self.weights = {"loss": 1.0, "nll": 0.0, "impossible": 0.0}
        if deep_supervision:
            self.weights["deep"] = deep_supervision

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: words, or sentences; those without an alignment do not count."""
        assert isinstance(prepared, AlignedPrepared)
        divisor = prepared.num_words if self.average == "token" else prepared.num_alignable
        others = {"nll": prepared.num_words, "impossible": len(prepared.alignable_B)}
        return dict.fromkeys(self.weights, divisor) | others

    def forward(self, student: AlignedPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        assert isinstance(prepared, AlignedPrepared)
        found = [self.alignment.log_likelihood(each, prepared.words) for each in student.readings]
        # the likelihood of a target that needs almost all positions may underflow
        counted_B = prepared.alignable_B & torch.stack([each.detach() > -torch.inf for each in found]).all(0)
        kept, lengths_B = [torch.where(counted_B, each, 0.0) for each in found], prepared.words.lengths_B
        losses = [self.losses(each, lengths_B) for each in kept]
        if self.average == "sentence":
            losses = [each / lengths_B.clamp_min(1) for each in losses]
        sums = [each.sum() for each in losses]
        terms = {"loss": sums[-1], "nll": -kept[-1].detach().sum(), "impossible": (~counted_B).sum()}
        return {**terms, "deep": torch.stack(sums[:-1]).mean()} if len(sums) > 1 else terms

    def losses(self, log_likelihood_B: Tensor, lengths_B: Tensor) -> Tensor:  # noqa: ARG002
        """Return the loss of each sentence, before it is divided by the number of words: [B].

        Args:
            log_likelihood_B: log P(target), natural.
            lengths_B: number of words of each target.
        """
        return -log_likelihood_B


ALIGNMENTS: Mapping[str, type[Alignment]] = {"ctc": CTC, "dag": DAG}


def aligned_parts(nat: NAT) -> tuple[AlignedPositions, AlignmentLikelihood]:
    """Return the view and the term of a family."""
    alignment = ALIGNMENTS[nat.family]()
    view = AlignedPositions(
        alignment,
        glancing=Glance.of(nat),
        too_long=nat.too_long,
        deep=nat.deep_supervision > 0.0,
        overlap=nat.loss == "nmla",
        mixing=nat.dslp_mixing,
    )
    return view, AlignmentLikelihood(alignment, deep_supervision=nat.deep_supervision, average=nat.loss_average)
