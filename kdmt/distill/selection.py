"""Which of the teacher's hypotheses become the student's targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

# (hypotheses, reference) -> how near each of them is to it
Nearness = Callable[[Sequence[str], str], Sequence[float]]
ALL = 10**9  # hypotheses of a sentence: more than there are


@dataclass(frozen=True)
class Candidate:
    """A hypothesis.

    Attributes:
        words: its text.
        score: natural logarithm of its probability over length ** lenpen.
        length: its tokens, </s> counted.
        given: a score of somebody else's, the higher the better; NaN: none.
    """

    words: str
    score: float
    length: int
    given: float = math.nan


Choice = tuple[Candidate, float]  # and what it counts as a target


@dataclass(frozen=True)
class Selector:
    """A rule of choice.

    Attributes:
        depth: how many of a sentence's hypotheses it looks at, the best first.
        choose: (candidates, at least one; reference) -> those that become targets.
        weighs: whether they count differently.
        by_reference: whether it goes by the reference; where there is none, the best is taken.
    """

    depth: int
    choose: Callable[[Sequence[Candidate], str], list[Choice]]
    weighs: bool = False
    by_reference: bool = False


def _first(candidates: Sequence[Candidate], _: str) -> list[Choice]:
    return [(candidates[0], 1.0)]


BEST = Selector(depth=1, choose=_first)


def _highest_given(candidates: Sequence[Candidate], _: str) -> list[Choice]:
    for place, candidate in enumerate(candidates, start=1):
        if math.isnan(candidate.given):
            raise ValueError(f"hypothesis {place} of {len(candidates)} has no score")
    return [(max(candidates, key=lambda candidate: candidate.given), 1.0)]


# The one with the highest score given, of equals the first. Its `choose` raises ValueError where a score is missing.
HIGHEST_GIVEN = Selector(depth=ALL, choose=_highest_given)


def interpolated(nearness: Nearness) -> Selector:
    """Sequence-level interpolation: of the n-best, the one nearest to the reference (Kim & Rush 2016, section 3.3).

    Args:
        nearness: (hypotheses, reference) -> how near each of them is; of equals the first is taken.
    """
    return Selector(depth=ALL, choose=partial(_nearest, nearness=nearness), by_reference=True)


def _nearest(candidates: Sequence[Candidate], reference: str, *, nearness: Nearness) -> list[Choice]:
    near = nearness([candidate.words for candidate in candidates], reference)
    return [(candidates[max(range(len(near)), key=near.__getitem__)], 1.0)]


def weighted(lenpen: float) -> Selector:
    """All of the n-best, each by the teacher's probability of it, renormalised to sum to 1 over them.

    It is the loss of sequence-level distillation with the teacher's distribution over sequences cut off at the n-best,
    of which Kim & Rush 2016, section 3.2, keep the mode alone.
    """
    return Selector(depth=ALL, choose=partial(_by_probability, lenpen=lenpen), weighs=True)


def _by_probability(candidates: Sequence[Candidate], _: str, *, lenpen: float) -> list[Choice]:
    return list(zip(candidates, probabilities(candidates, lenpen), strict=True))


def probabilities(candidates: Sequence[Candidate], lenpen: float) -> list[float]:
    """The teacher's probability of each, renormalised to sum to 1 over them."""
    log_probs = [candidate.score * candidate.length**lenpen for candidate in candidates]
    likeliest = max(log_probs)
    shares = [math.exp(log_prob - likeliest) for log_prob in log_probs]
    total = math.fsum(shares)
    return [share / total for share in shares]
