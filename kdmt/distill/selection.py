"""Rules that choose the student's targets among the teacher's hypotheses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

# (hypotheses, reference) -> similarity of each hypothesis to the reference
Nearness = Callable[[Sequence[str], str], Sequence[float]]
ALL = 10**9  # depth that is larger than any number of hypotheses


@dataclass(frozen=True)
class Candidate:
    """A hypothesis.

    Attributes:
        words: text of the hypothesis.
        score: natural logarithm of its probability, divided by length ** lenpen; NaN for another system's.
        length: number of tokens, including </s>.
        given: score from a file of the user, higher is better; NaN if there is none.
        count: number of times that it was drawn, in a pool of candidates.
        system: index of the system that made it, in a pool of candidates; 0 for the teacher.
    """

    words: str
    score: float
    length: int
    given: float = math.nan
    count: int = 1
    system: int = 0


Choice = tuple[Candidate, float]  # a candidate and its weight as a target


@dataclass(frozen=True)
class Selector:
    """A rule that chooses targets.

    Attributes:
        depth: number of hypotheses of a sentence that it considers, best first.
        choose: (one or more candidates, reference) -> those that become targets, with weights.
        weighs: True if the targets have different weights.
        by_reference: True if it uses the reference; the best hypothesis is taken for a line without a reference.
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


# Chooses the first candidate with the highest given score. Its `choose` raises ValueError if a score is missing.
HIGHEST_GIVEN = Selector(depth=ALL, choose=_highest_given)


def interpolated(nearness: Nearness) -> Selector:
    """Return the rule of sequence-level interpolation (Kim & Rush 2016, section 3.3).

    It chooses the hypothesis of the n-best list that is most similar to the reference.

    Args:
        nearness: (hypotheses, reference) -> similarity of each hypothesis; the first of equals is chosen.
    """
    return Selector(depth=ALL, choose=partial(_nearest, nearness=nearness), by_reference=True)


def _nearest(candidates: Sequence[Candidate], reference: str, *, nearness: Nearness) -> list[Choice]:
    near = nearness([candidate.words for candidate in candidates], reference)
    return [(candidates[max(range(len(near)), key=near.__getitem__)], 1.0)]


def weighted(lenpen: float) -> Selector:
    """Return the rule that takes the whole n-best list, weighted by the teacher's probabilities.

    The probabilities are renormalised to sum to 1.

    The loss is that of sequence-level distillation with the teacher's distribution over sequences truncated to the
    n-best list; Kim & Rush 2016, section 3.2, keep only its mode.
    """
    return Selector(depth=ALL, choose=partial(_by_probability, lenpen=lenpen), weighs=True)


def _by_probability(candidates: Sequence[Candidate], _: str, *, lenpen: float) -> list[Choice]:
    return list(zip(candidates, probabilities(candidates, lenpen), strict=True))


def probabilities(candidates: Sequence[Candidate], lenpen: float) -> list[float]:
    """Return the teacher's probability of each candidate, renormalised to sum to 1.

    Candidates of other systems have no probability: they get 0, and equal shares if there are no others.
    """
    log_probs = [candidate.score * candidate.length**lenpen for candidate in candidates]
    log_probs = [-math.inf if math.isnan(log_prob) else log_prob for log_prob in log_probs]
    likeliest = max(log_probs)
    if likeliest == -math.inf:
        return [1 / len(candidates)] * len(candidates)
    shares = [math.exp(log_prob - likeliest) for log_prob in log_probs]
    total = math.fsum(shares)
    return [share / total for share in shares]
