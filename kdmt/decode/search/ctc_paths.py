"""Search for the best sentence in the output of a CTC decoder: best path decoding and prefix beam search.

Shapes: B batch, L decoder positions, V vocabulary and the blank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kdmt.decode.search.transfers import to_host
from kdmt.types import Hypothesis


def greedy(symbols_BL: Tensor, log_probs_BL: Tensor, keep_BL: Tensor, *, blank: int) -> list[Hypothesis]:
    """Return the hypothesis of the most probable path: best path decoding (Graves et al. 2006).

    The path has the most probable symbol at each position and is collapsed. The score is the path's log-probability.

    Args:
        symbols_BL: the most probable token or blank at each position.
        log_probs_BL: its log-probability.
        keep_BL: bool, mask of the positions that are not padding.
        blank: id of the blank.
    """
    columns = to_host((log_probs_BL * keep_BL).sum(1), symbols_BL, keep_BL.sum(1))
    return [
        Hypothesis(tokens=collapse(path[:length], blank), score=score, steps=1)
        for score, path, length in zip(*(column.tolist() for column in columns), strict=True)
    ]


def collapse(path: Sequence[int], blank: int) -> tuple[int, ...]:
    """Merge repeated tokens of a path, and remove blanks."""
    return tuple(
        token for place, token in enumerate(path) if token != blank and (place == 0 or token != path[place - 1])
    )


State = object  # state of a language model after the tokens so far


class LanguageModel(Protocol):
    """An autoregressive model of outputs. Its states are opaque to the search."""

    def start(self) -> State:
        """Return the state before the first token."""
        ...

    def extend(self, state: State, token: int) -> tuple[State, float]:
        """Return the state after a token, and the token's natural log-probability."""
        ...

    def end(self, state: State) -> float:
        """Return the natural log-probability that an output ends in this state."""
        ...


@dataclass(frozen=True)
class Fusion:
    """A language model and its weights.

    The term weight * log P_lm + bonus * num_tokens is added to the log-probability of an output.
    """

    model: LanguageModel
    weight: float
    bonus: float


@dataclass
class _Prefix:
    """Natural log-probabilities of all paths so far that collapse to one output, by how the paths end.

    Attributes:
        blank: log-probability of the paths that end in a blank.
        token: log-probability of the paths that end in the output's last token.
        added: what the language model adds to the log-probability.
        state: state of the language model.
    """

    blank: float = -math.inf
    token: float = -math.inf
    added: float = 0.0
    state: State = None

    @property
    def total(self) -> float:
        return _log_add(self.blank, self.token)

    @property
    def score(self) -> float:
        return self.total + self.added


def prefix_beam_search(
    log_probs_LV: NDArray[np.floating], *, blank: int, beam: int, candidates: int, fusion: Fusion | None = None
) -> tuple[tuple[int, ...], float]:
    """Return the output with the largest probability over all its alignments, and its score (Graves et al. 2006).

    The score is the logarithm of this probability. With a language model, the term of `Fusion` is added (Hannun et al.
    2014, algorithm 1, with tokens instead of words).

    Args:
        log_probs_LV: natural log-probabilities of one sentence, with the blank among the symbols.
        blank: id of the blank.
        beam: number of outputs kept at each position. If it is large enough, and `candidates` is the number of all
            symbols, the search is exact.
        candidates: number of most probable symbols with which an output is extended at each position.
        fusion: language model and its weights.
    """
    prefixes: dict[tuple[int, ...], _Prefix] = {(): _Prefix(blank=0.0, state=fusion and fusion.model.start())}
    for log_probs_V in log_probs_LV:
        count = min(candidates, len(log_probs_V))
        best = np.argpartition(-log_probs_V, count - 1)[:count].tolist()
        grown: dict[tuple[int, ...], _Prefix] = {}
        for prefix, paths in prefixes.items():
            for symbol in best:
                _continue(grown, prefix, paths, symbol, float(log_probs_V[symbol]), blank, fusion)
        prefixes = dict(nlargest(beam, grown.items(), key=lambda item: item[1].score))
    ended = {output: paths.score + _end(paths, fusion) for output, paths in prefixes.items()}
    output = max(ended, key=lambda each: ended[each])
    return output, ended[output]


def _end(paths: _Prefix, fusion: Fusion | None) -> float:
    return 0.0 if fusion is None else fusion.weight * fusion.model.end(paths.state)


def _continue(
    grown: dict[tuple[int, ...], _Prefix],
    prefix: tuple[int, ...],
    paths: _Prefix,
    symbol: int,
    log_prob: float,
    blank: int,
    fusion: Fusion | None,
) -> None:
    """Extend the paths of one output by a symbol and add them to the outputs in `grown`."""
    repeats = bool(prefix) and prefix[-1] == symbol
    if symbol == blank or repeats:
        same = grown.setdefault(prefix, _Prefix(added=paths.added, state=paths.state))
        if symbol == blank:
            same.blank = _log_add(same.blank, paths.total + log_prob)
            return
        same.token = _log_add(same.token, paths.token + log_prob)  # a repetition without a blank is the same token
    longer = grown.get((*prefix, symbol))
    if longer is None:
        longer = grown[(*prefix, symbol)] = _longer(paths, symbol, fusion)
    longer.token = _log_add(longer.token, (paths.blank if repeats else paths.total) + log_prob)


def _longer(paths: _Prefix, symbol: int, fusion: Fusion | None) -> _Prefix:
    """Return an output that is one token longer, before any of its paths is added."""
    if fusion is None:
        return _Prefix()
    state, log_prob = fusion.model.extend(paths.state, symbol)
    return _Prefix(added=paths.added + fusion.weight * log_prob + fusion.bonus, state=state)


def _log_add(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
