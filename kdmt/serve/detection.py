"""Detection of the source language of a text among those of the models."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from kdmt.corpus.language_id import EXTRA, group_of, open_built_in
from kdmt.languages import is_installed, parse_language

MISSING = f"The source language cannot be detected: the server needs pip install 'kdmt[{EXTRA}]'"
_opening = threading.Lock()  # requests at the same time open the identifier once


@dataclass(frozen=True)
class DetectedLanguage:
    """A language, and its probability in percent."""

    language: str
    confidence: float

    def as_json(self) -> dict[str, object]:
        """Return the form in LibreTranslate's answers."""
        return {"confidence": round(self.confidence, 1), "language": self.language}


def can_detect() -> bool:
    """Return whether the package that identifies languages is installed."""
    return is_installed("py3langid")


def detect_language(text: str, languages: Sequence[str]) -> list[DetectedLanguage]:
    """Return the probability of each of these languages for a text, most probable first.

    The probability is that among all languages that the identifier knows. A language that it does not know has that of
    related ones, for example Bosnian that of Croatian, and 0 without them.

    Raises:
        UserError: if the package is not installed.
    """
    with _opening:
        identifier = open_built_in()
    (probabilities_L,) = identifier.probabilities([text]).tolist()
    by_code = dict(zip(identifier.languages, probabilities_L, strict=True))
    found = [DetectedLanguage(code, 100 * _probability(code, by_code)) for code in languages]
    return sorted(found, key=lambda each: -each.confidence)


def _probability(code: str, by_code: dict[str, float]) -> float:
    try:
        language = parse_language(code).language
    except ValueError:
        return 0.0
    if language in by_code:
        return by_code[language]
    return sum(by_code.get(each, 0.0) for each in group_of(language))
