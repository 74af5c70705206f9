"""Text as ids, for teachers that answer with text: marks, and the bytes of UTF-8.

The blocks of other teachers hold ids of their vocabularies. Those of a teacher that answers with text use this one:

    0 to 3      <s>, <pad>, </s>, <unk>, as everywhere
    4 to 259    the bytes 0 to 255
    260 to 270  marks: failures of an answer and the ways in which it was cleaned (`kdmt.distill.llm_answers`)
    271 to 526  the digits 0 to 255 of the number of tokens that the model needed for the text, the highest one first

The marks of a hypothesis come first, then the number of tokens if the model gives it, then the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import regex
from numpy.typing import NDArray

from kdmt.choices import AnswerFailure, Cleaning
from kdmt.config import Failures
from kdmt.distill.failures import CODES, Codes, Flags, find_token_failures
from kdmt.types import EOS, UNK

_FIRST_BYTE = 4
_FIRST_MARK = _FIRST_BYTE + 256
ANSWER_FAILURES: tuple[AnswerFailure, ...] = get_args(AnswerFailure)
CLEANINGS: tuple[Cleaning, ...] = get_args(Cleaning)
_MARKS: tuple[str, ...] = (*ANSWER_FAILURES, *CLEANINGS)
_FIRST_DIGIT = _FIRST_MARK + len(_MARKS)
VOCAB_SIZE = _FIRST_DIGIT + 256
# what the search for loops compares: words, and single characters of the scripts that do not separate words
_UNITS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]|[^\s\p{Han}]+")


def encode_source(text: str) -> NDArray[np.int64]:
    """Return the ids of a source sentence, with </s>."""
    return np.append(_bytes_to_ids(text), EOS)


def encode_answer(
    text: str, marks: Sequence[AnswerFailure | Cleaning], *, num_tokens: int | None = None
) -> tuple[int, ...]:
    """Return the ids of a hypothesis without </s>: its marks in the order of the vocabulary, then its text.

    Args:
        num_tokens: number of tokens of the model, with the token for the end; None if it is not known.
    """
    ids = sorted(_FIRST_MARK + _MARKS.index(mark) for mark in marks)
    digits = b"" if num_tokens is None else num_tokens.to_bytes(max(1, -(-num_tokens.bit_length() // 8)), "big")
    return (*ids, *(_FIRST_DIGIT + digit for digit in digits), *_bytes_to_ids(text).tolist())


def decode_text(ids: NDArray[np.integer]) -> str:
    """Return the text of ids; </s>, marks and the number of tokens are left out."""
    is_byte = (ids >= _FIRST_BYTE) & (ids < _FIRST_MARK)
    return (ids[is_byte] - _FIRST_BYTE).astype(np.uint8).tobytes().decode("utf-8", errors="replace")


def split_hypotheses(tokens: NDArray[np.integer], sizes: NDArray[np.integer]) -> list[NDArray[np.integer]]:
    """Return the ids of each hypothesis."""
    return np.split(tokens, np.cumsum(sizes[:-1], dtype=np.int64)) if len(sizes) else []


def count_marks(tokens: NDArray[np.integer]) -> dict[str, int]:
    """Return how often each mark occurs, without those that do not."""
    marks = tokens[(tokens >= _FIRST_MARK) & (tokens < _FIRST_DIGIT)]
    counts = np.bincount(marks.astype(np.int64) - _FIRST_MARK, minlength=len(_MARKS))
    return {mark: count for mark, count in zip(_MARKS, counts.tolist(), strict=True) if count}


def count_answer_tokens(tokens: NDArray[np.integer], sizes: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return the number of tokens of each hypothesis: that of the model if it is known, else that of the ids and </s>.

    See `kdmt.distill.candidates.CountTokens`.
    """
    counts_N = sizes.astype(np.int32) + 1
    owners = np.repeat(np.arange(len(sizes)), sizes)
    is_digit = tokens >= _FIRST_DIGIT
    counts_N[owners[is_digit]] = 0
    for owner, digit in zip(owners[is_digit].tolist(), tokens[is_digit].tolist(), strict=True):
        counts_N[owner] = counts_N[owner] * 256 + digit - _FIRST_DIGIT
    return counts_N


def have_counts(tokens: NDArray[np.integer], sizes: NDArray[np.integer]) -> bool:
    """Return whether all hypotheses have the number of tokens of the model."""
    owners = np.repeat(np.arange(len(sizes)), sizes)
    return len(np.unique(owners[tokens >= _FIRST_DIGIT])) == len(sizes)


def find_answer_failures(
    tokens: NDArray[np.integer], sizes: NDArray[np.integer], at_limit: Flags, settings: Failures
) -> Codes:
    """Return the code of the first failure of each hypothesis; see `find_token_failures`.

    A failure that a hypothesis is marked with comes first. Loops are searched for among words instead of bytes, since
    four zeros in a number are no loop.
    """
    hypotheses = split_hypotheses(tokens, sizes)
    codes_N = _failures_of_words([decode_text(hypothesis) for hypothesis in hypotheses], at_limit, settings)
    for place, hypothesis in enumerate(hypotheses):
        mark = int(hypothesis[0]) - _FIRST_MARK if len(hypothesis) else -1
        if 0 <= mark < len(ANSWER_FAILURES):
            codes_N[place] = CODES[ANSWER_FAILURES[mark]]
    return codes_N


def find_system_failures(texts: Sequence[str], ids: Sequence[NDArray[np.integer]], settings: Failures) -> Codes:
    """Return the failures that the translations of another system show: codes, uint8 [N]; see `find_token_failures`.

    Loops are searched for among words, as in answers. The failure `unk` is a token that the vocabulary of the data does
    not have. No translation has reached a maximum length.

    Args:
        texts: translations in the form that the tokenizer reads [N].
        ids: their ids in the vocabulary of the data [N].
    """
    codes_N = _failures_of_words(texts, np.zeros(len(texts), dtype=bool), settings)
    has_unk_N = np.fromiter((UNK in own for own in ids), dtype=bool, count=len(texts))
    codes_N[has_unk_N & (codes_N == 0)] = CODES["unk"]
    return codes_N


def _failures_of_words(texts: Sequence[str], at_limit: Flags, settings: Failures) -> Codes:
    """Return the failures of texts whose tokens are words, and single characters of scripts without spaces."""
    units = [_UNITS.findall(text) for text in texts]
    numbers: dict[str, int] = {}
    ids = [numbers.setdefault(unit, _FIRST_BYTE + len(numbers)) for own in units for unit in own]
    return find_token_failures(
        np.array(ids, dtype=np.int64),
        np.array([len(own) for own in units], dtype=np.int32),
        at_limit,
        repetition_times=settings.repetition_times,
    )


def _bytes_to_ids(text: str) -> NDArray[np.int64]:
    return np.frombuffer(text.encode("utf-8", errors="replace"), dtype=np.uint8).astype(np.int64) + _FIRST_BYTE
