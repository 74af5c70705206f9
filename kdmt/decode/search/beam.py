"""Batched beam search with the rules of fairseq's `sequence_generator.py` (0.12.2).

The search receives a `Stepper`, not a model. Its rules:

* Decoding starts from </s>; <pad> is never generated, and neither is </s> before `min_len` tokens. Probabilities are
  not renormalised for this, so that the score of a hypothesis equals its teacher-forced score. As in fairseq, nothing
  else is forbidden.
* Of the 2K best continuations of a sentence, those among the first K that end in </s> are finished; the first K that do
  not end in </s> are continued.
* A sentence is done once K hypotheses are finished, or at its maximum length, where </s> is forced: at most `max_len`
  tokens and </s>. Sentences that are done are removed from the batch.
* If the beam narrows, as in Marian, a sentence with F finished hypotheses has K - F places: only the first K - F best
  continuations are finished or continued. As Marian forbids no </s>, a hypothesis of less than `min_len` tokens takes a
  place too; it comes after all others.
* The score of a finished hypothesis is sum(log p) / length ** lenpen, with </s> counted in both.

In fairseq, the maximum length follows from the padded batch. Here each sentence has its own, so that no result depends
on the other sentences of the batch.

Ties are broken within a sentence, independently of the batch: of equal sums the earlier beam goes first, within a beam
the more probable token, and of equal probabilities the lower id. Equal final scores keep the order of finishing. Sums
are kept in float64 for every type of the model, so that rounding causes no ties between beams.

The device computes scores and candidates and chooses the prefixes that are continued. The host reads the candidates of
a step in one transfer, keeps the tokens of all prefixes as a list of steps with back-pointers, and collects the
finished hypotheses. For a beam of 1, `kdmt.decode.search.unbranched` needs fewer transfers.

Shapes: B sentences in the batch, K beam, N = B * K rows (row b * K + k is beam k of sentence b), V vocabulary,
T tokens so far, C candidates (a few for each row, 2K for each sentence), F hypotheses finished in a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdmt.decode.search.lengths import normalized_score
from kdmt.decode.search.transfers import to_device, to_host
from kdmt.types import EOS, PAD, Hypothesis

# Number of rows that are normalised in one call. A log-softmax of the whole [N, V] would allocate new memory at every
# step, which on a CPU takes longer than the computation.
_ROWS_AT_ONCE = 256
_ROWS_AT_ONCE_ON_GPU = 4096  # fewer calls; the float32 copy of the logits remains a part of the memory of a batch


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
    """The live prefixes of the sentences that are still in the batch, as far as the device needs them."""

    limits_B: Tensor  # int64 [B], maximum number of tokens
    last_tokens_N: Tensor  # int64 [N], </s> at the start
    scores_BK: Tensor  # float64 [B, K], sum of log p; -inf for a beam without a prefix


@dataclass(frozen=True)
class _Candidates:
    """The best continuations of each sentence, best first; a score of -inf marks one that does not exist."""

    scores_BC: Tensor  # float64 [B, C], sum of log p with the new token
    log_probs_BC: Tensor  # float64 [B, C], log-probability of the new token
    tokens_BC: Tensor  # int64 [B, C]
    beams_BC: Tensor  # int64 [B, C], the beam (0 to K-1) that is continued
    choice_BK: Tensor  # int64 [B, K], indices of the first K candidates that do not end in </s>
    is_exact: Tensor  # bool [], False if `topk` may have left out a token of equal probability


@dataclass(frozen=True)
class _Read:
    """The values of `_Candidates` on the host."""

    scores_BC: NDArray[np.float64]
    log_probs_BC: NDArray[np.float64]
    tokens_BC: NDArray[np.int64]
    beams_BC: NDArray[np.int64]
    choice_BK: NDArray[np.int64]
    is_exact: bool


@dataclass(frozen=True)
class _Step:
    """The last token of each live prefix on the host, and the row of the prefix before it in the step before."""

    rows_N: NDArray[np.int64]
    tokens_N: NDArray[np.int64]
    log_probs_N: NDArray[np.float64]


@torch.inference_mode()
def beam_search(
    stepper: Stepper,
    *,
    max_len_B: Sequence[int],
    beam: int,
    nbest: int = 1,
    lenpen: float = 1.0,
    min_len: int = 1,
    narrow: bool = False,
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
        min_len: least number of tokens before </s>; fairseq's default of 1 excludes empty translations. If the beam
            narrows, shorter hypotheses are the last ones.
        narrow: whether the beam of a sentence loses a place with each finished hypothesis, as in Marian.
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
    sentences = list(range(len(max_len_B)))  # indices of the sentences that are still in the batch
    beams = _start(max_len_B, beam, device)
    steps: list[_Step] = []  # one for each token of every live prefix
    shortest = 0 if narrow and beam > 1 else min_len
    while sentences:
        at_limit_B = [max_len_B[sentence] == len(steps) for sentence in sentences]
        force_eos_N1 = _rows_at(len(steps), beams) if any(at_limit_B) else None
        logits_NV = stepper.step(beams.last_tokens_N)
        forbid_eos = len(steps) < shortest
        candidates = _best_candidates(beams.scores_BK, *_best_tokens(logits_NV, beam, forbid_eos, force_eos_N1))
        places = [beam - len(finished[sentence]) for sentence in sentences] if narrow else None
        candidates = _limited(candidates, places)
        read = _read(candidates)
        if not read.is_exact:
            ranked = _best_tokens(logits_NV, beam, forbid_eos, force_eos_N1, sort_all=True)
            candidates = _limited(_best_candidates(beams.scores_BK, *ranked), places)
            read = _read(candidates)
        _finish(finished, sentences, steps, read, lenpen)
        going_on = [b for b, sentence in enumerate(sentences) if not at_limit_B[b] and len(finished[sentence]) < beam]
        steps.append(_step_of(read, going_on))
        if going_on:
            beams = _advance(beams, candidates, going_on, stepper)
        sentences = [sentences[b] for b in going_on]
    return [_ranked(hypotheses, nbest, min_len, place) for place, hypotheses in enumerate(finished)]


def _start(max_len_B: Sequence[int], beam: int, device: torch.device | str) -> _Beams:
    """Return one empty prefix for each sentence.

    The other beams do not exist yet, since otherwise K copies of the same prefix would be searched.
    """
    scores_BK = torch.full((len(max_len_B), beam), -math.inf, dtype=torch.float64, device=device)
    scores_BK[:, 0] = 0.0
    return _Beams(
        limits_B=to_device(torch.tensor(list(max_len_B)), device),
        last_tokens_N=torch.full((len(max_len_B) * beam,), EOS, device=device),
        scores_BK=scores_BK,
    )


def _rows_at(step: int, beams: _Beams) -> Tensor:
    """Return a mask of the rows of the sentences whose maximum length is `step`: bool [N, 1]."""
    return beams.limits_B.eq(step)[:, None].expand_as(beams.scores_BK).reshape(-1, 1)


def _best_tokens(
    logits_NV: Tensor, beam: int, forbid_eos: bool, force_eos_N1: Tensor | None, *, sort_all: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the 2K best next tokens of each row, best first: float64 log p [N, C], int64 ids [N, C], and a flag.

    That many are sufficient: the 2K best continuations of a sentence have at most 2K of one beam. The flag, bool [],
    is False if tokens may be wrong because of equal probabilities; with `sort_all`, it is True.
    """
    log_probs, tokens, exact = [], [], []
    for rows in rows_at_once(logits_NV):
        forced = None if force_eos_N1 is None else force_eos_N1[rows]
        log_probs_RV = allowed_log_probs(logits_NV[rows], forbid_eos, forced)
        if logits_NV.device.type == "cpu":
            log_probs_RC, tokens_RC = stable_topk(log_probs_RV, 2 * beam)
        elif sort_all:
            log_probs_RC, tokens_RC = _first_columns(log_probs_RV, 2 * beam)
        else:
            log_probs_RC, tokens_RC, is_exact = _ordered_topk(log_probs_RV, 2 * beam, beam + 1)
            exact.append(is_exact)
        log_probs.append(log_probs_RC)
        tokens.append(tokens_RC)
    is_exact = torch.stack(exact).all() if exact else torch.ones((), dtype=torch.bool, device=logits_NV.device)
    return torch.cat(log_probs).double(), torch.cat(tokens), is_exact


