"""Parts of a SentencePiece model file that its library has no function for: the algorithm and the types of pieces.

The file is a message of protocol buffers (`sentencepiece_model.proto`), which is read here without their package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_ALGORITHMS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}  # TrainerSpec.ModelType
NORMAL, USER_DEFINED, BYTE = 1, 4, 6  # SentencePiece.Type
_PIECE, _TRAINER_SPEC, _NORMALIZER_SPEC = 1, 2, 3  # fields of ModelProto
_TYPE = 3  # field of SentencePiece
_MODEL_TYPE = 3  # field of TrainerSpec
_CHARSMAP, _SPACING = 2, (3, 4, 5)  # fields of NormalizerSpec: a table, and handling of spaces, true by default
_FIXED_SIZES = {1: 8, 5: 4}  # number of bytes of a value by its wire type


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a model file.

    Attributes:
        algorithm: `unigram`, `bpe`, `word` or `char`.
        piece_types: type of each piece; `NORMAL` is one that text is cut into.
        is_normalized: whether text is changed by a table, or spaces are handled in another way than by default.
    """

    algorithm: str
    piece_types: list[int]
    is_normalized: bool = False


def read_facts(model: bytes) -> ModelFacts:
    """Return the facts of a serialised model."""
    model_type, is_normalized, piece_types = 1, False, []
    for field, value in _fields(model):
        if field == _PIECE and isinstance(value, bytes):
            piece_types.append(_number(value, _TYPE, NORMAL))
        elif field == _TRAINER_SPEC and isinstance(value, bytes):
            model_type = _number(value, _MODEL_TYPE, model_type)
        elif field == _NORMALIZER_SPEC and isinstance(value, bytes):
            has_table = any(number == _CHARSMAP and part for number, part in _fields(value))
            is_normalized = has_table or not all(_number(value, flag, 1) for flag in _SPACING)
    return ModelFacts(_ALGORITHMS.get(model_type, "unknown"), piece_types, is_normalized)


def _number(message: bytes, field: int, default: int) -> int:
    """Return the last integer of a field of a message."""
    found = [value for number, value in _fields(message) if number == field and isinstance(value, int)]
    return found[-1] if found else default


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of each field: an integer, or bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        wire_type = key & 7
        if wire_type == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        size = _FIXED_SIZES.get(wire_type)
        if size is None:
            size, place = _varint(message, place)
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return the integer of variable length at a place, and the place after it."""
    value, shift = 0, 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
