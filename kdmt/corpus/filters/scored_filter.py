"""What all filters by scores share: the text that they score, and the choice of the pairs that are dropped.

Shape legend: N pairs of a corpus after the first pass of cleaning; K of them that are kept so far.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdmt.config import ScoreLimit
from kdmt.corpus.lines import iterate_lines
from kdmt.corpus.process_pool import OpenMap

Flags = NDArray[np.bool_]
Scores = NDArray[np.float64]
Pair = tuple[str, str]


@dataclass(frozen=True)
class KeptText:
    """The pairs of a corpus that all rules before a filter keep.

    Attributes:
        source, target: files with the text of each side, one line per pair.
        kept_N: mask of the lines that are kept.
    """

    source: Path
    target: Path
    kept_N: Flags

    def __len__(self) -> int:
        """Return the number of kept pairs."""
        return int(np.count_nonzero(self.kept_N))

    def pairs(self) -> Iterator[Pair]:
        """Yield the kept pairs in order."""
        pairs = zip(iterate_lines(self.source), iterate_lines(self.target), strict=True)
        return itertools.compress(pairs, self.kept_N.tobytes())  # a byte of 0 or 1 per pair

    def half(self, number: int) -> KeptText:
        """Return every second of the kept pairs, from the first on (0) or from the second on (1)."""
        half_N = np.zeros(len(self.kept_N), dtype=bool)
        half_N[np.flatnonzero(self.kept_N)[number::2]] = True
        return KeptText(self.source, self.target, half_N)

    def batches(self, size: int) -> Iterator[list[Pair]]:
        """Yield the kept pairs in order, `size` at a time."""
        pairs = self.pairs()
        while batch := list(itertools.islice(pairs, size)):
            yield batch


class ScoredFilter(Protocol):
    """A filter for all corpora."""

    def fit(self, texts: Sequence[KeptText]) -> None:
        """Learn what the filter needs from the text of all corpora."""
        ...

    def score(self, text: KeptText) -> Scores:
        """Return the score of each kept pair [K], higher for better pairs, NaN for pairs that cannot be judged."""
        ...


def score_in_batches(
    score_batch: Callable[[list[Pair]], Scores], text: KeptText, *, batch_pairs: int, open_map: OpenMap
) -> Scores:
    """Return the scores of a function for batches of pairs, which may be computed in several processes [K]."""
    with open_map(score_batch) as map_in_order:
        return np.concatenate([np.zeros(0), *map_in_order(text.batches(batch_pairs))])


def choose_dropped(scores_K: Scores, limit: ScoreLimit) -> Flags:
    """Return the mask of the pairs that are dropped for their scores [K].

    These are the pairs with a score below `min`, and the lowest `drop_percent` of all pairs; of equal scores, later
    ones are dropped first. Pairs without a score are kept.
    """
    dropped_K = np.zeros(len(scores_K), dtype=bool)
    if limit.min is not None:
        dropped_K |= scores_K < limit.min
    if limit.drop_percent is not None:
        count = int(len(scores_K) * limit.drop_percent / 100)
        order = np.argsort(np.where(np.isnan(scores_K), np.inf, -0.0 + scores_K)[::-1], kind="stable")[:count]
        lowest = len(scores_K) - 1 - order
        dropped_K[lowest[~np.isnan(scores_K[lowest])]] = True
    return dropped_K


def sample_pairs(texts: Sequence[KeptText], limit: int) -> list[Pair]:
    """Return at most `limit` pairs, evenly spread over all corpora."""
    total = sum(map(len, texts))
    count = min(limit, total)
    wanted = np.zeros(total, dtype=bool)
    wanted[[number * total // count for number in range(count)]] = True
    pairs = itertools.chain.from_iterable(text.pairs() for text in texts)
    return list(itertools.compress(pairs, wanted.tobytes()))
