"""Tests of joining subwords, compared with fairseq 0.12.2 (post_process in fairseq/data/data_utils.py)."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from kdmt.choices import SubwordJoiner
from kdmt.corpus.subwords import JOINERS, join_subwords
from kdmt.errors import UserError


def post_process(sentence: str, symbol: str) -> str:
    """Return the joined sentence: a copy of the function of fairseq."""
    if symbol == "sentencepiece":
        return sentence.replace(" ", "").replace("\u2581", " ").strip()
    if symbol == "wordpiece":
        return sentence.replace(" ", "").replace("_", " ").strip()
    if symbol == "letter":
        return sentence.replace(" ", "").replace("|", " ").strip()
    if symbol == "silence":
        return re.sub(" +", " ", sentence.replace("<SIL>", "")).strip()
    if symbol == "_EOW":
        return sentence.replace(" ", "").replace("_EOW", " ").strip()
    if symbol in {"subword_nmt", "@@ ", "@@"}:
        return (sentence + " ").replace("@@ " if symbol == "subword_nmt" else symbol, "").rstrip()
    if symbol == "none":
        return sentence
    raise NotImplementedError(symbol)


LINES = [
    *("", "a house", "a ho@@ use", "ho@@", "ho@@ @@ use@@", "▁a ▁hou se", "h o u s e | x |", "_a _b c"),
    *("a_EOW ho use_EOW", "<SIL> a <SIL> b", "a  b", "x@@y z"),
]


@pytest.mark.parametrize("joiner", JOINERS)
@pytest.mark.parametrize("line", LINES)
def test_lines_are_joined_as_in_fairseq(line: str, joiner: str) -> None:
    assert join_subwords(line, joiner) == post_process(line, joiner)


@pytest.mark.parametrize(
    ("line", "joiner", "text"),
    [
        ("a ho@@ use .", "subword_nmt", "a house ."),
        ("▁a ▁hou se ▁.", "sentencepiece", "a house ."),
        ("a ho@@ use .", None, "a ho@@ use ."),
    ],
)
def test_examples_of_joined_words(line: str, joiner: str | None, text: str) -> None:
    assert join_subwords(line, joiner) == text


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="--remove-bpe 'spm': none of subword_nmt, "):
        join_subwords("a", "spm")


def test_kinds_of_the_settings_are_known() -> None:
    assert set(get_args(SubwordJoiner)) < set(JOINERS)
