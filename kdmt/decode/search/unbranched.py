"""Search without branches: a token is chosen for each row at each step, and no row continues another one.

`search_with_beam` chooses between this search and beam search by the settings.

The host follows the device at a distance: on a GPU it reads the tokens of several steps in one transfer. Rows that have
ended in the meantime go on until then, and what follows their </s> is dropped.

Shapes: B sentences in the batch, K rows of each, N = B * K, V vocabulary, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdmt.config import Decode
from kdmt.decode.search.beam import Stepper, allowed_log_probs, beam_search, rows_at_once
from kdmt.decode.search.lengths import normalized_score
from kdmt.decode.search.transfers import to_device, to_host
from kdmt.types import EOS, Hypothesis

_STEPS_ON_GPU = 8  # between two transfers: the work on rows that have ended costs less than waiting at every step


@dataclass(frozen=True)
class Rows:
    """The rows that are still in the batch.

    Attributes:
        step: number of tokens of each row.
        rows_N: index of each row in the input: int64.
        at_limit_N: mask of the rows at their maximum length, in which </s> is forced; None for no row.
    """

    step: int
    rows_N: Tensor
    at_limit_N: Tensor | None


# (logits [N, V], rows) -> the chosen token of each row, int64 [N], and its log-probability, float64 [N]
Choose = Callable[[Tensor, Rows], tuple[Tensor, Tensor]]


@torch.inference_mode()
def extend_rows(
    stepper: Stepper,
    choose: Choose,
    *,
    max_len_B: Sequence[int],
    rows: int,
    device: torch.device | str,
    read_steps: int | None = None,
) -> list[tuple[list[int], list[float]]]:
    """Extend each row until it ends in </s>.

    Args:
        stepper: decoding state at the start of `len(max_len_B)` sentences with `rows` rows each.
        choose: function that chooses the next tokens.
        max_len_B: maximum number of tokens of each sentence, </s> not counted.
        rows: K, the number of rows of each sentence. A sentence stays in the batch until all of them have ended.
        device: device on which the stepper expects its tokens.
        read_steps: number of steps between two transfers to the host (default: 1 on a CPU, 8 on a GPU).

    Returns:
        For each row its tokens and their log-probabilities, those of </s> included.
    """
    read_steps = read_steps or (1 if torch.device(device).type == "cpu" else _STEPS_ON_GPU)
    limits_B, own_K = np.array(max_len_B, dtype=np.int64), np.arange(rows)
    found = _Found.start(len(limits_B) * rows, int(limits_B.max(initial=0)) + 1)
    sentences_B = np.arange(len(limits_B))  # indices of the sentences that are still in the batch
    limits_N = to_device(torch.from_numpy(limits_B.repeat(rows)), device)
    rows_N = torch.arange(len(limits_N), device=device)
    last_tokens_N = torch.full((len(limits_N),), EOS, device=device)
    step, unread = 0, []
    while len(sentences_B):
        at_limit_N = limits_N.eq(step) if (limits_B[sentences_B] == step).any() else None
        logits_NV = stepper.step(last_tokens_N)
        last_tokens_N, log_probs_N = choose(logits_NV, Rows(step, rows_N, at_limit_N))
        unread.append((last_tokens_N, log_probs_N))
        step += 1
        if len(unread) < read_steps and step <= limits_B[sentences_B].max():
            continue
        found.read((sentences_B[:, None] * rows + own_K).ravel(), step, unread)
        unread = []
        going_on_B = np.flatnonzero(~found.has_ended(rows)[sentences_B])
        if len(going_on_B) == len(sentences_B):
            continue
        sentences_B = sentences_B[going_on_B]
        if len(sentences_B):
            keep_N = to_device(torch.from_numpy((going_on_B[:, None] * rows + own_K).ravel()), device)
            limits_N, rows_N = limits_N.index_select(0, keep_N), rows_N.index_select(0, keep_N)
            last_tokens_N = last_tokens_N.index_select(0, keep_N)
            stepper.select_sentences(keep_N if rows == 1 else to_device(torch.from_numpy(going_on_B), device))
    return found.rows()


@dataclass(frozen=True)
class _Found:
    """Tokens of all rows on the host; `lengths_N` is 0 for a row that has not ended."""

    tokens_NT: NDArray[np.int64]
    log_probs_NT: NDArray[np.float64]
    lengths_N: NDArray[np.int64]

    @classmethod
    def start(cls, rows: int, steps: int) -> _Found:
        return cls(np.zeros((rows, steps), dtype=np.int64), np.zeros((rows, steps)), np.zeros(rows, dtype=np.int64))

    def read(self, rows_N: NDArray[np.int64], step: int, unread: list[tuple[Tensor, Tensor]]) -> None:
        """Add the last steps, of which `step` is the number after the last one."""
        tokens_NR, log_probs_NR = to_host(*(torch.stack(each, dim=1) for each in zip(*unread, strict=True)))
        new = slice(step - len(unread), step)
        self.tokens_NT[rows_N, new], self.log_probs_NT[rows_N, new] = tokens_NR, log_probs_NR
        ends_NR = tokens_NR == EOS
        ends_now_N = ends_NR.any(1) & (self.lengths_N[rows_N] == 0)
        self.lengths_N[rows_N[ends_now_N]] = new.start + 1 + ends_NR[ends_now_N].argmax(1)

    def has_ended(self, rows: int) -> NDArray[np.bool_]:
        """Return a mask of the sentences of which all rows have ended."""
        return np.all(self.lengths_N.reshape(-1, rows) > 0, axis=1)

    def rows(self) -> list[tuple[list[int], list[float]]]:
        """Return the tokens of each row up to </s>, and their log-probabilities."""
        return [
            (tokens_T[:length].tolist(), log_probs_T[:length].tolist())
            for tokens_T, log_probs_T, length in zip(
                self.tokens_NT, self.log_probs_NT, self.lengths_N.tolist(), strict=True
            )
        ]


def greedy_search(
    stepper: Stepper,
    *,
    max_len_B: Sequence[int],
    lenpen: float = 1.0,
    min_len: int = 1,
    device: torch.device | str = "cpu",
    read_steps: int | None = None,
) -> list[list[Hypothesis]]:
    """Translate a batch with the result of `beam_search` for a beam of 1.

    Args:
        read_steps: see `extend_rows`.

    Raises:
        ValueError: if a maximum length is smaller than `min_len`.
        FloatingPointError: if the model returns NaN, or probability 0 for every continuation of a sentence.
    """
    if min(max_len_B, default=min_len) < min_len:
        raise ValueError(f"a maximum length of {min(max_len_B)} is below the minimum of {min_len}")

    def choose(logits_NV: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        force_eos_N1 = None if rows.at_limit_N is None else rows.at_limit_N[:, None]
        best = []
        for part in rows_at_once(logits_NV):
            forced = None if force_eos_N1 is None else force_eos_N1[part]
            best.append(allowed_log_probs(logits_NV[part], rows.step < min_len, forced).max(dim=1))
        # of equal probabilities, `max` returns the lowest id, which is not </s> if even that has probability 0
        tokens_N = torch.cat([each.indices for each in best])
        if rows.at_limit_N is not None:
            tokens_N = torch.where(rows.at_limit_N, EOS, tokens_N)
        return tokens_N, torch.cat([each.values for each in best]).double()

    found = extend_rows(stepper, choose, max_len_B=max_len_B, rows=1, device=device, read_steps=read_steps)
    return [[_hypothesis(*row, sentence, lenpen)] for sentence, row in enumerate(found)]


def _hypothesis(tokens: list[int], log_probs: list[float], sentence: int, lenpen: float) -> Hypothesis:
    total = float(np.add.accumulate(log_probs)[-1])  # one after the other, as beam search adds them
    if math.isnan(total):
        raise FloatingPointError(f"sentence {sentence} of the batch: the model's log-probabilities are NaN")
    if total == -math.inf:
        raise FloatingPointError(f"sentence {sentence} of the batch: no hypothesis has a probability above 0")
    return Hypothesis(tuple(tokens[:-1]), normalized_score(total, len(tokens), lenpen), tuple(log_probs))


def search_with_beam(
    stepper: Stepper,
    settings: Decode,
    *,
    max_len_B: Sequence[int],
    narrow: bool = False,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """Translate a batch by beam search, or by greedy search, which is faster, if the beam is 1. See `beam_search`."""
    lenpen = settings.lenpen
    if settings.beam == 1:
        return greedy_search(stepper, max_len_B=max_len_B, lenpen=lenpen, device=device)
    beam, nbest = settings.beam, settings.nbest
    return beam_search(
        stepper, max_len_B=max_len_B, beam=beam, nbest=nbest, lenpen=lenpen, narrow=narrow, device=device
    )
