"""What all teachers that answer with text have in common.

Their sources are text of the corpus without text processing and segmentation, and their hypotheses are ids of bytes and
marks (`kdmt.distill.text_ids`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kdmt.checksum import known_sha256
from kdmt.distill.blocks import BLOCKS, DamagedBlock, read_columns
from kdmt.distill.candidates import CountTokens, FindFailures, ToWords
from kdmt.distill.decoding import BlockTask
from kdmt.distill.inputs import Inputs
from kdmt.distill.llm_answers import LanguageCheck
from kdmt.distill.sources import Text
from kdmt.distill.text_ids import VOCAB_SIZE, count_answer_tokens, count_marks, find_answer_failures
from kdmt.distill.text_processing import TextDecoder, TextEncoder

SETTING = "distill.teachers.0."  # YAML path of the teacher with a dot at its end
MAX_IDS = 1 << 30  # there is no limit of the ids of a text


@dataclass(frozen=True)
class TextTeacherModel:
    """The part of `ChosenTeacher` that does not depend on where the model runs.

    Attributes:
        text: text to translate.
    """

    text: Inputs
    vocab_size: ClassVar[int] = VOCAB_SIZE

    @property
    def check_of_language(self) -> LanguageCheck:
        """Check of the language of answers."""
        return LanguageCheck(self.text.corpus.direction)

    def made_from_text(self) -> dict[str, object]:
        """Return the part of `ChosenTeacher.made_from` that does not depend on the model."""
        return {
            "text processing": known_sha256(self.text.corpus.text_file),
            "language check": self.check_of_language.method,
        }

    def opens_text(self) -> Callable[[], Text]:
        """See `ChosenTeacher.opens_text`."""
        return self.text.opens_lines(TextEncoder(self.text.corpus.text_processor()))

    def to_words(self) -> ToWords:
        """See `ChosenTeacher.to_words`."""
        return TextDecoder(self.text.corpus.text_processor())

    def find_failures(self) -> FindFailures:
        """See `ChosenTeacher.find_failures`."""
        return find_answer_failures

    def count_tokens(self) -> CountTokens:
        """See `ChosenTeacher.count_tokens`."""
        return count_answer_tokens

    def count_marks(self, folder: Path, tasks: Sequence[BlockTask]) -> Counter[str]:
        """Return how often answers failed, and how often each cleaning was necessary.

        Args:
            folder: folder of the stage.
        """
        counts: Counter[str] = Counter()
        for task in tasks:
            with suppress(DamagedBlock):
                counts.update(count_marks(read_columns(task.block.path(folder / BLOCKS)).tokens_T))
        return counts


@dataclass(frozen=True)
class AnsweringTeacher:
    """The part of `Teacher` that all teachers that answer with text share.

    Attributes:
        check: check of the language of answers.
    """

    check: LanguageCheck
    max_source_tokens: ClassVar[int] = MAX_IDS
    max_target_tokens: ClassVar[int] = MAX_IDS
    vocab_size: ClassVar[int] = VOCAB_SIZE
    limits_lengths: ClassVar[bool] = False
