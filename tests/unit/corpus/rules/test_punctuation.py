"""Tests of Moses punctuation normalisation as a cleaning rule."""

from __future__ import annotations

import pytest
from sacremoses import MosesPunctNormalizer

from kdmt.corpus.rules.punctuation import Punctuation


@pytest.mark.parametrize("language", ["en", "de", "fr", "cs"])
@pytest.mark.parametrize("line", ["„Hallo“ – sagte er… 1 000 %", "« Oui » , l’été", "plain text"])
def test_lines_are_normalized_as_by_moses(language: str, line: str) -> None:
    assert Punctuation(language).edit(line) == MosesPunctNormalizer(language).normalize(line)
