"""Rules that choose the student's targets among the teacher's hypotheses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
        given: scores from files of the user, one of each file; NaN if a file has none.
        count: number of times that the text was drawn from the teacher.
        system: index of the system that made it; 0 is the teacher.
    """

    words: str
    score: float
    length: int
    given: tuple[float, ...] = ()
    count: int = 1
    system: int = 0


@dataclass(frozen=True)
class Line:
    """A line of the text that is distilled.

    Attributes:
        source: words of the source.
        reference: words of the reference; empty if there is none.
        tag: corpus tag, or the direction of the line if there are several; empty if there is none.
    """

    source: str = ""
    reference: str = ""
    tag: str = ""


@dataclass(frozen=True)
class Choice:
    """A candidate that becomes a target.

    Attributes:
        index: index among the candidates.
        weight: weight as a target.
        values: values that explain the choice, in the order of `Selector.columns`.
    """

    index: int
    weight: float = 1.0
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Selector:
    """A rule that chooses targets.

    Attributes:
        depth: number of hypotheses of a sentence that it considers, best first.
        choose: (one or more candidates, line) -> those that become targets, best first.
        reason: reason of a choice, for the record of choices.
        columns: names of the values that explain a choice; without names, there is no record of choices.
        weighs: True if the targets have different weights.
        by_reference: True if it uses the reference; the best hypothesis is taken for a line without a reference.
    """

    depth: int
    choose: Callable[[Sequence[Candidate], Line], list[Choice]]
    reason: str = field(default="best hypothesis", kw_only=True)
    columns: tuple[str, ...] = field(default=(), kw_only=True)
    weighs: bool = field(default=False, kw_only=True)
    by_reference: bool = field(default=False, kw_only=True)


def _first(_: Sequence[Candidate], __: Line) -> list[Choice]:
    return [Choice(0)]


BEST = Selector(depth=1, choose=_first)


def _highest_given(candidates: Sequence[Candidate], _: Line) -> list[Choice]:
    scores = []
    for place, candidate in enumerate(candidates, start=1):
        if not candidate.given or math.isnan(candidate.given[0]):
            raise ValueError(f"hypothesis {place} of {len(candidates)} has no score")
        scores.append(candidate.given[0])
    return [_highest(scores)]


def _highest(scores: Sequence[float]) -> Choice:
    """Return the choice of the first candidate with the highest score."""
    index = max(range(len(scores)), key=scores.__getitem__)
    return Choice(index, values=(scores[index],))


# Chooses the first candidate with the highest given score. Its `choose` raises ValueError if a score is missing.
HIGHEST_GIVEN = Selector(depth=ALL, choose=_highest_given, reason="highest score", columns=("score",))


def interpolated(nearness: Nearness) -> Selector:
    """Return the rule of sequence-level interpolation (Kim & Rush 2016, section 3.3).

    It chooses the hypothesis of the n-best list that is most similar to the reference.

    Args:
        nearness: (hypotheses, reference) -> similarity of each hypothesis; the first of equals is chosen.
    """
    return Selector(
        depth=ALL,
        choose=partial(_nearest, nearness=nearness),
        reason="most similar to the reference",
        columns=("similarity",),
        by_reference=True,
    )


def _nearest(candidates: Sequence[Candidate], line: Line, *, nearness: Nearness) -> list[Choice]:
    return [_highest(nearness([candidate.words for candidate in candidates], line.reference))]


def weighted(lenpen: float) -> Selector:
    """Return the rule that takes the whole n-best list, weighted by the teacher's probabilities.

    The probabilities are renormalised to sum to 1.

    The loss is that of sequence-level distillation with the teacher's distribution over sequences truncated to the
    n-best list; Kim & Rush 2016, section 3.2, keep only its mode.
    """
    return Selector(
        depth=ALL,
        choose=partial(_by_probability, lenpen=lenpen),
        reason="weighted by probability",
        columns=("probability",),
        weighs=True,
    )


def _by_probability(candidates: Sequence[Candidate], _: Line, *, lenpen: float) -> list[Choice]:
    shares = probabilities(candidates, lenpen)
    return [Choice(index, weight=share, values=(share,)) for index, share in enumerate(shares)]


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
