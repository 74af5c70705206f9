"""Sampling of translations from the model's distribution: ancestral, top-k, nucleus, epsilon and min-p sampling.

The search receives a `Stepper` and follows the rules of beam search: <pad> is never drawn, </s> is not drawn before
`min_len` tokens, and a translation ends at its maximum length. The caller gives random numbers for every row, so that
the sample of a sentence does not depend on the other sentences of the batch.

Shapes: B sentences in the batch, K samples of each, N = B * K rows, V vocabulary, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kdmt.decode.search.beam import Stepper
from kdmt.decode.search.lengths import normalized_score
from kdmt.decode.search.transfers import to_device
from kdmt.decode.search.unbranched import Rows, extend_rows
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
    read_steps: int | None = None,
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
        read_steps: see `extend_rows`.

    Returns:
        For each sentence, its K samples in the order of its rows. Their scores are those of the model's own
        distribution, whatever `sampling` is.
    """
    rows = len(uniforms_NT) // len(max_len_B)
    uniforms_NT = to_device(uniforms_NT, device)
    never, never_yet = (to_device(torch.tensor(ids), device) for ids in ([PAD], [PAD, EOS]))

    def choose(logits_NV: Tensor, now: Rows) -> tuple[Tensor, Tensor]:
        logits_NV = logits_NV.double()
        uniforms_N = uniforms_NT[:, now.step].index_select(0, now.rows_N)
        allowed_NV = logits_NV.index_fill(1, never_yet if now.step < min_len else never, -torch.inf)
        chosen_N = _draw_one_each(allowed_NV, uniforms_N, sampling)
        if now.at_limit_N is not None:
            chosen_N = torch.where(now.at_limit_N, EOS, chosen_N)
        return chosen_N, logits_NV.log_softmax(1).gather(1, chosen_N[:, None])[:, 0]

    drawn = extend_rows(stepper, choose, max_len_B=max_len_B, rows=rows, device=device, read_steps=read_steps)
    found = [
        Hypothesis(tuple(tokens[:-1]), normalized_score(sum(log_probs), len(tokens), lenpen), tuple(log_probs))
        for tokens, log_probs in drawn
    ]
    return [found[start : start + rows] for start in range(0, len(found), rows)]


def _draw_one_each(allowed_NV: Tensor, uniforms_N: Tensor, sampling: Sampling) -> Tensor:
    """Draw one token for each row by inversion of the distribution function over the token ids: int64 [N].

    Args:
        allowed_NV: logits, -inf for tokens that are not allowed.
    """
    cumulative_NV = truncated(allowed_NV, sampling).cumsum(1)
    # the last cumulative sum is used instead of 1, from which it may differ by rounding
    wanted_N1 = (uniforms_N * cumulative_NV[:, -1])[:, None]
    return torch.searchsorted(cumulative_NV, wanted_N1, right=True)[:, 0].clamp_max(allowed_NV.size(1) - 1)


def draw(allowed_RV: Tensor, rows_A: Tensor, uniforms_A: Tensor, sampling: Sampling) -> Tensor:
    """Draw any number of tokens for each row by inversion of its distribution function: int64 [A].

    The weights of all rows are added up one after the other, so that one search finds the tokens of all rows.

    Args:
        allowed_RV: logits of R rows, -inf for tokens that are not allowed.
        rows_A: row that each token is drawn from: int64.
        uniforms_A: random numbers in [0, 1): float64.
    """
    own_R, vocabulary = torch.arange(len(allowed_RV), device=allowed_RV.device), allowed_RV.size(1)
    if allowed_RV.device.type == "cpu" and _keeps_few(sampling):
        weights_M, kept_M = _kept_weights(allowed_RV, sampling)
        last_R = torch.searchsorted(kept_M, (own_R + 1) * vocabulary) - 1
    else:
        weights_M, kept_M = truncated(allowed_RV, sampling).double().flatten(), None
        last_R = (own_R + 1) * vocabulary - 1
    cumulative_M = weights_M.cumsum(0)
    until_R = cumulative_M.index_select(0, last_R)
    before_R = F.pad(until_R[:-1], (1, 0))
    wanted_A = torch.lerp(before_R.index_select(0, rows_A), until_R.index_select(0, rows_A), uniforms_A)
    places_A = torch.searchsorted(cumulative_M, wanted_A, right=True).minimum(last_R.index_select(0, rows_A))
    return (places_A if kept_M is None else kept_M.index_select(0, places_A)) - rows_A * vocabulary


def _keeps_few(sampling: Sampling) -> bool:
    return bool(sampling.epsilon or sampling.min_p) and not sampling.top_k and sampling.top_p >= 1.0


def _kept_weights(allowed_RV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return the weights of the tokens that epsilon or min-p sampling keeps, float64 [M], and row * V + token of each.

    On a GPU, the host would have to wait for their number.
    """
    scaled_RV = allowed_RV if sampling.temperature == 1.0 else allowed_RV / sampling.temperature
    largest_R1 = scaled_RV.amax(1, keepdim=True)
    least_R1 = largest_R1 + math.log(sampling.min_p) if sampling.min_p else largest_R1.new_tensor(-math.inf)
    if sampling.epsilon:
        least_R1 = least_R1.maximum(scaled_RV.logsumexp(1, keepdim=True) + math.log(sampling.epsilon))
    is_excluded_RV = scaled_RV < least_R1.minimum(largest_R1)  # NaN is not excluded, and noticed in the scores
    kept_M = torch.from_numpy(np.flatnonzero(~is_excluded_RV.numpy()))  # several times faster than `nonzero`
    largest_M = largest_R1[:, 0].index_select(0, kept_M // scaled_RV.size(1))
    return (scaled_RV.flatten().index_select(0, kept_M) - largest_M).double().exp(), kept_M


def truncated(logits_NV: Tensor, sampling: Sampling) -> Tensor:
    """Return the probabilities that tokens are drawn from: [N, V].

    Temperature is applied first. `epsilon` and `min_p` compare the resulting probabilities; the most probable token is
    always kept. Top-k, and then the nucleus of its result, restrict them further; probabilities are renormalised. Of
    equal probabilities, those of lower ids are kept.
    """
    scaled_NV = logits_NV if sampling.temperature == 1.0 else logits_NV / sampling.temperature
    probs_NV = scaled_NV.softmax(1)
    kept_NV = _nucleus(probs_NV, sampling)
    if not sampling.epsilon and not sampling.min_p:
        return kept_NV
    largest_N1 = probs_NV.amax(1, keepdim=True)
    least_N1 = (largest_N1 * sampling.min_p).clamp_min(sampling.epsilon).minimum(largest_N1)
    kept_NV.masked_fill_(probs_NV < least_N1, 0.0)
    return kept_NV.div_(kept_NV.sum(1, keepdim=True))


def _nucleus(probs_NV: Tensor, sampling: Sampling) -> Tensor:
    """Return probabilities with 0 for tokens outside top-k and its nucleus, renormalised: [N, V]."""
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
