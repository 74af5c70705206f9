"""A document as sentences to translate and text to copy, and the translation put together from those sentences."""

from __future__ import annotations

import html
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kdmt.documents.sentences import LINE_BREAK, sentence_spans
from kdmt.languages import Direction, writes_spaces

_WORD, _CHARACTER = re.compile(r"\w+"), re.compile(r"\w")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Mark:
    """An inline tag, or other markup, within a sentence.

    Attributes:
        markup: the markup as it is written in the document.
        kind: whether it opens an element, closes one, or is an element of its own.
        offset: index of the character of the sentence before which it is written.
        is_spaced: whether there is whitespace on both sides of it.
    """

    markup: str
    kind: Literal["open", "close", "single"]
    offset: int
    is_spaced: bool = False


@dataclass(frozen=True)
class Sentence:
    """A sentence to translate, on one line, with the markup in it."""

    text: str
    marks: tuple[Mark, ...] = ()

    @property
    def line(self) -> str:
        """The text with a single space for each run of whitespace, as input for the model."""
        return _SPACES.sub(" ", self.text)


@dataclass(frozen=True)
class Document:
    """A document in the order of its parts: a `Sentence` is translated, a string is copied.

    Attributes:
        parts: the parts.
        direction: the languages.
        is_html: whether `&`, `<` and `>` of a translation are written as entities.
    """

    parts: tuple[Sentence | str, ...]
    direction: Direction
    is_html: bool = False

    @property
    def sentences(self) -> list[str]:
        """The sentences to translate."""
        return [part.line for part in self.parts if isinstance(part, Sentence)]

    def join(self, translations: Sequence[str]) -> str:
        """Return the translated document.

        Args:
            translations: the translation of each of `sentences`.
        """
        following = iter(translations)
        finished = [
            part if isinstance(part, str) else self._with_marks(part, next(following).strip()) for part in self.parts
        ]
        return "".join(finished)

    def _with_marks(self, sentence: Sentence, translation: str) -> str:
        escape = escape_html if self.is_html else _unchanged
        if not sentence.marks:
            return escape(translation)
        written, done = [], 0
        for mark, offset in zip(sentence.marks, self._target_offsets(sentence, translation), strict=True):
            before, after = translation[max(offset - 1, 0) : offset], translation[offset : offset + 1]
            left = " " if mark.is_spaced and before.strip() else ""
            right = " " if mark.is_spaced and after.strip() else ""
            written += [escape(translation[done:offset]), left, mark.markup, right]
            done = offset
        return "".join([*written, escape(translation[done:])])

    def _target_offsets(self, sentence: Sentence, translation: str) -> list[int]:
        """Return where each mark is written in the translation.

        A mark after k of n words is written after round(k m / n) of the m words of the translation. Marks keep their
        order, so that elements stay nested, and an element with words in the source has at least one in the target.
        """
        source = _word_spans(sentence.text, self.direction.source)
        target = _word_spans(translation, self.direction.target)
        starts, ends = [start for start, _ in source], [end for _, end in source]
        n, m = len(source), len(target)
        offsets: list[int] = []
        opened: list[tuple[int, int]] = []  # words before each open tag, in the source and in the target
        last = 0
        for mark in sentence.marks:
            if mark.kind == "close":
                before = bisect_left(starts, mark.offset)
                placed = _scaled(before, n, m)
                before_open, placed_open = opened.pop() if opened else (before, 0)
                placed = min(m, max(placed, placed_open + (before > before_open)))
                offset = target[placed - 1][1] if placed else 0
            else:
                before = bisect_right(ends, mark.offset)
                placed = _scaled(before, n, m)
                if mark.kind == "open":
                    placed = min(placed, max(m - 1, 0)) if before < n else placed
                    opened.append((before, placed))
                offset = target[placed][0] if placed < m else len(translation)
            last = max(last, offset)
            offsets.append(last)
        return offsets


def text_document(text: str, direction: Direction) -> Document:
    """Return plain text as a document. A line break ends a sentence; line breaks and whitespace are copied."""
    parts: list[Sentence | str] = []
    for index, piece in enumerate(LINE_BREAK.split(text)):
        parts += [piece] if index % 2 else paragraph_parts(piece, direction)
    return Document(tuple(parts), direction)


def paragraph_parts(
    text: str,
    direction: Direction,
    *,
    marks: Sequence[Mark] = (),
    copied: str | None = None,
    escape: Callable[[str], str] | None = None,
) -> Iterator[Sentence | str]:
    """Yield the parts of a paragraph: its sentences, and the whitespace and marks between them.

    Between sentences, a language that is written without spaces gets none, and one that is written with them gets one
    where the source has none. Text without letters is copied.

    Args:
        text: text without line breaks.
        marks: inline markup in it, by offset.
        copied: text of the same length from which whitespace is copied (default: `text`).
        escape: function that is applied to copied text.
    """
    escape, copied = escape or _unchanged, text if copied is None else copied
    waiting = list(reversed(marks))
    position = 0
    for number, (start, end) in enumerate(sentence_spans(text, direction.source)):
        while waiting and waiting[-1].offset <= position:
            yield waiting.pop().markup
        gap = copied[position:start]
        yield escape(_gap_in_target(gap, direction) if number else gap)
        while waiting and waiting[-1].offset <= start:
            yield waiting.pop().markup
        inner = []
        while waiting and waiting[-1].offset < end:
            mark = waiting.pop()
            around = text[mark.offset - 1], text[mark.offset]
            is_spaced = mark.kind == "single" and all(character.isspace() for character in around)
            inner.append(replace(_moved(mark, -start), is_spaced=is_spaced))
        sentence = text[start:end]
        if any(character.isalpha() for character in sentence):
            yield Sentence(sentence, tuple(inner))
        else:
            yield from _copied(sentence, inner, escape)
        position = end
    yield from _copied(copied[position:], [_moved(mark, -position) for mark in reversed(waiting)], escape)


def _moved(mark: Mark, by: int) -> Mark:
    return replace(mark, offset=mark.offset + by)


def _copied(text: str, marks: Sequence[Mark], escape: Callable[[str], str]) -> Iterator[str]:
    """Yield a text and its marks where they are in the source."""
    done = 0
    for mark in marks:
        yield escape(text[done : mark.offset])
        yield mark.markup
        done = max(done, mark.offset)
    yield escape(text[done:])


def _gap_in_target(gap: str, direction: Direction) -> str:
    if not writes_spaces(direction.target):
        return "" if gap in (" ", "\n") else gap
    return gap or ("" if writes_spaces(direction.source) else " ")


def _scaled(count: int, of: int, to: int) -> int:
    """Return count / of * to, rounded half up."""
    return (2 * count * to + of) // (2 * of) if of else 0


def _word_spans(text: str, language: str) -> list[tuple[int, int]]:
    pattern = _WORD if writes_spaces(language) else _CHARACTER
    return [match.span() for match in pattern.finditer(text)]


def escape_html(text: str) -> str:
    """Return text for an HTML document; quotes stay as they are."""
    return html.escape(text, quote=False)


def _unchanged(text: str) -> str:
    return text