def rows_at_once(logits_NV: Tensor) -> Iterator[slice]:
    """Yield the rows that are normalised in one call."""
    at_once = _ROWS_AT_ONCE if logits_NV.device.type == "cpu" else _ROWS_AT_ONCE_ON_GPU
    for start in range(0, len(logits_NV), at_once):
        yield slice(start, start + at_once)


def allowed_log_probs(logits_RV: Tensor, forbid_eos: bool, force_eos_R1: Tensor | None) -> Tensor:
    """Return log-probabilities with -inf for tokens that are not allowed, at least float32 [R, V].

    Args:
        forbid_eos: whether </s> is not allowed.
        force_eos_R1: mask of the rows in which only </s> is allowed, bool [R, 1]; None for no row.
    """
    dtype = torch.promote_types(logits_RV.dtype, torch.float32)
    log_probs_RV = logits_RV.log_softmax(dim=-1, dtype=dtype)
    log_probs_RV[:, PAD] = -math.inf
    if forbid_eos:
        log_probs_RV[:, EOS] = -math.inf
    if force_eos_R1 is not None:
        eos_R = log_probs_RV[:, EOS].clone()
        log_probs_RV.masked_fill_(force_eos_R1, -math.inf)
        log_probs_RV[:, EOS] = eos_R
    return log_probs_RV


