"""Text processing of lines of several directions, which files of tags name."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.codec import TextCodec
from kdmt.corpus.lines import iterate_lines
from kdmt.errors import UserError


def read_directions(files: Iterable[Path], names: Sequence[str]) -> NDArray[np.int16]:
    """Return the index in `names` of the direction of each line, int16 [lines].

    Args:
        files: files in which each line is the name of a direction.
        names: names of all directions.

    Raises:
        UserError: if a line is none of them; the message has the file and the line.
    """
    known = {name: number for number, name in enumerate(names)}
    numbers = array("h")
    for path in files:
        for line, name in enumerate(iterate_lines(path), start=1):
            if name not in known:
                raise UserError(f"{path}:{line}: {name[:80]!r} is none of the directions {', '.join(names)}")
            numbers.append(known[name])
    return np.array(numbers, dtype=np.int16)


class DirectionCodecs:
    """The codec of each direction of a model.

    Args:
        codec: codec of the model.
    """

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._by_name = {str(each): codec.for_direction(each) for each in codec.text.directions}

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of several directions; none if the model has one."""
        return tuple(self._by_name)

    @property
    def are_several(self) -> bool:
        """Return whether the model has several directions, which are the tags of the lines."""
        return bool(self._by_name)

    def of(self, tag: str) -> TextCodec:
        """Return the codec of a line.

        Args:
            tag: direction of the line, such as `en-de`; without effect if the model has one direction.
        """
        return self._by_name[tag] if self._by_name else self._codec


class LineCodecs:
    """The codec of each line of a text. It needs 2 bytes of memory per line if there are several directions.

    Args:
        codec: codec of the model.
        tags: files with the direction of each line, which are read only if the model has several directions.

    Raises:
        UserError: see `read_directions`.
    """

    def __init__(self, codec: TextCodec, tags: Iterable[Path]) -> None:
        codecs = DirectionCodecs(codec)
        self._codecs = [codecs.of(name) for name in codecs.names or ("",)]
        self._direction_L = read_directions(tags, codecs.names) if codecs.are_several else None

    def of(self, index: int) -> TextCodec:
        """Return the codec of a line."""
        return self._codecs[0 if self._direction_L is None else int(self._direction_L[index])]
