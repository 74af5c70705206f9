"""Parts of a SentencePiece model file that its library has no function for: the algorithm, and the list of pieces.

The file is a message of protocol buffers (`sentencepiece_model.proto`), which is read and written here without their
package.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_ALGORITHMS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}  # TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # SentencePiece.Type
_PIECE, _TRAINER_SPEC, _NORMALIZER_SPEC = 1, 2, 3  # fields of ModelProto
_TEXT, _SCORE, _TYPE = 1, 2, 3  # fields of SentencePiece
_MODEL_TYPE, _VOCAB_SIZE = 3, 4  # fields of TrainerSpec, as the next two lines
_CHARSMAP, _SPACING = 2, (3, 4, 5)  # fields of NormalizerSpec: a table, and handling of spaces, true by default
_ID_FIELDS = {"<unk>": 40, "<s>": 41, "</s>": 42, "<pad>": 43}  # id of each special piece, -1 for none
_SPELLING_FIELDS = {"<unk>": 45, "<s>": 46, "</s>": 47, "<pad>": 48}
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


@dataclass(frozen=True)
class Piece:
    """A piece of a model: its spelling, its score, and its type, such as `NORMAL`."""

    text: str
    score: float
    kind: int


def read_pieces(model: bytes) -> list[Piece]:
    """Return the pieces of a serialised model in the order of their ids."""
    pieces = []
    for field, message in _fields(model):
        if field == _PIECE and isinstance(message, bytes):
            values = dict(_fields(message))
            text, score, kind = values[_TEXT], values.get(_SCORE, bytes(4)), values.get(_TYPE, NORMAL)
            assert isinstance(text, bytes)
            assert isinstance(score, bytes)
            assert isinstance(kind, int)
            pieces.append(Piece(text.decode(), struct.unpack("<f", score)[0], kind))
    return pieces


def with_pieces(model: bytes, pieces: Sequence[Piece]) -> bytes:
    """Return a model with other pieces and the same algorithm and normalisation.

    The ids of the special pieces, which have the spellings of `_ID_FIELDS`, are updated. The same pieces in another
    order, and further ones that are no text (`CONTROL`), do not change how text is cut, since the algorithms compare
    scores.
    """
    ids = {piece.text: number for number, piece in enumerate(pieces)}
    written = [_bytes_field(_PIECE, _piece_message(piece)) for piece in pieces]
    for field, value in _fields(model):
        if field == _TRAINER_SPEC and isinstance(value, bytes):
            written.append(_bytes_field(field, _trainer_spec(value, ids)))
        elif field != _PIECE and isinstance(value, bytes):
            written.append(_bytes_field(field, value))
    return b"".join(written)


def _piece_message(piece: Piece) -> bytes:
    score = bytes([_SCORE << 3 | 5]) + struct.pack("<f", piece.score)
    return _bytes_field(_TEXT, piece.text.encode()) + score + _integer_field(_TYPE, piece.kind)


def _trainer_spec(message: bytes, ids: dict[str, int]) -> bytes:
    """Return the training options with the ids of special pieces, and the number of pieces, of another list."""
    replaced = {_VOCAB_SIZE, *_ID_FIELDS.values(), *_SPELLING_FIELDS.values()}
    kept = b"".join(raw for field, raw in _raw_fields(message) if field not in replaced)
    numbers = [_integer_field(field, ids.get(text, -1)) for text, field in _ID_FIELDS.items()]
    spellings = [_bytes_field(field, text.encode()) for text, field in _SPELLING_FIELDS.items()]
    return b"".join([kept, _integer_field(_VOCAB_SIZE, len(ids)), *numbers, *spellings])


def _bytes_field(field: int, value: bytes) -> bytes:
    return _varint_bytes(field << 3 | 2) + _varint_bytes(len(value)) + value


def _integer_field(field: int, value: int) -> bytes:
    return _varint_bytes(field << 3) + _varint_bytes(value % (1 << 64))  # a negative number is stored in 64 bits


def _varint_bytes(value: int) -> bytes:
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


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
    for field, value, _ in _parsed(message):
        yield field, value


def _raw_fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number of each field, and all of its bytes."""
    for field, _, raw in _parsed(message):
        yield field, raw


def _parsed(message: bytes) -> Iterator[tuple[int, int | bytes, bytes]]:
    """Yield the number, the value and all bytes of each field."""
    place = 0
    while place < len(message):
        start = place
        key, place = _varint(message, place)
        wire_type = key & 7
        if wire_type == 0:
            value, place = _varint(message, place)
            yield key >> 3, value, message[start:place]
            continue
        size = _FIXED_SIZES.get(wire_type)
        if size is None:
            size, place = _varint(message, place)
        yield key >> 3, message[place : place + size], message[start : place + size]
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
