"""Which of the teacher's hypotheses becomes the student's target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_ALL = 10**9


@dataclass(frozen=True)
class Selector:
    """A rule of choice.

    Attributes:
        depth: how many of a sentence's hypotheses it looks at, the best first.
        similarity: (hypothesis, reference) -> how near they are; None takes the best hypothesis.
    """

    depth: int
    similarity: Callable[[str, str], float] | None = None

    def __call__(self, hypotheses: Sequence[str], reference: str) -> int:
        """The place of the chosen one; of equals the first."""
        similarity = self.similarity
        if similarity is None:
            return 0
        return max(range(len(hypotheses)), key=lambda place: similarity(hypotheses[place], reference))


BEST = Selector(depth=1)


def interpolated(similarity: Callable[[str, str], float]) -> Selector:
    """Sequence-level interpolation: of the n-best, the one nearest to the reference (Kim & Rush 2016, section 3.3)."""
    return Selector(depth=_ALL, similarity=similarity)
