"""Context of source sentences: the previous sentences of the document, before the sentence itself.

A line with context has the separator after each previous sentence: `It rained . <sep> We stayed in .` The first
sentence of a document has an empty context: `<sep> It rained .` A line without words has no context.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from kdmt.config import Context


def join_context(previous: Sequence[str], sentence: str, context: Context) -> str:
    """Return a line with the previous sentences of the document before the sentence.

    A separator within a sentence is replaced by a space, since it has a meaning of its own.

    Args:
        previous: previous sentences, in their order; the last `context.sentences` of them with words are used.
        sentence: the sentence itself; without words, it is returned as it is.
    """
    *previous, sentence = (line.replace(context.separator, " ") for line in (*previous, sentence))
    if not sentence.split():
        return sentence
    used = [line.strip() for line in previous if line.split()][-context.sentences :]
    return " ".join(f"{line} {context.separator}".strip() for line in used or [""]) + f" {sentence}"


def split_context(line: str, context: Context) -> tuple[list[str], str]:
    """Return the previous sentences of a line with context, and the sentence itself."""
    *previous, sentence = line.split(context.separator)
    return [each.strip() for each in previous if each.split()], sentence.strip() if previous else line


def without_context(line: str, context: Context | None) -> str:
    """Return the sentence of a line with context; the line itself if there is no context."""
    return line if context is None else split_context(line, context)[1]


def map_sentences(function: Callable[[str], str], line: str, context: Context) -> str:
    """Return a line with context after a function is applied to each of its sentences.

    A line without a separator gets an empty context.
    """
    previous, sentence = split_context(line, context)
    return join_context([function(each) for each in previous], function(sentence), context)


class Document:
    """The sentences of a document up to now, of which the last ones are the context of the next one.

    Args:
        context: how many sentences are context, and their separator.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._previous: deque[str] = deque(maxlen=context.sentences)

    def begin(self) -> None:
        """Begin a new document: the next sentence has an empty context."""
        self._previous.clear()

    def add(self, sentence: str) -> str:
        """Add the next sentence, and return it with its context; a line without words changes nothing."""
        line = join_context(self._previous, sentence, self._context)
        if sentence.split():
            self._previous.append(sentence)
        return line

    def add_lines(self, lines: Iterable[str]) -> list[str]:
        """Add lines of raw text, and return them with their contexts; a line without words begins a new document."""
        found = []
        for line in lines:
            if not line.split():
                self.begin()
            found.append(self.add(line))
        return found
