"""Sampling of translations from the model's distribution: ancestral, top-k and nucleus sampling.

The search receives a `Stepper` and follows the rules of beam search: <pad> is never drawn, </s> is not drawn before
`min_len` tokens, and a translation ends at its maximum length. The caller gives random numbers for every row, so that
the sample of a sentence does not depend on the other sentences of the batch.

Shapes: B sentences in the batch, K samples of each, N = B * K rows, V vocabulary, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdmt.decode.search.beam import Stepper
from kdmt.decode.search.lengths import normalized_score
from kdmt.types import EOS, PAD, Hypothesis, Sampling

_WHOLE = Sampling()  # the model's own distribution


@torch.inference_mode()
def sample(
    stepper: Stepper,
    *,
    max_len_B: Sequence[int],
    uniforms_NT: Tensor,
    sampling: Sampling = _WHOLE,
    lenpen: float = 1.0,
    min_len: int = 1,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """Draw translations of a batch.

    Args:
        stepper: decoding state at the start of `len(max_len_B)` sentences with K rows each.
        max_len_B: maximum number of tokens of each sentence, </s> not counted.
        uniforms_NT: random numbers in [0, 1), one for each row and step: float64 [B * K, at least the largest maximum
            length + 1].
        sampling: the distribution that samples are drawn from.
        lenpen: exponent of the length that divides the score.
        min_len: least number of tokens before </s>.
        device: device on which the stepper expects its tokens.

    Returns:
        For each sentence, its K samples in the order of its rows. Their scores are those of the model's own
        distribution, whatever `sampling` is.
    """
    rows = len(uniforms_NT) // len(max_len_B)
    sentences = torch.arange(len(max_len_B), device=device)  # indices of the unfinished sentences
    limits_N = torch.tensor(list(max_len_B), device=device).repeat_interleave(rows)
    uniforms_NT = uniforms_NT.to(device)
    tokens_NT = torch.full((len(limits_N), 1), EOS, device=device)
    log_probs_NT = torch.empty((len(limits_N), 0), dtype=torch.float64, device=device)
    lengths_N = torch.zeros(len(limits_N), dtype=torch.long, device=device)  # with </s>; 0 for unfinished rows
    found: list[list[Hypothesis]] = [[] for _ in max_len_B]
    step = 0
    while len(sentences):
        logits_NV = stepper.step(tokens_NT[:, -1]).double()
        chosen_N = _draw(logits_NV, uniforms_NT[:, step], sampling, forbid_eos=step < min_len)
        chosen_N = torch.where(limits_N == step, EOS, chosen_N)
        log_probs_N1 = logits_NV.log_softmax(1).gather(1, chosen_N[:, None])
        tokens_NT, log_probs_NT = (
            torch.cat([tokens_NT, chosen_N[:, None]], 1),
            torch.cat([log_probs_NT, log_probs_N1], 1),
        )
        step += 1
        lengths_N = torch.where((lengths_N == 0) & (chosen_N == EOS), step, lengths_N)
        done_B = lengths_N.view(-1, rows).ne(0).all(1)
        if not bool(done_B.any()):
            continue
        for place in done_B.nonzero()[:, 0].tolist():
            here = slice(place * rows, (place + 1) * rows)
            found[int(sentences[place])] = _finished(tokens_NT[here], log_probs_NT[here], lengths_N[here], lenpen)
        going_on_B = (~done_B).nonzero()[:, 0]
        keep_N = (going_on_B[:, None] * rows + torch.arange(rows, device=device)).flatten()
        sentences = sentences[going_on_B]
        limits_N, uniforms_NT, tokens_NT = limits_N[keep_N], uniforms_NT[keep_N], tokens_NT[keep_N]
        log_probs_NT, lengths_N = log_probs_NT[keep_N], lengths_N[keep_N]
        if len(sentences):
            stepper.select_sentences(going_on_B)
    return found


def _finished(tokens_KT: Tensor, log_probs_KT: Tensor, lengths_K: Tensor, lenpen: float) -> list[Hypothesis]:
    hypotheses = []
    for tokens, log_probs, length in zip(tokens_KT.tolist(), log_probs_KT.tolist(), lengths_K.tolist(), strict=True):
        own = log_probs[:length]
        hypotheses.append(Hypothesis(tuple(tokens[1:length]), normalized_score(sum(own), length, lenpen), tuple(own)))
    return hypotheses


def _draw(logits_NV: Tensor, uniforms_N: Tensor, sampling: Sampling, *, forbid_eos: bool) -> Tensor:
    """Draw one token per row by inversion of the distribution function over the token ids: int64 [N]."""
    logits_NV = logits_NV.index_fill(
        1, torch.tensor([PAD, EOS] if forbid_eos else [PAD], device=logits_NV.device), -torch.inf
    )
    cumulative_NV = truncated(logits_NV, sampling).cumsum(1)
    # the last cumulative sum is used instead of 1, from which it may differ by rounding
    wanted_N1 = (uniforms_N * cumulative_NV[:, -1])[:, None]
    return torch.searchsorted(cumulative_NV, wanted_N1, right=True)[:, 0].clamp_max(logits_NV.size(1) - 1)


def truncated(logits_NV: Tensor, sampling: Sampling) -> Tensor:
    """Return the probabilities that tokens are drawn from: [N, V].

    Temperature is applied first, then top-k, then the nucleus of the result; probabilities are renormalised. Of equal
    probabilities, those of lower ids are kept.
    """
    probs_NV = (logits_NV / sampling.temperature).softmax(1)
    if not sampling.top_k and sampling.top_p >= 1.0:
        return probs_NV
    ordered_NV, order_NV = probs_NV.sort(dim=1, descending=True, stable=True)
    if sampling.top_k:
        ordered_NV[:, sampling.top_k :] = 0.0
        ordered_NV /= ordered_NV.sum(1, keepdim=True)
    before_NV = ordered_NV.cumsum(1) - ordered_NV  # probability mass of all tokens that are more probable
    ordered_NV[before_NV >= sampling.top_p] = 0.0
    ordered_NV /= ordered_NV.sum(1, keepdim=True)
    return torch.zeros_like(probs_NV).scatter_(1, order_NV, ordered_NV)
