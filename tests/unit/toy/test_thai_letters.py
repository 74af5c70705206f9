"""The toy language in Thai letters without spaces, and back."""

from __future__ import annotations

import re
import unicodedata

import pytest

from kdmt.toy import thai_letters

Corpus = dict[str, list[tuple[str, str]]]  # split -> pairs


def test_sentences_without_spaces_are_thai_and_are_converted_back(corpus: Corpus) -> None:
    targets = [target for _, target in corpus["train"]]
    written = [thai_letters.remove_spaces(target) for target in targets]
    assert [thai_letters.restore_spaces(line) for line in written] == targets
    assert len(set(written)) == len(set(targets))  # as many sentences as before: their distributions do not change
    thai = re.compile("[\u0e01-\u0e4e.,]+")  # letters and marks of Thai, and the punctuation
    assert all(thai.fullmatch(line) for line in written)
    assert all(line == unicodedata.normalize("NFC", line) for line in written)


def test_each_word_starts_with_a_mark() -> None:
    """Check the marks: a to z are the first Thai consonants; U+0E48 marks a capital, U+0E38 a small letter."""
    assert thai_letters.remove_spaces("Abc ab, cb.") == "ก\u0e48ขคก\u0e38ข,ค\u0e38ข."


@pytest.mark.parametrize("sentence", ["DER Hund.", "Der  Hund.", "Der Hund .", "Ğ", "ก", " Der"])
def test_other_sentences_are_refused(sentence: str) -> None:
    with pytest.raises(ValueError, match="not a sentence of the toy language"):
        thai_letters.remove_spaces(sentence)
