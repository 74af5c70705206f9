"""What all teachers with a vocabulary have in common: their hypotheses are ids of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kdmt.config import Distill
from kdmt.distill.candidates import CountTokens, FindFailures, count_ids, find_failures_of_tokens
from kdmt.distill.decoding import BlockTask
from kdmt.distill.inputs import Inputs


@dataclass(frozen=True)
class TokenTeacherModel:
    """The part of `ChosenTeacher` that is the same for all models whose hypotheses are tokens.

    Attributes:
        settings: settings that name the model.
        text: text to translate.
    """

    settings: Distill
    text: Inputs
    is_reproducible: ClassVar[bool] = True

    def find_failures(self) -> FindFailures:
        """See `ChosenTeacher.find_failures`."""
        return find_failures_of_tokens

    def count_tokens(self) -> CountTokens:
        """See `ChosenTeacher.count_tokens`."""
        return count_ids

    def facts(self, folder: Path, tasks: Sequence[BlockTask]) -> dict[str, object]:
        """See `ChosenTeacher.facts`; there are no more."""
        del folder, tasks
        return {}
