"""Training text whose source and target are exchanged, found without knowing the languages.

What the two sides look like is learnt from the character trigrams of a held-out set. A pair is taken for exchanged
where its sides are far more probable the other way round; languages that are alike are never that far apart.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Pair = tuple[str, str]  # (source line, target line)

MAX_LINES = 2000  # of a held-out set, and of a corpus
_MAX_CHARACTERS = 500  # of a line
_FEWEST_TRIGRAMS = 10  # known ones, of a pair: fewer say nothing
_LEAST_DIFFERENCE = 0.7  # nats a trigram
_SMOOTHING = 0.5
_FEWEST_PAIRS, _LEAST_SHARE = 5, 0.05  # exchanged ones that are no chance


@dataclass(frozen=True)
class Exchanged:
    """What was found in the pairs that were looked at."""

    num_pairs: int  # that say something
    num_exchanged: int

    @property
    def is_suspicious(self) -> bool:
        """Whether so many are exchanged that chance does not explain it."""
        return self.num_exchanged >= max(_FEWEST_PAIRS, _LEAST_SHARE * self.num_pairs)


class Sides:
    """What source and target lines look like.

    Args:
        pairs: of which the first `MAX_LINES` are taken.
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
        """log P(as they are) - log P(exchanged) in nats a trigram; None where too few are known."""
        of_source, of_target = (
            [self._differences[trigram] for trigram in _trigrams(line) if trigram in self._differences]
            for line in (source, target)
        )
        count = len(of_source) + len(of_target)
        return None if count < _FEWEST_TRIGRAMS else (math.fsum(of_source) - math.fsum(of_target)) / count


def _trigrams(line: str) -> list[str]:
    line = f" {line[:_MAX_CHARACTERS].casefold()} "
    return [line[start : start + 3] for start in range(len(line) - 2)]
