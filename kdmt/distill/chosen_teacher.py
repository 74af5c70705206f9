"""The interface of teachers for the stages that decode with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from kdmt.config import Sample
from kdmt.distill.candidates import CountTokens, FindFailures, ToWords
from kdmt.distill.decoding import BlockTask, Teacher
from kdmt.distill.sources import Text

ENGINE_FOLDER = "engine"  # inside the stage's folder: the model in CTranslate2's format
SEARCH_SETTINGS = ("distill.decode.", "distill.sample.", "distill.pool.")
# settings that blocks and plans of earlier versions may not have, with the values that they had
EARLIER = {
    "distill.sample.epsilon": 0.0,
    "distill.sample.min_p": 0.0,
    "distill.teachers.0.source_code": None,
    "distill.teachers.0.target_code": None,
}
# how CTranslate2 searches, in plans and headers of blocks; missing for the exact search, as in earlier versions
SEARCH, ONCE, EXACT = "search of CTranslate2", "once", "exact"
_OTHER_SYSTEMS = "distill.pool.systems"  # their candidates are not in blocks


class ChosenTeacher(Protocol):
    """The interface of a teacher that a stage uses."""

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary of its hypotheses."""
        ...

    @property
    def is_reproducible(self) -> bool:
        """Whether it gives the same translations again; if not, blocks are made again from its stored answers."""
        ...

    def inputs(self) -> dict[str, str]:
        """Return the SHA-256 of its files, for a plan."""
        ...

    def check(self, sample: Sample | None) -> None:
        """Check that the teacher supports the settings, before any folder is changed.

        Raises:
            UserError: if it does not.
        """
        ...

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        """Return the values that the content of a block depends on besides its sources.

        Args:
            settings, inputs: settings and inputs of the plan.
        """
        ...

    def open(
        self, folder: Path, sample: Sample | None, *, earlier: Sequence[Path] = (), verifying: bool = False
    ) -> Teacher:
        """Return the teacher in the form that workers load; write CTranslate2's model into the stage's folder.

        Args:
            earlier: earlier states of the stage's folder.
            verifying: True if the blocks are compared with existing ones.
        """
        ...

    def opens_text(self) -> Callable[[], Text]:
        """Return a function that opens the text to translate; it can be sent to another process."""
        ...

    def to_words(self) -> ToWords:
        """Return a function that converts hypotheses to words; it can be sent to another process."""
        ...

    def find_failures(self) -> FindFailures:
        """Return a function that finds the failures that ids show; it can be sent to another process."""
        ...

    def count_tokens(self) -> CountTokens:
        """Return a function that counts the tokens of hypotheses; it can be sent to another process."""
        ...

    def facts(self, folder: Path, tasks: Sequence[BlockTask]) -> dict[str, object]:
        """Return what the manifest records about the translations, besides what all teachers record."""
        ...


def plan_settings(settings: Mapping[str, object], prefixes: Sequence[str]) -> dict[str, object]:
    """Return the settings of a plan whose dotted paths begin with one of the prefixes, for the headers of blocks."""
    wanted = {key: value for key, value in settings.items() if key.startswith(tuple(prefixes))}
    return {
        key: value
        for key, value in wanted.items()
        if not key.startswith(_OTHER_SYSTEMS) and not (key in EARLIER and value == EARLIER[key])
    }
