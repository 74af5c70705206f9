"""Which of the teacher's hypotheses become the student's targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

_ALL = 10**9


@dataclass(frozen=True)
class Candidate:
    """A hypothesis.

    Attributes:
        words: its text.
        score: natural logarithm of its probability over length ** lenpen.
        length: its tokens, </s> counted.
    """

    words: str
    score: float
    length: int


Choice = tuple[Candidate, float]  # and what it counts as a target


@dataclass(frozen=True)
class Selector:
    """A rule of choice.

    Attributes:
        depth: how many of a sentence's hypotheses it looks at, the best first.
        choose: (candidates, at least one; reference) -> those that become targets.
        weighs: whether they count differently.
    """

    depth: int
    choose: Callable[[Sequence[Candidate], str], list[Choice]]
    weighs: bool = False


def _first(candidates: Sequence[Candidate], _: str) -> list[Choice]:
    return [(candidates[0], 1.0)]


BEST = Selector(depth=1, choose=_first)


def interpolated(similarity: Callable[[str, str], float]) -> Selector:
    """Sequence-level interpolation: of the n-best, the one nearest to the reference (Kim & Rush 2016, section 3.3).

    Args:
        similarity: (hypothesis, reference) -> how near they are; of equals the first is taken.
    """

    def nearest(candidates: Sequence[Candidate], reference: str) -> list[Choice]:
        return [(max(candidates, key=lambda candidate: similarity(candidate.words, reference)), 1.0)]

    return Selector(depth=_ALL, choose=nearest)


def weighted(lenpen: float) -> Selector:
    """All of the n-best, each by the teacher's probability of it, renormalised to sum to 1 over them.

    It is the loss of sequence-level distillation with the teacher's distribution over sequences cut off at the n-best,
    of which Kim & Rush 2016, section 3.2, keep the mode alone.
    """
    return Selector(depth=_ALL, choose=partial(_by_probability, lenpen=lenpen), weighs=True)


def _by_probability(candidates: Sequence[Candidate], _: str, *, lenpen: float) -> list[Choice]:
    log_probs = [candidate.score * candidate.length**lenpen for candidate in candidates]
    likeliest = max(log_probs)
    shares = [math.exp(log_prob - likeliest) for log_prob in log_probs]
    return [(candidate, share / math.fsum(shares)) for candidate, share in zip(candidates, shares, strict=True)]
