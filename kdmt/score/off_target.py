"""Off-target rate: translations of a multilingual model that are in another language than the one that was wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdmt.config import OffTarget
from kdmt.corpus.language_id import Identifier, group_of, knows_language, open_identifier
from kdmt.errors import UserError
from kdmt.languages import parse_language


def check_languages(settings: OffTarget, codes: Sequence[str]) -> None:
    """Check that the identifier is installed and knows all languages, without reading its weights if possible.

    Raises:
        UserError: if it is not installed, its model cannot be read, or it does not know a language.
    """
    model = None if settings.model is None else Path(settings.model)
    for language in dict.fromkeys(parse_language(code).language for code in codes):
        if not knows_language(model, language):
            raise UserError(f"score.off_target: the identifier does not know {language!r}: give another 'model'")


@dataclass(frozen=True)
class OffTargetRate:
    """Measurement of the off-target rate among the languages of a pipeline.

    Attributes:
        identifier: identifier of languages.
        languages: ISO 639 codes of the languages of the pipeline.
    """

    identifier: Identifier
    languages: tuple[str, ...]

    @classmethod
    def open(cls, settings: OffTarget, codes: Sequence[str]) -> OffTargetRate:
        """Open the identifier.

        Args:
            codes: languages of the pipeline.

        Raises:
            UserError: if it cannot be opened or does not know a language.
        """
        identifier = open_identifier(None if settings.model is None else Path(settings.model))
        languages = tuple(dict.fromkeys(parse_language(code).language for code in codes))
        for language in languages:
            if group_of(language).isdisjoint(identifier.languages):
                raise UserError(f"score.off_target: the identifier does not know {language!r}: give another 'model'")
        return cls(identifier, languages)

    def of_lines(self, lines: Sequence[str], target: str) -> float | None:
        """Return the share of the lines that are in another language, 0 to 100; None if no line has a letter.

        The language of a line is that with the largest probability among those of the pipeline; related languages
        count together (`kdmt.corpus.language_id.group_of`).

        Args:
            target: code of the target language.
        """
        judged = [line for line in lines if any(map(str.isalpha, line))]
        if not judged:
            return None
        probabilities_NL = self.identifier.probabilities(judged)
        known = self.identifier.languages
        columns = [[i for i, code in enumerate(known) if code in group_of(language)] for language in self.languages]
        by_language = np.stack([probabilities_NL[:, own].sum(axis=1, dtype=np.float64) for own in columns], axis=1)
        wanted = self.languages.index(parse_language(target).language)
        is_off_N = by_language.max(axis=1) > by_language[:, wanted]
        return 100.0 * float(is_off_N.mean())
