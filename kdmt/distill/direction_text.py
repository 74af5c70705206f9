"""The text of several directions, each of which has a teacher with its own vocabulary.

The source ids of a line are the number of its direction, followed by the ids of the teacher of this direction. A
hypothesis is a mark, followed by the target ids of the teacher. Marks are numbered from the size of the largest target
vocabulary on: 2 * direction, and 1 more if the hypothesis reached the maximum length.

A line whose direction has no teacher has the number of its direction alone, and is not translated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Failures
from kdmt.corpus.direction_codecs import read_directions
from kdmt.corpus.lines import Piece, cut_lines
from kdmt.distill.candidates import CountTokens, FindFailures, ToWords
from kdmt.distill.failures import Codes, Flags
from kdmt.distill.inputs import Inputs
from kdmt.distill.sources import Text
from kdmt.errors import UserError

_PIECE_LINES = 1000  # lines whose content is read together


@dataclass(frozen=True)
class OpenDirections:
    """Function that opens the text of several directions; it can be sent to another process.

    Attributes:
        inputs: text of all directions.
        names: names of the directions, in the order of their numbers.
        opens: number of a direction -> function that opens all lines in the vocabulary of its teacher.
    """

    inputs: Inputs
    names: tuple[str, ...]
    opens: Mapping[int, Callable[[], Text]]

    def __call__(self) -> DirectionsText:
        opened = {id(opens): opens() for opens in self.opens.values()}  # once for directions with one teacher
        texts = {number: opened[id(opens)] for number, opens in self.opens.items()}
        return DirectionsText(self.inputs, self.names, texts)


class DirectionsText:
    """Text of several directions. See `Text`.

    Args:
        inputs: text of all directions, whose lines have the names of their directions as tags.
        names: names of the directions, in the order of their numbers.
        texts: number of a direction -> all lines in the vocabulary of its teacher; none for original targets.

    Raises:
        UserError: if a line has no tag, or that of another direction.
    """

    def __init__(self, inputs: Inputs, names: Sequence[str], texts: Mapping[int, Text]) -> None:
        self._texts = texts
        self._pieces: list[Piece] = []
        for text in inputs.texts():
            if text.tags is None:
                raise UserError(f"{text.source}: there is no file with the direction of each line")
            self._pieces += (source for source, _ in cut_lines([text.source, text.tags], _PIECE_LINES))
        self.owners_L = read_directions(inputs.tags(), names)

    def __len__(self) -> int:
        return len(self.owners_L)

    def sentences(self, lines_N: NDArray[np.int64]) -> list[NDArray[np.integer]]:
        """See `Text.sentences`; a line whose direction has no teacher has the number of its direction alone."""
        owners_N = self.owners_L[lines_N]
        found: list[NDArray[np.integer]] = [np.array([owner], dtype=np.int64) for owner in owners_N]
        for number, text in self._texts.items():
            places = np.flatnonzero(owners_N == number)
            for place, ids in zip(places.tolist(), text.sentences(lines_N[places]), strict=True):
                found[place] = np.insert(ids.astype(np.int64), 0, number)
        return found

    def chunks(self) -> Iterator[tuple[NDArray[np.integer], NDArray[np.int32]]]:
        """See `Text.chunks`; lines of different directions are distinct."""
        start = 0
        for source in self._pieces:
            owners = self.owners_L[start : start + source.count].tolist()
            lines = [
                bytes([owner >> 8, owner & 255]) + (line.encode() if owner in self._texts else b"")
                for owner, line in zip(owners, source.read(), strict=True)
            ]
            start += source.count
            yield np.frombuffer(b"".join(lines), dtype=np.uint8), np.fromiter(map(len, lines), np.int32, len(lines))


# --------------------------------------------------------------------------------------------------------- hypotheses


@dataclass(frozen=True)
class Marks:
    """The marks before hypotheses.

    Attributes:
        first: first mark: the size of the largest target vocabulary.
        num_directions: number of directions.
    """

    first: int
    num_directions: int

    @property
    def vocab_size(self) -> int:
        """Number of ids, those of the largest vocabulary and the marks."""
        return self.first + 2 * self.num_directions

    def mark(self, number: int, *, at_limit: bool) -> int:
        """Return the mark of a hypothesis of a direction."""
        return self.first + 2 * number + int(at_limit)

    def split(self, tokens: NDArray[np.integer[Any]], sizes: NDArray[np.integer[Any]]) -> Iterator[MarkedHypotheses]:
        """Yield the hypotheses of each direction among concatenated ones."""
        starts_N = np.cumsum(sizes, dtype=np.int64) - sizes
        marks_N = tokens[starts_N].astype(np.int64) - self.first
        lengths_N = np.asarray(sizes, dtype=np.int32)
        for number in np.unique(marks_N // 2).tolist():
            is_own_N = marks_N // 2 == number
            is_own_T = np.repeat(is_own_N, lengths_N)
            is_own_T[starts_N] = False  # the marks
            yield MarkedHypotheses(
                number=number,
                places=np.flatnonzero(is_own_N),
                tokens=tokens[is_own_T],
                sizes=lengths_N[is_own_N] - 1,
                at_limit=marks_N[is_own_N] % 2 > 0,
            )


@dataclass(frozen=True)
class MarkedHypotheses:
    """The hypotheses of one direction among N concatenated ones."""

    number: int  # of the direction
    places: NDArray[np.intp]  # indices among all N hypotheses
    tokens: NDArray[np.integer[Any]]  # ids of the teacher of the direction, concatenated
    sizes: NDArray[np.int32]  # number of ids of each hypothesis
    at_limit: NDArray[np.bool_]  # whether each reached the maximum length


@dataclass(frozen=True)
class DirectionsToWords:
    """Function that converts hypotheses to words, each by the teacher of its direction. See `ToWords`."""

    marks: Marks
    of_direction: Mapping[int, ToWords]

    def __call__(self, tokens: NDArray[np.integer], sizes: NDArray[np.int32]) -> list[str]:
        words = [""] * len(sizes)
        for own in self.marks.split(tokens, sizes):
            converted = self.of_direction[own.number](own.tokens, own.sizes)
            for place, line in zip(own.places.tolist(), converted, strict=True):
                words[place] = line
        return words


@dataclass(frozen=True)
class FindFailuresOfDirections:
    """Function that finds the failures that ids show. See `FindFailures`."""

    marks: Marks
    of_direction: Mapping[int, FindFailures]

    def __call__(
        self, tokens: NDArray[np.integer], sizes: NDArray[np.integer], at_limit: Flags, settings: Failures
    ) -> Codes:
        del at_limit  # the marks have it
        codes_N = np.zeros(len(sizes), dtype=np.uint8)
        for own in self.marks.split(tokens, sizes):
            codes_N[own.places] = self.of_direction[own.number](own.tokens, own.sizes, own.at_limit, settings)
        return codes_N


@dataclass(frozen=True)
class CountTokensOfDirections:
    """Function that counts the tokens of hypotheses. See `CountTokens`."""

    marks: Marks
    of_direction: Mapping[int, CountTokens]

    def __call__(self, tokens: NDArray[np.integer], sizes: NDArray[np.integer]) -> NDArray[np.int32]:
        counts_N = np.zeros(len(sizes), dtype=np.int32)
        for own in self.marks.split(tokens, sizes):
            counts_N[own.places] = self.of_direction[own.number](own.tokens, own.sizes)
        return counts_N
