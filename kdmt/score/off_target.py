"""Off-target rate: translations of a multilingual model that are in another language than the one that was wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdmt.config import OffTarget
from kdmt.corpus.language_id import Identifier, group_of, knows_any, open_identifier
from kdmt.errors import UserError
from kdmt.languages import parse_language


def check_languages(settings: OffTarget, codes: Sequence[str]) -> None:
    """Check that the identifier is installed and knows all languages, without reading its weights if possible.

    Raises:
        UserError: if it is not installed, its model cannot be read, or it does not know a language.
    """
    model = None if settings.model is None else Path(settings.model)
    languages = _languages(codes)
    for language in languages:
        if not knows_any(model, _counted_as(language, languages)):
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
        languages = _languages(codes)
        for language in languages:
            if _counted_as(language, languages).isdisjoint(identifier.languages):
                raise UserError(f"score.off_target: the identifier does not know {language!r}: give another 'model'")
        return cls(identifier, languages)

    def of_lines(self, lines: Sequence[str], target: str) -> float | None:
        """Return the share of the lines that are in another language, 0 to 100; None if no line has a letter.

        The language of a line is that with the largest probability among those of the pipeline.

        Args:
            target: code of the target language.
        """
        judged = [line for line in lines if any(map(str.isalpha, line))]
        if not judged:
            return None
        probabilities_NL = self.identifier.probabilities(judged)
        known = self.identifier.languages
        counted = [_counted_as(language, self.languages) for language in self.languages]
        columns = [[i for i, code in enumerate(known) if code in codes] for codes in counted]
        by_language = np.stack([probabilities_NL[:, own].sum(axis=1, dtype=np.float64) for own in columns], axis=1)
        wanted = self.languages.index(parse_language(target).language)
        is_off_N = by_language.max(axis=1) > by_language[:, wanted]
        return 100.0 * float(is_off_N.mean())


def _languages(codes: Sequence[str]) -> tuple[str, ...]:
    """Return the languages of codes, each once: an identifier does not tell the scripts of a language apart."""
    return tuple(dict.fromkeys(parse_language(code).language for code in codes))


def _counted_as(language: str, languages: Sequence[str]) -> frozenset[str]:
    """Return the codes of an identifier that count as a language.

    They are those of its related languages too (`kdmt.corpus.language_id.group_of`), unless the pipeline has one of
    these too: then they are different languages.
    """
    group = group_of(language)
    return group if group.isdisjoint(set(languages) - {language}) else frozenset({language})
