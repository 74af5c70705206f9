"""The interface of teachers, as the stages that decode with them know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from kdmt.config import Sample
from kdmt.distill.candidates import ToWords
from kdmt.distill.decoding import Teacher
from kdmt.distill.sources import Text

ENGINE_FOLDER = "engine"  # below the stage's folder: the model in CTranslate2's format
SEARCH_SETTINGS = ("distill.decode.", "distill.sample.")


class ChosenTeacher(Protocol):
    """The interface that a stage needs of a teacher."""

    @property
    def vocab_size(self) -> int:
        """Return the size of the vocabulary of its hypotheses."""
        ...

    def inputs(self) -> dict[str, str]:
        """Return the sha256 of its files, for a plan."""
        ...

    def check(self, sample: Sample | None) -> None:
        """Refuse a teacher that cannot do what the settings ask for, before any folder is touched.

        Raises:
            UserError: saying what it cannot do.
        """
        ...

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        """Return what the content of a block depends on besides its sources.

        Args:
            settings, inputs: of the plan.
        """
        ...

    def open(self, folder: Path, sample: Sample | None) -> Teacher:
        """Return the teacher as workers need it; for CTranslate2, write its model below the stage's folder."""
        ...

    def opens_text(self) -> Callable[[], Text]:
        """Return a function that opens the text to translate; it can be sent to another process."""
        ...

    def to_words(self) -> ToWords:
        """Return a function that makes words of hypotheses; it can be sent to another process."""
        ...


def plan_settings(settings: Mapping[str, object], prefixes: Sequence[str]) -> dict[str, object]:
    """Return the settings of a plan whose dotted paths begin with one of the prefixes."""
    return {key: value for key, value in settings.items() if key.startswith(tuple(prefixes))}
