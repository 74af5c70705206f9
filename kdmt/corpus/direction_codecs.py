"""Text processing of lines of several directions, which files of tags name."""

from __future__ import annotations

from kdmt.corpus.codec import TextCodec


class DirectionCodecs:
    """The codec of each direction of a model.

    Args:
        codec: codec of the model.
    """

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._by_name = {str(each): codec.for_direction(each) for each in codec.text.directions}

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
