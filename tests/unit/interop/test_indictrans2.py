"""Tests of the text that IndicTrans2 models read and write, against the names of letters in Unicode."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import sentencepiece

from kdmt.errors import UserError
from kdmt.interop.indictrans2 import (
    IndicTrans2Tokenizer,
    from_devanagari,
    join_punctuation,
    separate_punctuation,
    to_devanagari,
)

SCRIPTS = {
    "Beng": "BENGALI",
    "Guru": "GURMUKHI",
    "Gujr": "GUJARATI",
    "Orya": "ORIYA",
    "Taml": "TAMIL",
    "Telu": "TELUGU",
    "Knda": "KANNADA",
    "Mlym": "MALAYALAM",
}
LETTERS = "KA KHA GA GHA NGA CA CHA JA JHA NYA TTA TTHA DDA DDHA NNA TA THA DA DHA NA PA PHA BA BHA MA YA RA LA SA HA"
SIGNS = ("SIGN VIRAMA", *(f"VOWEL SIGN {vowel}" for vowel in ("AA", "I", "II", "U", "UU", "AI")))
NAMES = (*(f"LETTER {name}" for name in LETTERS.split()), *SIGNS)


def letter(script: str, name: str) -> str | None:
    try:
        return unicodedata.lookup(f"{script} {name}")
    except KeyError:  # the script does not have it
        return None


@pytest.mark.parametrize("script", SCRIPTS)
def test_letters_become_those_with_the_same_name(script: str) -> None:
    checked = 0
    for name in NAMES:
        own, common = letter(SCRIPTS[script], name), letter("DEVANAGARI", name)
        assert common is not None
        if own is not None:
            assert to_devanagari(f"a{own} 1", script) == f"a{common} 1"
            assert from_devanagari(f"a{common} 1", script) == f"a{own} 1"
            checked += 1
    assert checked >= 23


def test_words_are_converted_and_back() -> None:
    assert to_devanagari("தமிழ் மொழி।", "Taml") == "तमिऴ् मॊऴि।"
    assert from_devanagari("तमिऴ् मॊऴि।", "Taml") == "தமிழ் மொழி।"  # all scripts use the danda of Devanagari
    assert from_devanagari("खग घर फब", "Taml") == "கக கர பப"  # Tamil has one plosive for each place of articulation
    for script in ("Deva", "Arab", "Latn", "Olck", "Mtei"):
        assert to_devanagari("नमस्ते বাং hi", script) == from_devanagari("नमस्ते বাং hi", script) == "नमस्ते বাং hi"


@pytest.mark.parametrize(
    ("text", "separated"),
    [
        ("नमस्ते, दुनिया।", "नमस्ते , दुनिया ।"),
        ("1,000.5 (१२:३०) है!", "1,000.5 ( १२:३० ) है !"),
        ('उसने कहा "हाँ"।', 'उसने कहा " हाँ " ।'),
        ("क\u200dष", "क\u200dष"),
    ],
)
def test_punctuation_is_separated_and_joined(text: str, separated: str) -> None:
    assert separate_punctuation(text) == separated
    assert join_punctuation(separated) == text


def train(path: Path, *lines: str) -> sentencepiece.SentencePieceProcessor:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines * 10),
            model_writer=file,
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def test_sources_have_tags_and_pieces_of_the_source_side(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vocab/model\.SRC: not a SentencePiece model"):
        IndicTrans2Tokenizer(tmp_path, "eng_Latn", "tam_Taml")
    source = train(tmp_path / "vocab/model.SRC", "a dog runs , it 's fast .", "तमिऴ् है ।")
    target = train(tmp_path / "vocab/model.TGT", "तमिऴ् मॊऴि ।", "it 's fast .")
    tokenizer = IndicTrans2Tokenizer(tmp_path, "eng_Latn", "tam_Taml")
    wanted = ["eng_Latn", "tam_Taml", *source.encode("a dog runs , it 's fast .", out_type=str)]
    assert tokenizer.encode("a dog runs, it's fast.") == [*wanted, "</s>"]
    (tmp_path / "config.json").write_text(json.dumps({"add_source_eos": True}), encoding="utf-8")
    assert IndicTrans2Tokenizer(tmp_path, "eng_Latn", "tam_Taml").encode("a dog runs, it's fast.") == wanted
    assert tokenizer.decode(target.encode("तमिऴ् मॊऴि ।", out_type=str)) == "தமிழ் மொழி।"
    back = IndicTrans2Tokenizer(tmp_path, "tam_Taml", "eng_Latn")
    assert back.encode("தமிழ்।") == ["tam_Taml", "eng_Latn", *source.encode("तमिऴ् ।", out_type=str)]
    assert back.decode(target.encode("it 's fast .", out_type=str)) == "it's fast."
