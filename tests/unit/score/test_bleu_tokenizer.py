"""The tokenizer that sacreBLEU uses, for detokenised text and for words."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from kdmt.config import Score, Text
from kdmt.errors import UserError
from kdmt.score.bleu_tokenizer import (
    bleu_tokenizer,
    legacy_words_tokenizer,
    require_packages,
    tokenizer_note,
    words_tokenizer,
)

AUTO, MOSES = Score(), Text(moses=True)


@pytest.mark.parametrize(("lang", "expected"), [("de", "13a"), ("zh", "zh"), ("th", "char")])
def test_auto_is_resolved_for_the_language_and_other_values_are_kept(lang: str, expected: str) -> None:
    assert bleu_tokenizer(AUTO, lang) == expected
    assert bleu_tokenizer(Score(tokenize="intl"), lang) == "intl"


def test_text_tokenised_by_moses_is_not_tokenised_again() -> None:
    assert words_tokenizer(AUTO, MOSES, "de") == legacy_words_tokenizer(MOSES) == "none"
    assert words_tokenizer(AUTO, MOSES, "zh") == "zh"  # without spaces between words
    assert words_tokenizer(AUTO, Text(), "de") == legacy_words_tokenizer(Text()) == "13a"


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if "MeCab" in name else find(name, *rest))
    require_packages("13a", Path("run"))
    with pytest.raises(UserError, match=r"^run: begun with .* ja-mecab, whose packages are missing: pip install 'kdmt"):
        require_packages("ja-mecab", Path("run"))
    note = tokenizer_note(AUTO, "ja")
    assert note is not None
    assert note.startswith("BLEU of ja is tokenised by char: sacreBLEU's ja-mecab needs pip install 'kdmt[")
    assert tokenizer_note(AUTO, "de") is None
    assert tokenizer_note(Score(tokenize="char"), "ja") is None
