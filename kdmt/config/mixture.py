"""Settings of a student's training data: the name of a training set, or a list of sets with shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Discriminator, Field, Tag

from kdmt.config.section import Section
from kdmt.training_sets import TRAINING_SETS, TrainingSetName, parts_of

_ROUNDING = 1e-6  # of the sum of the shares


class MixedSet(Section):
    """One training set of a mixture ('data' of a student)."""

    set: TrainingSetName = Field(description="Name of a training set, as in 'data'")
    share: float = Field(gt=0.0, lt=1.0, description="Share of the pairs of an epoch that are of this set")


def _check_mixture(sets: list[MixedSet]) -> list[MixedSet]:
    names = [each.set for each in sets]
    if len(names) < 2:
        raise ValueError("a list mixes at least two training sets: for one, give its name")
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"'{number}.set': {name} is named twice")
        if parts := TRAINING_SETS[name].parts:
            raise ValueError(f"'{number}.set': {name} is not a set of its own: name {' and '.join(parts)}")
    total = math.fsum(each.share for each in sets)
    if abs(total - 1.0) > _ROUNDING:
        raise ValueError(f"the shares add up to {total:g}, not to 1")
    return sets


NAME_BRANCH, MIXTURE_BRANCH = "<one training set>", "<mixture>"
Data = Annotated[
    Annotated[TrainingSetName, Tag(NAME_BRANCH)]
    | Annotated[list[MixedSet], AfterValidator(_check_mixture), Tag(MIXTURE_BRANCH)],
    Discriminator(lambda value: MIXTURE_BRANCH if isinstance(value, list) else NAME_BRANCH),
]


def names_of(data: str | Sequence[MixedSet]) -> tuple[str, ...]:
    """Return the training sets with folders of their own that a student reads, in the order of their pairs."""
    if isinstance(data, str):
        return parts_of(data)
    return tuple(each.set for each in data)


def shares_of(data: str | Sequence[MixedSet]) -> tuple[float, ...] | None:
    """Return the share of each training set of a mixture; None if all pairs of the sets are used in each epoch."""
    return None if isinstance(data, str) else tuple(each.share for each in data)
