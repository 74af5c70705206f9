"""Vocabularies of Marian: a SentencePiece model whose ids are the rows of the embeddings.

Marian needs `</s>` with id 0 and `<unk>` with id 1, and takes the ids of all other tokens from the SentencePiece model.
kdmt's ids come from a dictionary, so the model file is written again with its pieces in the order of the dictionary:

* `</s>` and `<unk>`, then the tokens of the dictionary, most frequent first as a lexical shortlist needs them, then
  `<s>`, `<pad>` and tokens of the dictionary that the SentencePiece model does not have, such as its padding;
* pieces that the dictionary does not have, which kdmt reads as `<unk>`;
* fillers up to a multiple of 8, which int8 products need.

Text is cut as before. Tokens that no text contains are control symbols, which have no text in a translation either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdmt.corpus.sentencepiece_file import CONTROL, UNKNOWN, Piece, read_pieces, with_pieces
from kdmt.corpus.tokenizer import SentencePieceModel
from kdmt.errors import UserError
from kdmt.interop.marian.rows import SideRows
from kdmt.types import BOS, EOS, PAD, SPECIALS, UNK

MARIAN_EOS, MARIAN_UNK = 0, 1
_MULTIPLE = 8


@dataclass(frozen=True)
class MarianVocabulary:
    """A SentencePiece model for Marian.

    Attributes:
        model: content of the model file.
        pieces: spelling of each id.
        rows: kdmt's id of each of Marian's ids.
    """

    model: bytes
    pieces: list[str]
    rows: SideRows

    def __len__(self) -> int:
        return len(self.pieces)


def marian_vocabulary(tokenizer: object, symbols: Sequence[str], size: int = 0) -> MarianVocabulary:
    """Return the vocabulary of one side of a model.

    Args:
        tokenizer: tokenizer of the side.
        symbols: token of each of kdmt's ids (`Dictionary.symbols`).
        size: smallest number of tokens.

    Raises:
        UserError: if the tokenizer is not a SentencePiece model, or has text pieces that are spelled like specials.
    """
    if not isinstance(tokenizer, SentencePieceModel):
        raise UserError("Marian has SentencePiece vocabularies: the tokenizer of this model is of another type")
    content = tokenizer.path.read_bytes()
    known = {piece.text: piece for piece in _spelled_as_ours(read_pieces(content))}
    text_ids = [number for number in range(UNK + 1, len(symbols)) if symbols[number] in known]
    other_ids = [number for number in range(UNK + 1, len(symbols)) if symbols[number] not in known]
    ids = [EOS, UNK, *text_ids, BOS, PAD, *other_ids]
    pieces = [known.get(symbols[number]) or Piece(symbols[number], 0.0, CONTROL) for number in ids]
    listed = set(symbols) | set(SPECIALS)
    pieces += [piece for piece in known.values() if piece.text not in listed]
    pieces += _fillers(max(size, len(pieces)) - len(pieces), set(known) | listed)
    pieces += _fillers(-len(pieces) % _MULTIPLE, {piece.text for piece in pieces} | set(known))
    index = np.full(len(pieces), -1, dtype=np.int64)
    index[: len(ids)] = ids
    return MarianVocabulary(with_pieces(content, pieces), [piece.text for piece in pieces], SideRows(index, UNK))


def _spelled_as_ours(pieces: Sequence[Piece]) -> list[Piece]:
    """Return pieces of which the unknown one is spelled `<unk>`.

    Raises:
        UserError: if text pieces are spelled like specials.
    """
    spelled = [replace(piece, text=SPECIALS[UNK]) if piece.kind == UNKNOWN else piece for piece in pieces]
    for piece in spelled:
        if piece.text in SPECIALS and piece.kind not in (CONTROL, UNKNOWN):
            raise UserError(f"the SentencePiece model has a text piece {piece.text!r}, which Marian reads as a special")
    return spelled


def _fillers(count: int, taken: set[str]) -> list[Piece]:
    """Return control symbols whose spellings are not taken yet."""
    found: list[Piece] = []
    number = 0
    while len(found) < count:
        text = f"<filler{number}>"
        if text not in taken:
            found.append(Piece(text, 0.0, CONTROL))
        number += 1
    return found
