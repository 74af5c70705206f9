"""Batched beam search with the rules of fairseq's `sequence_generator.py` (0.12.2).

The search receives a `Stepper`, not a model. Its rules:

* Decoding starts from </s>; <pad> is never generated, and neither is </s> before `min_len` tokens. Probabilities are
  not renormalised for this, so that the score of a hypothesis equals its teacher-forced score. As in fairseq, nothing
  else is forbidden.
* Of the 2K best continuations of a sentence, those among the first K that end in </s> are finished; the first K that do
  not end in </s> are continued.
* A sentence is done once K hypotheses are finished, or at its maximum length, where </s> is forced: at most `max_len`
  tokens and </s>. Sentences that are done are removed from the batch.
* The score of a finished hypothesis is sum(log p) / length ** lenpen, with </s> counted in both.

In fairseq, the maximum length follows from the padded batch. Here each sentence has its own, so that no result depends
on the other sentences of the batch.

Ties are broken within a sentence, independently of the batch: of equal sums the earlier beam goes first, within a beam
the more probable token, and of equal probabilities the lower id. Equal final scores keep the order of finishing. Sums
are kept in float64 for every type of the model, so that rounding causes no ties between beams.

Shapes: B sentences in the batch, K beam, N = B * K rows (row b * K + k is beam k of sentence b), V vocabulary,
T tokens so far, C candidates (a few for each row, 2K for each sentence), F hypotheses finished in a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdmt.decode.search.lengths import normalized_score
from kdmt.types import EOS, PAD, Hypothesis

# Number of rows that are normalised in one call. A log-softmax of the whole [N, V] would allocate new memory at every
# step, which on a CPU takes longer than the computation.
_ROWS_AT_ONCE = 256


class Stepper(Protocol):
    """Decoding state of a batch: the interface of a model that the search needs."""

    def step(self, last_tokens_N: Tensor) -> Tensor:
        """Return the logits (or log-probabilities) of the token after the last token of each row: float [N, V]."""
        ...

    def reorder(self, order_N: Tensor) -> None:
        """Replace the state of row i by that of row order_N[i], a row of the same sentence: int64 [N]."""
        ...

    def select_sentences(self, index_B: Tensor) -> None:
        """Keep only the rows of these sentences, in this order: int64 [B]."""
        ...


@dataclass(frozen=True)
class _Beams:
    """The live prefixes of the sentences that are still in the batch."""

    sentences: list[int]  # [B], indices of the sentences in the input
    tokens_NT: Tensor  # int64 [N, T], beginning with </s>
    log_probs_NT: Tensor  # float64 [N, T - 1], log-probability of each token
    scores_BK: Tensor  # float64 [B, K], sum of log_probs; -inf for a beam without a prefix


@dataclass(frozen=True)
class _Candidates:
    """The best continuations of each sentence, best first; a score of -inf marks one that does not exist."""

    scores_BC: Tensor  # float64 [B, C], sum of log p with the new token
    log_probs_BC: Tensor  # float64 [B, C], log-probability of the new token
    tokens_BC: Tensor  # int64 [B, C]
    beams_BC: Tensor  # int64 [B, C], the beam (0 to K-1) that is continued


@torch.inference_mode()
def beam_search(
    stepper: Stepper,
    *,
    max_len_B: Sequence[int],
    beam: int,
    nbest: int = 1,
    lenpen: float = 1.0,
    min_len: int = 1,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """Translate a batch.

    Args:
        stepper: decoding state at the start of `len(max_len_B)` sentences with `beam` rows each.
        max_len_B: maximum number of tokens of each sentence, </s> not counted.
        beam: K, the number of live prefixes, and the number of finished hypotheses at which a sentence is done.
        nbest: number of hypotheses to return for each sentence. Fewer are returned if fewer exist, which requires a
            vocabulary smaller than the beam or tokens of probability 0.
        lenpen: exponent of the length that divides the score.
        min_len: least number of tokens before </s>; fairseq's default of 1 excludes empty translations.
        device: device on which the stepper expects its tokens.

    Returns:
        For each sentence, its hypotheses, best first, with natural-log scores.

    Raises:
        ValueError: if `nbest` is not between 1 and `beam`, or if a maximum length is smaller than `min_len`.
        FloatingPointError: if the model returns NaN, or probability 0 for every continuation of a sentence.
    """
    if not 1 <= nbest <= beam:
        raise ValueError(f"nbest ({nbest}) is not between 1 and beam ({beam})")
    if min(max_len_B, default=min_len) < min_len:
        raise ValueError(f"a maximum length of {min(max_len_B)} is below the minimum of {min_len}")
    finished: list[list[Hypothesis]] = [[] for _ in max_len_B]
    beams = _start(len(max_len_B), beam, device)
    step = 0  # number of tokens of every live prefix
    while beams.sentences:
        at_limit_B = [max_len_B[sentence] == step for sentence in beams.sentences]
        logits_NV = stepper.step(beams.tokens_NT[:, -1])
        log_probs_NC, tokens_NC = _best_tokens(logits_NV, 2 * beam, step < min_len, _rows_of(at_limit_B, beam, device))
        candidates = _best_candidates(beams.scores_BK, log_probs_NC, tokens_NC)
        _finish(finished, beams, candidates, lenpen)
        going_on = [
            b for b, sentence in enumerate(beams.sentences) if not at_limit_B[b] and len(finished[sentence]) < beam
        ]
        beams = _advance(beams, candidates, going_on, stepper)
        step += 1
    return [_ranked(hypotheses, nbest, place) for place, hypotheses in enumerate(finished)]


def _start(sentences: int, beam: int, device: torch.device | str) -> _Beams:
    """Return one empty prefix for each sentence.

    The other beams do not exist yet, since otherwise K copies of the same prefix would be searched.
    """
    scores_BK = torch.full((sentences, beam), -math.inf, dtype=torch.float64, device=device)
    scores_BK[:, 0] = 0.0
    return _Beams(
        sentences=list(range(sentences)),
        tokens_NT=torch.full((sentences * beam, 1), EOS, device=device),
        log_probs_NT=torch.empty((sentences * beam, 0), dtype=torch.float64, device=device),
        scores_BK=scores_BK,
    )


def _rows_of(chosen_B: list[bool], beam: int, device: torch.device | str) -> Tensor | None:
    """Return a mask of the rows of the chosen sentences, bool [N, 1], or None if no sentence is chosen."""
    if not any(chosen_B):
        return None
    return torch.tensor(chosen_B, device=device).repeat_interleave(beam)[:, None]


def _best_tokens(logits_NV: Tensor, count: int, forbid_eos: bool, force_eos_N1: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the `count` best next tokens of each row, best first: float64 log p [N, C] and int64 ids [N, C].

    A `count` of 2K is sufficient: the 2K best continuations of a sentence have at most 2K of one beam.
    """
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    log_probs, tokens = [], []
    for start in range(0, len(logits_NV), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        log_probs_RV = logits_NV[rows].log_softmax(dim=-1, dtype=dtype)
        log_probs_RV[:, PAD] = -math.inf
        if forbid_eos:
            log_probs_RV[:, EOS] = -math.inf
        if force_eos_N1 is not None:
            eos_R = log_probs_RV[:, EOS].clone()
            log_probs_RV.masked_fill_(force_eos_N1[rows], -math.inf)
            log_probs_RV[:, EOS] = eos_R
        log_probs_RC, tokens_RC = _stable_topk(log_probs_RV, count)
        log_probs.append(log_probs_RC)
        tokens.append(tokens_RC)
    return torch.cat(log_probs).double(), torch.cat(tokens)


def _stable_topk(values_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest values of each row (all, if there are fewer) and their columns.

    Of equal values, those in the first columns are chosen, in the order of the columns. `topk` guarantees neither the
    order of equal values nor which of them it keeps last, so one more value is requested to detect both kinds of tie.
    Rows with a tie, which are rare, are sorted completely.
    """
    top_RC, index_RC = values_RV.topk(min(count + 1, values_RV.size(1)))
    tied_R = (top_RC[:, 1:].eq(top_RC[:, :-1]) & top_RC[:, 1:].ne(-math.inf)).any(dim=1)
    if tied_R.any():
        sorted_values, sorted_index = values_RV[tied_R].sort(dim=1, descending=True, stable=True)
        top_RC[tied_R] = sorted_values[:, : top_RC.size(1)]
        index_RC[tied_R] = sorted_index[:, : top_RC.size(1)]
    return top_RC[:, :count], index_RC[:, :count]


def _best_candidates(scores_BK: Tensor, log_probs_NC: Tensor, tokens_NC: Tensor) -> _Candidates:
    """Return the 2K best continuations of each sentence, chosen from the best ones of each of its beams."""
    sentences, beam = scores_BK.shape
    per_beam = log_probs_NC.size(1)
    totals = (scores_BK.view(-1, 1) + log_probs_NC).view(sentences, -1)  # --> [B, K * C]
    # a stable sort, because the input is in the order of the beams, each with its best token first
    scores, order = totals.sort(dim=1, descending=True, stable=True)
    order = order[:, : 2 * beam]
    return _Candidates(
        scores_BC=scores[:, : 2 * beam],
        log_probs_BC=log_probs_NC.view(sentences, -1).gather(1, order),
        tokens_BC=tokens_NC.view(sentences, -1).gather(1, order),
        beams_BC=order.div(per_beam, rounding_mode="floor"),
    )


def _finish(finished: list[list[Hypothesis]], beams: _Beams, candidates: _Candidates, lenpen: float) -> None:
    """Add those of the first K candidates that end in </s> to `finished`, at most K for each sentence."""
    beam = beams.scores_BK.size(1)
    # NaN differs from -inf, so it passes this comparison and is reported below
    ends_BK = candidates.tokens_BC[:, :beam].eq(EOS) & candidates.scores_BC[:, :beam].ne(-math.inf)
    finished_F2 = ends_BK.nonzero()  # by sentence, then best first
    if not len(finished_F2):
        return
    sentence_F, rank_F = finished_F2.unbind(1)
    rows_F = sentence_F * beam + candidates.beams_BC[sentence_F, rank_F]
    last_log_prob_F1 = candidates.log_probs_BC[sentence_F, rank_F, None]
    log_probs_FT = torch.cat([beams.log_probs_NT[rows_F], last_log_prob_F1], dim=1).tolist()
    tokens_FT = beams.tokens_NT[rows_F, 1:].tolist()
    totals_F = candidates.scores_BC[sentence_F, rank_F].tolist()
    for place, tokens, log_probs, total in zip(sentence_F.tolist(), tokens_FT, log_probs_FT, totals_F, strict=True):
        sentence = beams.sentences[place]
        if math.isnan(total):
            raise FloatingPointError(f"sentence {sentence} of the batch: the model's log-probabilities are NaN")
        if len(finished[sentence]) < beam:
            score = normalized_score(total, len(log_probs), lenpen)
            finished[sentence].append(Hypothesis(tuple(tokens), score, tuple(log_probs)))


def _advance(beams: _Beams, candidates: _Candidates, going_on: list[int], stepper: Stepper) -> _Beams:
    """Continue the sentences `going_on` with their first K candidates that do not end in </s>.

    There are always K of them: of the 2K candidates, at most one for each beam ends in </s>.
    """
    sentences, beam = beams.scores_BK.shape
    if not going_on:
        return _Beams([], beams.tokens_NT[:0], beams.log_probs_NT[:0], beams.scores_BK[:0])
    keep_B = torch.tensor(going_on, device=beams.tokens_NT.device)
    ends_BC = candidates.tokens_BC[keep_B].eq(EOS)
    choice_BK = ends_BC.sort(dim=1, stable=True).indices[:, :beam]
    beams_BK = candidates.beams_BC[keep_B].gather(1, choice_BK)
    tokens_N1 = candidates.tokens_BC[keep_B].gather(1, choice_BK).view(-1, 1)
    log_probs_N1 = candidates.log_probs_BC[keep_B].gather(1, choice_BK).view(-1, 1)
    if len(going_on) < sentences:
        stepper.select_sentences(keep_B)
    if beam > 1:  # with a single beam, no row changes its place
        first_row_B1 = torch.arange(len(going_on), device=keep_B.device)[:, None] * beam
        stepper.reorder((first_row_B1 + beams_BK).flatten())
    rows_N = (keep_B[:, None] * beam + beams_BK).flatten()
    return _Beams(
        sentences=[beams.sentences[b] for b in going_on],
        tokens_NT=torch.cat([beams.tokens_NT[rows_N], tokens_N1], dim=1),
        log_probs_NT=torch.cat([beams.log_probs_NT[rows_N], log_probs_N1], dim=1),
        scores_BK=candidates.scores_BC[keep_B].gather(1, choice_BK),
    )


def _ranked(hypotheses: list[Hypothesis], nbest: int, sentence: int) -> list[Hypothesis]:
    """Return the `nbest` best hypotheses by normalised score."""
    if not hypotheses:
        raise FloatingPointError(f"sentence {sentence} of the batch: no hypothesis has a probability above 0")
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)[:nbest]
