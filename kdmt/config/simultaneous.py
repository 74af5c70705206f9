"""Settings of simultaneous translation: the wait-k policy in training and in scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from kdmt.config.section import Section


def _distinct(values: list[int]) -> list[int]:
    if len(set(values)) != len(values):
        raise ValueError("the list holds a number twice")
    return values


class WaitKRange(Section):
    """Range of values of k ('wait_k' of a student)."""

    min: int = Field(ge=1, description="Smallest k")
    max: int = Field(ge=1, description="Largest k")

    @model_validator(mode="after")
    def _ordered(self) -> WaitKRange:
        if self.min > self.max:
            raise ValueError(f"'min' ({self.min}) is more than 'max' ({self.max})")
        return self


NUMBER_BRANCH, LIST_BRANCH, RANGE_BRANCH = "<one k>", "<list of k>", "<range of k>"
_K = Annotated[int, Field(ge=1)]
WaitKList = Annotated[list[_K], Field(min_length=1), AfterValidator(_distinct)]
WaitK = Annotated[
    Annotated[_K, Tag(NUMBER_BRANCH)]
    | Annotated[WaitKList, Tag(LIST_BRANCH)]
    | Annotated[WaitKRange, Tag(RANGE_BRANCH)],
    Discriminator(
        lambda value: (
            LIST_BRANCH if isinstance(value, list) else NUMBER_BRANCH if isinstance(value, int) else RANGE_BRANCH
        )
    ),
]


def values_of(wait_k: int | Sequence[int] | WaitKRange) -> tuple[int, ...]:
    """Return the values of k that a setting names, in ascending order."""
    if isinstance(wait_k, int):
        return (wait_k,)
    if isinstance(wait_k, WaitKRange):
        return tuple(range(wait_k.min, wait_k.max + 1))
    return tuple(sorted(wait_k))


class Simultaneous(Section):
    """Scores of simultaneous translation, with latency, in the score stage."""

    wait_k: WaitKList = Field(
        [1, 3, 5, 7],
        description="Values of k for systems with a unidirectional encoder: they translate with the wait-k policy in "
        "addition; streaming 'ctc' students have the chunks of their training",
    )
