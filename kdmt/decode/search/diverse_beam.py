"""Diverse beam search with the Hamming penalty (Vijayakumar et al. 2016, sections 3 and 5).

The beam of K prefixes is divided into G groups of K / G prefixes. At each step, the groups choose their continuations
one after the other, each by the rules of `kdmt.decode.search.beam`, except that a token is ranked

    log p(token) - penalty * (number of prefixes of earlier groups that were continued with the token at this step)

The penalty affects only the choice at this step: sums and scores are those of the model. A group is done once K / G of
its hypotheses are finished, or at the maximum length; a sentence is done once its groups are. The penalty does not
count prefixes that end in </s>.

Shapes: B sentences in the batch, G groups, K beam, M = K / G prefixes of a group, N = B * K rows, V vocabulary,
T tokens so far, C = 2M candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdmt.decode.search.beam import Stepper, allowed_log_probs, rows_at_once, stable_topk
from kdmt.decode.search.lengths import normalized_score
from kdmt.decode.search.transfers import to_device
from kdmt.types import EOS, Hypothesis


@dataclass(frozen=True)
class _Prefixes:
    """The live prefixes of the sentences that are still in the batch."""

    tokens_NT: Tensor  # int64
    log_probs_NT: Tensor  # float64
    scores_BGM: Tensor  # float64, sum of log p; -inf for a place without a prefix


@dataclass(frozen=True)
class _Choice:
    """The candidates of one group, best first, and those that are continued."""

    tokens_BC: Tensor  # int64
    beams_BC: Tensor  # int64, the prefix of the group (0 to M-1) that is continued
    log_probs_BC: Tensor  # float64, log-probability of the new token
    totals_BC: Tensor  # float64, sum of log p with the new token; -inf for a candidate that does not exist
    choice_BM: Tensor  # int64, indices of the first M candidates that do not end in </s>

    def continued(self, values_BC: Tensor) -> Tensor:
        """Return the values of the candidates that are continued: [B, M]."""
        return values_BC.gather(1, self.choice_BM)


@torch.inference_mode()
def diverse_beam_search(
    stepper: Stepper,
    *,
    max_len_B: Sequence[int],
    beam: int,
    groups: int,
    penalty: float,
    lenpen: float = 1.0,
    min_len: int = 1,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """Translate a batch. For the other arguments, see `kdmt.decode.search.beam.beam_search`.

    Args:
        beam: K, the number of live prefixes of all groups together.
        groups: G, a divisor of `beam`.
        penalty: penalty on a token for each prefix of an earlier group that is continued with it.

    Returns:
        For each sentence, the distinct hypotheses of all groups, best first, with the model's natural-log scores.

    Raises:
        ValueError: if `beam` is no multiple of `groups`.
        FloatingPointError: if the model returns NaN, or probability 0 for every continuation of a sentence.
    """
    if beam % groups:
        raise ValueError(f"beam ({beam}) is no multiple of groups ({groups})")
    finished: list[list[list[Hypothesis]]] = [[[] for _ in range(groups)] for _ in max_len_B]
    sentences = list(range(len(max_len_B)))
    prefixes = _start(len(sentences), beam, groups, device)
    step = 0
    while sentences:
        at_limit_B = [max_len_B[sentence] == step for sentence in sentences]
        last_tokens_N = prefixes.tokens_NT[:, -1] if step else torch.full((len(sentences) * beam,), EOS, device=device)
        log_probs_NV = _log_probs(stepper.step(last_tokens_N), at_limit_B, beam, forbid_eos=step < min_len)
        choices, scores_BGM = _choose(log_probs_NV, prefixes, finished, sentences, penalty, lenpen)
        going_on = [
            b
            for b, sentence in enumerate(sentences)
            if not at_limit_B[b] and any(len(own) < beam // groups for own in finished[sentence])
        ]
        if going_on:
            prefixes = _advance(prefixes, choices, scores_BGM, going_on, stepper)
        sentences, step = [sentences[b] for b in going_on], step + 1
    return [_ranked(own, place) for place, own in enumerate(finished)]


def _start(sentences: int, beam: int, groups: int, device: torch.device | str) -> _Prefixes:
    """Return one empty prefix for each group."""
    scores_BGM = torch.full((sentences, groups, beam // groups), -math.inf, dtype=torch.float64, device=device)
    scores_BGM[:, :, 0] = 0.0
    empty_NT = torch.empty((sentences * beam, 0), dtype=torch.int64, device=device)
    return _Prefixes(empty_NT, empty_NT.double(), scores_BGM)


def _log_probs(logits_NV: Tensor, at_limit_B: Sequence[bool], beam: int, *, forbid_eos: bool) -> Tensor:
    """Return log-probabilities with -inf for tokens that are not allowed: float64 [N, V]."""
    force_eos_N1 = None
    if any(at_limit_B):
        force_eos_N1 = to_device(torch.tensor(at_limit_B).repeat_interleave(beam)[:, None], logits_NV.device)
    parts = [
        allowed_log_probs(logits_NV[rows], forbid_eos, None if force_eos_N1 is None else force_eos_N1[rows])
        for rows in rows_at_once(logits_NV)
    ]
    return torch.cat(parts).double()


def _choose(
    log_probs_NV: Tensor,
    prefixes: _Prefixes,
    finished: list[list[list[Hypothesis]]],
    sentences: list[int],
    penalty: float,
    lenpen: float,
) -> tuple[list[_Choice], Tensor]:
    """Let the groups choose one after the other, and add the hypotheses that end to `finished`.

    Returns:
        The choice of each group, and the sums of the continued prefixes: float64 [B, G, M], -inf in groups that are
        done.
    """
    count, groups, size = prefixes.scores_BGM.shape
    log_probs_BGMV = log_probs_NV.view(count, groups, size, -1)
    times_BV = torch.zeros_like(log_probs_BGMV[:, 0, 0])  # number of prefixes that are continued with each token
    choices, scores = [], []
    for group in range(groups):
        choice = _best(log_probs_BGMV[:, group], prefixes.scores_BGM[:, group], penalty * times_BV)
        _finish(finished, sentences, prefixes, choice, group, lenpen)
        scores_BM = choice.continued(choice.totals_BC)
        is_done_B = torch.tensor([len(finished[sentence][group]) >= size for sentence in sentences])
        scores_BM = scores_BM.masked_fill(to_device(is_done_B, scores_BM.device)[:, None], -math.inf)
        times_BV.scatter_add_(1, choice.continued(choice.tokens_BC), scores_BM.ne(-math.inf).double())
        choices.append(choice)
        scores.append(scores_BM)
    return choices, torch.stack(scores, dim=1)


def _best(log_probs_BMV: Tensor, scores_BM: Tensor, penalties_BV: Tensor) -> _Choice:
    """Return the 2M best continuations of one group."""
    size, vocab_size = log_probs_BMV.shape[1:]
    ranked_BMV = scores_BM[:, :, None] + log_probs_BMV - penalties_BV[:, None]
    # of equal values, those of the earlier prefix and then of the lower id come first
    _, order_BC = stable_topk(ranked_BMV.flatten(1), 2 * size)
    beams_BC, tokens_BC = order_BC.div(vocab_size, rounding_mode="floor"), order_BC % vocab_size
    log_probs_BC = log_probs_BMV.flatten(1).gather(1, order_BC)
    return _Choice(
        tokens_BC,
        beams_BC,
        log_probs_BC,
        scores_BM.gather(1, beams_BC) + log_probs_BC,
        tokens_BC.eq(EOS).sort(dim=1, stable=True).indices[:, :size],
    )


def _finish(
    finished: list[list[list[Hypothesis]]],
    sentences: list[int],
    prefixes: _Prefixes,
    choice: _Choice,
    group: int,
    lenpen: float,
) -> None:
    """Add those of the first M candidates of a group that end in </s>, at most M for each sentence."""
    groups, size = prefixes.scores_BGM.shape[1:]
    totals_BM = choice.totals_BC[:, :size]
    ends_BM = choice.tokens_BC[:, :size].eq(EOS) & totals_BM.ne(-math.inf)
    for b, rank in ends_BM.nonzero().tolist():
        own, total = finished[sentences[b]][group], float(totals_BM[b, rank])
        if math.isnan(total):
            raise FloatingPointError(f"sentence {sentences[b]} of the batch: the model's log-probabilities are NaN")
        if len(own) < size:
            row = (b * groups + group) * size + int(choice.beams_BC[b, rank])
            log_probs = (*prefixes.log_probs_NT[row].tolist(), float(choice.log_probs_BC[b, rank]))
            score = normalized_score(total, len(log_probs), lenpen)
            own.append(Hypothesis(tuple(prefixes.tokens_NT[row].tolist()), score, log_probs))


def _advance(
    prefixes: _Prefixes, choices: list[_Choice], scores_BGM: Tensor, going_on: list[int], stepper: Stepper
) -> _Prefixes:
    """Continue the sentences `going_on` with the chosen candidates."""
    count, groups, size = scores_BGM.shape
    keep_B = to_device(torch.tensor(going_on), scores_BGM.device)
    if len(going_on) < count:
        stepper.select_sentences(keep_B)
    beams_BGM, tokens_BGM, log_probs_BGM = (
        torch.stack(each, dim=1).index_select(0, keep_B)
        for each in (
            [choice.continued(choice.beams_BC) for choice in choices],
            [choice.continued(choice.tokens_BC) for choice in choices],
            [choice.continued(choice.log_probs_BC) for choice in choices],
        )
    )
    first_BG1 = torch.arange(len(going_on) * groups, device=keep_B.device).view(-1, groups, 1) * size
    stepper.reorder((first_BG1 + beams_BGM).flatten())
    first_BG1 = (keep_B[:, None, None] * groups + torch.arange(groups, device=keep_B.device)[:, None]) * size
    rows_N = (first_BG1 + beams_BGM).flatten()
    return _Prefixes(
        torch.cat([prefixes.tokens_NT[rows_N], tokens_BGM.reshape(-1, 1)], dim=1),
        torch.cat([prefixes.log_probs_NT[rows_N], log_probs_BGM.reshape(-1, 1)], dim=1),
        scores_BGM.index_select(0, keep_B),
    )


def _ranked(groups: list[list[Hypothesis]], sentence: int) -> list[Hypothesis]:
    """Return the distinct hypotheses by normalised score; of equal scores, those of earlier groups first."""
    distinct = {hypothesis.tokens: hypothesis for own in reversed(groups) for hypothesis in reversed(own)}
    ordered = [distinct.pop(each.tokens) for own in groups for each in own if each.tokens in distinct]
    if not ordered:
        raise FloatingPointError(f"sentence {sentence} of the batch: no hypothesis has a probability above 0")
    return sorted(ordered, key=lambda hypothesis: -hypothesis.score)