def stable_topk(values_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest values of each row (all, if there are fewer) and their columns.

    Of equal values, those in the first columns are chosen, in the order of the columns. `topk` guarantees neither the
    order of equal values nor which of them it keeps last, so one more value is requested to detect both kinds of tie.
    Rows with a tie, which are rare, are sorted completely. This branches on the values, which is for CPUs.
    """
    top_RC, index_RC = values_RV.topk(min(count + 1, values_RV.size(1)))
    tied_R = (top_RC[:, 1:].eq(top_RC[:, :-1]) & top_RC[:, 1:].ne(-math.inf)).any(dim=1)
    if tied_R.any():
        sorted_values, sorted_index = values_RV[tied_R].sort(dim=1, descending=True, stable=True)
        top_RC[tied_R] = sorted_values[:, : top_RC.size(1)]
        index_RC[tied_R] = sorted_index[:, : top_RC.size(1)]
    return top_RC[:, :count], index_RC[:, :count]


def _first_columns(values_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the results of `stable_topk` by sorting all rows."""
    values, columns = values_RV.sort(dim=1, descending=True, stable=True)
    return values[:, :count], columns[:, :count]


def _ordered_topk(values_RV: Tensor, count: int, needed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the results of `stable_topk` without a branch, and whether the first `needed` columns are correct.

    Equal values that `topk` returned are put in the order of their columns. They may be the wrong ones only if the
    value at rank `needed` equals the one after the last: then some of the columns with this value were not returned.
    Prefixes that are continued or finished are always among the first K + 1 of their beam, since at most one ends in
    </s>. Rows in half precision often have equal values, but seldom K of them.
    """
    top_RC, index_RC = values_RV.topk(min(count + 1, values_RV.size(1)))
    index_RC, order_RC = index_RC.sort(dim=1)
    top_RC, by_value_RC = top_RC.gather(1, order_RC).sort(dim=1, descending=True, stable=True)
    index_RC = index_RC.gather(1, by_value_RC)
    if top_RC.size(1) <= count:  # all columns were returned
        return top_RC, index_RC, torch.ones((), dtype=torch.bool, device=values_RV.device)
    last_R = top_RC[:, count]
    is_exact = (top_RC[:, needed - 1].ne(last_R) | last_R.eq(-math.inf)).all()
    return top_RC[:, :count], index_RC[:, :count], is_exact


def _best_candidates(scores_BK: Tensor, log_probs_NC: Tensor, tokens_NC: Tensor, is_exact: Tensor) -> _Candidates:
    """Return the 2K best continuations of each sentence, chosen from the best ones of each of its beams."""
    sentences, beam = scores_BK.shape
    per_beam = log_probs_NC.size(1)
    totals = (scores_BK.view(-1, 1) + log_probs_NC).view(sentences, -1)  # --> [B, K * C]
    # a stable sort, because the input is in the order of the beams, each with its best token first
    scores, order = totals.sort(dim=1, descending=True, stable=True)
    order = order[:, : 2 * beam]
    tokens_BC = tokens_NC.view(sentences, -1).gather(1, order)
    return _Candidates(
        scores_BC=scores[:, : 2 * beam],
        log_probs_BC=log_probs_NC.view(sentences, -1).gather(1, order),
        tokens_BC=tokens_BC,
        beams_BC=order.div(per_beam, rounding_mode="floor"),
        # there are always K: of the 2K candidates, at most one for each beam ends in </s>
        choice_BK=tokens_BC.eq(EOS).sort(dim=1, stable=True).indices[:, :beam],
        is_exact=is_exact,
    )


def _limited(candidates: _Candidates, places: Sequence[int] | None) -> _Candidates:
    """Return candidates of which only as many exist as the sentence has places, if the beam narrows."""
    if places is None:
        return candidates
    device = candidates.scores_BC.device
    places_B1 = to_device(torch.tensor(places), device)[:, None]
    beyond_BC = torch.arange(candidates.scores_BC.size(1), device=device) >= places_B1
    return replace(candidates, scores_BC=candidates.scores_BC.masked_fill(beyond_BC, -math.inf))


def _read(candidates: _Candidates) -> _Read:
    """Return the candidates on the host."""
    each = (candidates.scores_BC, candidates.log_probs_BC, candidates.tokens_BC, candidates.beams_BC)
    scores, log_probs, tokens, beams, choice, is_exact = to_host(*each, candidates.choice_BK, candidates.is_exact)
    return _Read(scores, log_probs, tokens, beams, choice, is_exact=bool(is_exact))


def _finish(
    finished: list[list[Hypothesis]], sentences: list[int], steps: list[_Step], read: _Read, lenpen: float
) -> None:
    """Add those of the first K candidates that end in </s> to `finished`, at most K for each sentence."""
    beam = read.choice_BK.shape[1]
    # NaN differs from -inf, so it passes this comparison and is reported below
    ends_BK = (read.tokens_BC[:, :beam] == EOS) & (read.scores_BC[:, :beam] != -math.inf)
    sentence_F, rank_F = ends_BK.nonzero()  # by sentence, then best first
    if not len(sentence_F):
        return
    tokens_FT, log_probs_FT = _trace(steps, sentence_F * beam + read.beams_BC[sentence_F, rank_F])
    last_log_prob_F1 = read.log_probs_BC[sentence_F, rank_F, None]
    log_probs = np.concatenate([log_probs_FT, last_log_prob_F1], axis=1).tolist()
    totals = read.scores_BC[sentence_F, rank_F].tolist()
    for place, words, own, total in zip(sentence_F.tolist(), tokens_FT.tolist(), log_probs, totals, strict=True):
        sentence = sentences[place]
        if math.isnan(total):
            raise FloatingPointError(f"sentence {sentence} of the batch: the model's log-probabilities are NaN")
        if len(finished[sentence]) < beam:
            score = normalized_score(total, len(own), lenpen)
            finished[sentence].append(Hypothesis(tuple(words), score, tuple(own)))


def _trace(steps: list[_Step], rows_F: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the tokens of live prefixes and their log-probabilities, [F, T] each, along the back-pointers."""
    tokens_FT = np.empty((len(rows_F), len(steps)), dtype=np.int64)
    log_probs_FT = np.empty((len(rows_F), len(steps)))
    for place in range(len(steps) - 1, -1, -1):
        step = steps[place]
        tokens_FT[:, place], log_probs_FT[:, place] = step.tokens_N[rows_F], step.log_probs_N[rows_F]
        rows_F = step.rows_N[rows_F]
    return tokens_FT, log_probs_FT


def _step_of(read: _Read, going_on: list[int]) -> _Step:
    """Return the new last tokens of the sentences `going_on`."""
    keep_B = np.array(going_on, dtype=np.int64)
    choice_BK = read.choice_BK[keep_B]
    beam = choice_BK.shape[1]
    own = keep_B[:, None], choice_BK
    rows_BK = keep_B[:, None] * beam + read.beams_BC[own]
    return _Step(rows_BK.ravel(), read.tokens_BC[own].ravel(), read.log_probs_BC[own].ravel())


def _advance(beams: _Beams, candidates: _Candidates, going_on: list[int], stepper: Stepper) -> _Beams:
    """Continue the sentences `going_on` with their first K candidates that do not end in </s>."""
    sentences, beam = beams.scores_BK.shape
    choice_BK = candidates.choice_BK
    limits_B, scores_BC = beams.limits_B, candidates.scores_BC
    tokens_BC, beams_BC = candidates.tokens_BC, candidates.beams_BC
    if len(going_on) < sentences:
        keep_B = to_device(torch.tensor(going_on), limits_B.device)
        each = (limits_B, choice_BK, scores_BC, tokens_BC, beams_BC)
        limits_B, choice_BK, scores_BC, tokens_BC, beams_BC = (part.index_select(0, keep_B) for part in each)
        stepper.select_sentences(keep_B)
    if beam > 1:  # with a single beam, no row changes its place
        first_row_B1 = torch.arange(len(going_on), device=limits_B.device)[:, None] * beam
        stepper.reorder((first_row_B1 + beams_BC.gather(1, choice_BK)).flatten())
    return _Beams(
        limits_B=limits_B,
        last_tokens_N=tokens_BC.gather(1, choice_BK).flatten(),
        scores_BK=scores_BC.gather(1, choice_BK),
    )


def _ranked(hypotheses: list[Hypothesis], nbest: int, min_len: int, sentence: int) -> list[Hypothesis]:
    """Return the `nbest` best hypotheses by normalised score, those of less than `min_len` tokens last."""
    if not hypotheses:
        raise FloatingPointError(f"sentence {sentence} of the batch: no hypothesis has a probability above 0")
    return sorted(hypotheses, key=lambda each: (len(each.tokens) < min_len, -each.score))[:nbest]
