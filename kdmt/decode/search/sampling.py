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
        chosen_N = draw(allowed_NV, torch.arange(len(uniforms_N), device=uniforms_N.device), uniforms_N, sampling)
        if now.at_limit_N is not None:
            chosen_N = torch.where(now.at_limit_N, EOS, chosen_N)
        return chosen_N, logits_NV.log_softmax(1).gather(1, chosen_N[:, None])[:, 0]

    drawn = extend_rows(stepper, choose, max_len_B=max_len_B, rows=rows, device=device, read_steps=read_steps)
    found = [
        Hypothesis(tuple(tokens[:-1]), normalized_score(sum(log_probs), len(tokens), lenpen), tuple(log_probs))
        for tokens, log_probs in drawn
    ]
    return [found[start : start + rows] for start in range(0, len(found), rows)]


def draw(allowed_RV: Tensor, rows_A: Tensor, uniforms_A: Tensor, sampling: Sampling) -> Tensor:
    """Draw tokens by inversion of the distribution functions over the token ids: int64 [A].

    The weights of all rows are added up one after the other, so that one search finds the tokens of all rows.

    Args:
        allowed_RV: logits of R rows, -inf for tokens that are not allowed.
        rows_A: row that each token is drawn from: int64.
        uniforms_A: random numbers in [0, 1): float64.
    """
    weights_M, rows_M, columns_M = _weights(allowed_RV, sampling)
    cumulative_M = weights_M.cumsum(0)
    last_R = torch.searchsorted(rows_M, torch.arange(len(allowed_RV), device=rows_M.device), right=True) - 1
    until_R = cumulative_M.index_select(0, last_R)
    before_R = F.pad(until_R[:-1], (1, 0))
    wanted_A = torch.lerp(before_R.index_select(0, rows_A), until_R.index_select(0, rows_A), uniforms_A)
    places_A = torch.searchsorted(cumulative_M, wanted_A, right=True).minimum(last_R.index_select(0, rows_A))
    return columns_M.index_select(0, places_A)


def _weights(allowed_RV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights that tokens are drawn with, by row and token id: float64 [M], with their rows and token ids.

    On a CPU, only the tokens that epsilon or min-p sampling keeps are among them. On a GPU, the host would have to wait
    for their number.
    """
    if _keeps_few(sampling) and allowed_RV.device.type == "cpu":
        scaled_RV = allowed_RV if sampling.temperature == 1.0 else allowed_RV / sampling.temperature
        largest_R1 = scaled_RV.amax(1, keepdim=True)
        least_R1 = largest_R1 + math.log(sampling.min_p) if sampling.min_p else largest_R1.new_tensor(-math.inf)
        if sampling.epsilon:
            least_R1 = least_R1.maximum(scaled_RV.logsumexp(1, keepdim=True) + math.log(sampling.epsilon))
        is_excluded_RV = scaled_RV < least_R1.minimum(largest_R1)  # NaN is not excluded, and noticed in the scores
        kept_M = torch.from_numpy(np.flatnonzero(~is_excluded_RV.numpy()))  # several times faster than `nonzero`
        rows_M, columns_M = kept_M // scaled_RV.size(1), kept_M % scaled_RV.size(1)
        return (scaled_RV[rows_M, columns_M] - largest_R1[rows_M, 0]).double().exp(), rows_M, columns_M
    weights_RV = truncated(allowed_RV, sampling).double()
    rows_M = torch.arange(len(weights_RV), device=weights_RV.device).repeat_interleave(weights_RV.size(1))
    columns_M = torch.arange(weights_RV.size(1), device=weights_RV.device).repeat(len(weights_RV))
    return weights_RV.flatten(), rows_M, columns_M


def _keeps_few(sampling: Sampling) -> bool:
    return bool(sampling.epsilon or sampling.min_p) and not sampling.top_k and sampling.top_p >= 1.0


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
