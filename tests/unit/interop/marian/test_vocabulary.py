"""Tests of vocabularies for Marian: SentencePiece models with kdmt's tokens in Marian's order."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from small_transformers import write_sentencepiece, write_text_processing

from kdmt.corpus.codec import TextCodec
from kdmt.corpus.sentencepiece_file import CONTROL, NORMAL, Piece, read_pieces, with_pieces
from kdmt.corpus.tokenizer import SentencePieceModel
from kdmt.errors import UserError
from kdmt.interop.marian.vocabulary import marian_vocabulary
from kdmt.types import UNK

LINES = ["abab cabc", "aaaa bbbb", "cab", "xyz abc", "</s> <unk>", "ü c"]


@pytest.fixture
def codec(tmp_path: Path) -> TextCodec:
    write_sentencepiece(tmp_path / "text", (16, 16))
    return TextCodec.load(tmp_path / "text")


def test_marian_reads_the_same_tokens(codec: TextCodec) -> None:
    made = marian_vocabulary(codec.tokenizers.source, codec.src_dictionary.symbols)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=made.model)
    assert (theirs.eos_id(), theirs.unk_id()) == (0, 1)
    assert theirs.get_piece_size() == len(made) == len(made.rows.index_V)
    assert len(made) % 8 == 0
    assert [theirs.id_to_piece(number) for number in range(len(made))] == made.pieces
    index = made.rows.index_V
    for line, ours in zip(LINES, codec.encode_source(LINES), strict=True):
        found = [UNK if index[number] < 0 else int(index[number]) for number in theirs.encode(line)]
        assert found == ours[:-1].tolist()


def test_every_token_of_the_dictionary_has_one_id(codec: TextCodec) -> None:
    made = marian_vocabulary(codec.tokenizers.source, codec.src_dictionary.symbols)
    known = made.rows.index_V[made.rows.index_V >= 0].tolist()
    assert sorted(known) == list(range(len(codec.src_dictionary)))
    assert made.rows.index_V[:4].tolist() == [2, 3, 4, 5]  # </s>, <unk>, then the most frequent tokens


def test_tokens_that_no_text_contains_have_no_text_in_translations(codec: TextCodec) -> None:
    made = marian_vocabulary(codec.tokenizers.source, [*codec.src_dictionary.symbols, "madeupword0000"], 40)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=made.model)
    assert len(made) == 40
    silent = [made.pieces.index(piece) for piece in ("<s>", "<pad>", "madeupword0000", "<filler0>")]
    (number,) = theirs.encode("ab") if len(theirs.encode("ab")) == 1 else theirs.encode("ab")[:1]
    assert theirs.decode([number, *silent]) == theirs.decode([number])


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    write_text_processing(tmp_path / "text")
    codec = TextCodec.load(tmp_path / "text")
    with pytest.raises(UserError, match="Marian has SentencePiece vocabularies"):
        marian_vocabulary(codec.tokenizers.source, codec.src_dictionary.symbols)


def test_a_text_piece_that_is_spelled_like_a_special_is_refused(tmp_path: Path, codec: TextCodec) -> None:
    model = codec.tokenizers.source
    assert isinstance(model, SentencePieceModel)
    content = model.path.read_bytes()
    pieces = [piece for piece in read_pieces(content) if not (piece.kind == CONTROL and piece.text == "<pad>")]
    path = tmp_path / "changed.model"
    path.write_bytes(with_pieces(content, [*pieces, Piece("<pad>", -1.0, NORMAL)]))
    with pytest.raises(UserError, match="text piece '<pad>'"):
        marian_vocabulary(SentencePieceModel(path), codec.src_dictionary.symbols)
