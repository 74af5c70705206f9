"""From the output of a CTC decoder to a sentence.

Shapes: B batch, L decoder positions, V vocabulary and the blank.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kdmt.types import Hypothesis


def greedy(logits_BLV: Tensor, keep_BL: Tensor, *, blank: int) -> list[Hypothesis]:
    """The most probable token or blank at each position, merged: best path decoding (Graves et al. 2006).

    The score is the path's log-probability.
    """
    best = logits_BLV.max(-1)
    log_probs_BL = (best.values - logits_BLV.logsumexp(-1)) * keep_BL
    scores, paths, lengths = log_probs_BL.sum(1).tolist(), best.indices.tolist(), keep_BL.sum(1).tolist()
    return [
        Hypothesis(tokens=collapse(path[:length], blank), score=score, steps=1)
        for path, length, score in zip(paths, lengths, scores, strict=True)
    ]


def collapse(path: Sequence[int], blank: int) -> tuple[int, ...]:
    """Repeated tokens merged, blanks dropped."""
    return tuple(
        token for place, token in enumerate(path) if token != blank and (place == 0 or token != path[place - 1])
    )


@dataclass
class _Prefix:
    """Natural log-probabilities of all paths so far that give one output, by how they end."""

    blank: float = -math.inf
    token: float = -math.inf

    @property
    def total(self) -> float:
        return _log_add(self.blank, self.token)


def prefix_beam_search(
    log_probs_LV: NDArray[np.floating[Any]], *, blank: int, beam: int, candidates: int
) -> tuple[tuple[int, ...], float]:
    """The output with the largest probability over all its alignments, and the logarithm of that (Graves et al. 2006;
    Hannun et al. 2014, algorithm 1, without a language model).

    Args:
        log_probs_LV: of one sentence, the blank among the symbols.
        beam: outputs that are kept at each position; with enough of them, and all candidates, the search is exact.
        candidates: symbols with which an output is continued at each position, the most probable ones.
    """
    prefixes: dict[tuple[int, ...], _Prefix] = {(): _Prefix(blank=0.0)}
    for log_probs_V in log_probs_LV:
        count = min(candidates, len(log_probs_V))
        best = np.argpartition(-log_probs_V, count - 1)[:count].tolist()
        grown: dict[tuple[int, ...], _Prefix] = defaultdict(_Prefix)
        for prefix, paths in prefixes.items():
            for symbol in best:
                _continue(grown, prefix, paths, symbol, float(log_probs_V[symbol]), blank)
        kept = nlargest(beam, grown.items(), key=lambda item: item[1].total)
        prefixes = dict(kept)
    output, paths = max(prefixes.items(), key=lambda item: item[1].total)
    return output, paths.total


def _continue(
    grown: dict[tuple[int, ...], _Prefix],
    prefix: tuple[int, ...],
    paths: _Prefix,
    symbol: int,
    log_prob: float,
    blank: int,
) -> None:
    """Add what becomes of the paths of one output when a symbol follows."""
    if symbol == blank:
        same = grown[prefix]
        same.blank = _log_add(same.blank, paths.total + log_prob)
        return
    repeats = bool(prefix) and prefix[-1] == symbol
    if repeats:  # without a blank in between it is the same token still
        same = grown[prefix]
        same.token = _log_add(same.token, paths.token + log_prob)
    longer = grown[(*prefix, symbol)]
    longer.token = _log_add(longer.token, (paths.blank if repeats else paths.total) + log_prob)


def _log_add(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
