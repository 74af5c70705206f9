"""Detection of training text whose source and target are exchanged, without knowledge of the languages.

The character trigrams of a held-out set show which side is the source. A pair counts as exchanged if its sides are far
more probable the other way round. In similar languages, the difference never becomes that large.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Pair = tuple[str, str]  # (source line, target line)

MAX_LINES = 2000  # pairs that are read from a held-out set, and from a corpus
_MAX_CHARACTERS = 500  # per line
_FEWEST_TRIGRAMS = 10  # known trigrams of a pair; a pair with fewer is ignored
_LEAST_DIFFERENCE = 0.7  # nats per trigram
_SMOOTHING = 0.5
_FEWEST_PAIRS, _LEAST_SHARE = 5, 0.05  # exchanged pairs that are not there by chance


@dataclass(frozen=True)
class Exchanged:
    """Result of the comparison of pairs."""

    num_pairs: int  # pairs with enough known trigrams
    num_exchanged: int

    @property
    def is_suspicious(self) -> bool:
        """Return whether more pairs are exchanged than chance can explain."""
        return self.num_exchanged >= max(_FEWEST_PAIRS, _LEAST_SHARE * self.num_pairs)


class Sides:
    """Character trigrams of source and target lines.

    Args:
        pairs: sentence pairs, of which the first `MAX_LINES` are used.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        counts: tuple[Counter[str], Counter[str]] = Counter(), Counter()
        for pair in itertools.islice(pairs, MAX_LINES):
            for count, line in zip(counts, pair, strict=True):
                count.update(_trigrams(line))
        known = counts[0].keys() | counts[1].keys()
        totals = [count.total() + _SMOOTHING * len(known) for count in counts]
        self._differences = {
            trigram: math.log((counts[0][trigram] + _SMOOTHING) / totals[0])
            - math.log((counts[1][trigram] + _SMOOTHING) / totals[1])
            for trigram in known
        }

    def compare(self, pairs: Sequence[Pair]) -> Exchanged:
        """Count the pairs that are far more probable with their sides exchanged."""
        scores = [score for pair in pairs if (score := self._score(*pair)) is not None]
        return Exchanged(len(scores), sum(score < -_LEAST_DIFFERENCE for score in scores))

    def _score(self, source: str, target: str) -> float | None:
        """Return log P(as given) - log P(exchanged) in nats per trigram, or None if too few trigrams are known."""
        of_source, of_target = (
            [self._differences[trigram] for trigram in _trigrams(line) if trigram in self._differences]
            for line in (source, target)
        )
        count = len(of_source) + len(of_target)
        return None if count < _FEWEST_TRIGRAMS else (math.fsum(of_source) - math.fsum(of_target)) / count


def _trigrams(line: str) -> list[str]:
    line = f" {line[:_MAX_CHARACTERS].casefold()} "
    return [line[start : start + 3] for start in range(len(line) - 2)]
