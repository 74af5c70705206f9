"""Sentence boundaries, by sentencex (https://github.com/wikimedia/sentencex), and parts of long sentences."""

from __future__ import annotations

import re
from collections.abc import Callable

from kdmt.errors import UserError
from kdmt.languages import parse_language

# the characters at which `str.splitlines` breaks lines
LINE_BREAK = re.compile(r"(\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])")
_CLAUSE_END = re.compile(r"[,;:.!?،؛。，、；：！？…]\s*|\s[-–—]\s")
_SPACE = re.compile(r"\s+")
_WHITESPACE = re.compile(r"\s")
_LONGEST_PART = 1000  # characters


def check_splitter() -> None:
    """Check that sentences can be split.

    Raises:
        UserError: if sentencex is not installed.
    """
    try:
        import sentencex  # noqa: F401
    except ImportError:
        raise UserError("documents need sentencex: pip install 'kdmt[documents]'") from None


def sentence_spans(text: str, language: str) -> list[tuple[int, int]]:
    """Return the start and end of each sentence of a text without line breaks.

    Whitespace between sentences belongs to none of them, and every other character belongs to one.

    Args:
        language: code of the text's language; for an unknown language the rules are those of English.
    """
    spans, start = [], 0
    for sentence in _segment(text, language):
        end = start + len(sentence)
        first, last = start + len(sentence) - len(sentence.lstrip()), start + len(sentence.rstrip())
        if first < last:
            spans.append((first, last))
        start = end
    return spans


def _segment(text: str, language: str) -> list[str]:
    """Return the sentences of a text, with ordinary spaces as their whitespace.

    sentencex panics where whitespace of several bytes is between a capital letter and a full stop. A text on which it
    panics for another reason is one sentence.
    """
    from sentencex import segment

    spaced = _WHITESPACE.sub(" ", text)
    try:
        sentences: list[str] = segment(_primary(language), spaced)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException:  # a panic of Rust is not an Exception
        return [spaced]
    return sentences if "".join(sentences) == spaced else [spaced]


def _primary(code: str) -> str:
    """Return the language of a tag such as `zh-Hans`, or the code itself if it is not valid."""
    try:
        return parse_language(code).language
    except ValueError:
        return code


def split_long(sentence: str, fits: Callable[[str], bool]) -> list[str]:
    """Split a sentence if it is too long for the model, if possible between clauses, otherwise between words.

    Args:
        sentence: the sentence, without whitespace at its ends.
        fits: function that returns whether the model accepts a text without truncating it.

    Returns:
        Parts of at most 1,000 characters that fit, without the whitespace between them. A single character is kept even
        if it does not fit.
    """
    parts: list[str] = []
    waiting = [sentence]
    while waiting:
        part = waiting.pop()
        if len(part) < 2 or (len(part) <= _LONGEST_PART and fits(part)):
            parts.append(part)
            continue
        middle = _middle_boundary(part)
        waiting += [part[middle:].lstrip(), part[:middle].rstrip()]
    return [part for part in parts if part]


def _middle_boundary(text: str) -> int:
    """Return the boundary that is closest to the middle: of clauses, else of words, else of characters."""
    middle = len(text) // 2
    for pattern in (_CLAUSE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(text, 1) if match.end() < len(text)]
        best = min(ends, key=lambda end: abs(end - middle), default=None)
        if best is not None and len(text) // 8 <= best <= len(text) - len(text) // 8:
            return best
    return middle
