"""Tests of text as ids of bytes and marks."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from kdmt.choices import AnswerFailure, Cleaning
from kdmt.config import Failures
from kdmt.distill.failures import FAILURES
from kdmt.distill.text_ids import (
    VOCAB_SIZE,
    count_answer_tokens,
    count_marks,
    decode_text,
    encode_answer,
    encode_source,
    find_answer_failures,
    have_counts,
    split_hypotheses,
)

TEXTS = ["a dog", "", "\0\t\x7f", "Größe", "犬が走る", "🐕‍🦺"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives(text: str) -> None:
    assert decode_text(encode_source(text)) == text
    assert encode_source(text)[-1] == 2
    assert encode_source(text)[:-1].tolist() == [byte + 4 for byte in text.encode()]
    ids = np.array(encode_answer(text, ("removed_quotes", "refusal")))
    assert decode_text(ids) == text
    assert ids.max(initial=0) < VOCAB_SIZE
    assert ids.dtype.kind == "i"


def test_marks_come_first_and_failures_before_cleanings() -> None:
    marks = [*get_args(AnswerFailure), *get_args(Cleaning)]
    assert list(encode_answer("", tuple(reversed(marks)))) == list(range(260, 260 + len(marks)))
    ids = np.array([*encode_answer("abc", ("refusal",)), *encode_answer("\xff", ("refusal", "removed_prefix"))])
    assert count_marks(ids) == {"refusal": 2, "removed_prefix": 1}
    assert count_marks(np.array([], dtype=np.uint16)) == {}


def test_number_of_tokens_of_the_model_comes_before_the_text() -> None:
    hypotheses = [
        encode_answer("a dog", ("truncated",), num_tokens=3),
        encode_answer("", ()),
        encode_answer("犬", (), num_tokens=0),
        encode_answer("犬", (), num_tokens=256 * 3 + 7),
        encode_answer("ja", ("removed_quotes",)),
    ]
    tokens, sizes = np.concatenate([*map(np.array, hypotheses)]).astype(np.uint16), np.array([*map(len, hypotheses)])
    assert tokens.max() < VOCAB_SIZE
    assert count_answer_tokens(tokens, sizes).tolist() == [3, 1, 0, 775, 4]
    assert [decode_text(each) for each in split_hypotheses(tokens, sizes)] == ["a dog", "", "犬", "犬", "ja"]
    assert count_marks(tokens) == {"truncated": 1, "removed_quotes": 1}
    assert failures(*hypotheses) == ["truncated", "empty", None, None, None]
    assert [have_counts(np.array(each), np.array([len(each)])) for each in hypotheses] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert not have_counts(tokens, sizes)
    assert have_counts(tokens[:0], sizes[:0])


def failures(*answers: tuple[int, ...], times: int = 4) -> list[str | None]:
    tokens, sizes = np.array([token for each in answers for token in each]), np.array([*map(len, answers)])
    assert [each.tolist() for each in split_hypotheses(tokens, sizes)] == [list(each) for each in answers]
    settings = Failures(repetition_times=times)
    codes = find_answer_failures(tokens.astype(np.uint16), sizes, np.zeros(len(sizes), dtype=bool), settings)
    return [None if code == 0 else FAILURES[code - 1] for code in codes.tolist()]


def test_failures_of_answers() -> None:
    assert failures(
        encode_answer("a dog", ()),
        encode_answer("", ()),
        encode_answer("", ("no_answer",)),
        encode_answer("ja ja ja ja", ("refusal",)),
        encode_answer("a dog", ("removed_quotes",)),
        encode_answer("so ja ja ja ja", ("removed_quotes",)),
    ) == [None, "empty", "no_answer", "refusal", None, "repetition"]


def test_loops_are_found_among_words_and_characters_of_scripts_without_spaces() -> None:
    looping = ["ein Hund und ein Hund und ein Hund und ein Hund und", "犬が犬が犬が犬が", "ไปไปไปไป"]
    fine = ["1000000 Hunde", "Ahhhhh ...... ------ hahahaha", "ein Hund und ein Hund und ein Hund", "犬が犬が犬が"]
    assert failures(*(encode_answer(text, ()) for text in looping)) == ["repetition"] * 3
    assert failures(*(encode_answer(text, ()) for text in fine)) == [None] * 4
    assert failures(*(encode_answer(text, ()) for text in looping), times=0) == [None] * 3
