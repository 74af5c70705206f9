"""Facts of SentencePiece model files, against models that the library trains with known settings."""

from __future__ import annotations

import io
import random

import pytest
import sentencepiece

from kdmt.corpus.sentencepiece_file import NORMAL, Piece, read_facts, read_pieces, with_pieces

USER_DEFINED, CONTROL, UNKNOWN, BYTE = 4, 3, 2, 6  # sentencepiece_model.proto


def train(**options: object) -> bytes:
    generator = random.Random(1)
    lines = [" ".join("".join(generator.choices("abcde", k=4)) for _ in range(5)) for _ in range(200)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, minloglevel=2, hard_vocab_limit=False, **options
    )
    return model.getvalue()


@pytest.mark.parametrize("algorithm", ["unigram", "bpe", "word", "char"])
def test_algorithm_is_that_of_training(algorithm: str) -> None:
    assert read_facts(train(model_type=algorithm, vocab_size=40)).algorithm == algorithm


def test_types_of_pieces_are_those_of_the_library() -> None:
    model = train(vocab_size=300, user_defined_symbols=["<tag>"], byte_fallback=True)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    types = read_facts(model).piece_types
    assert len(types) == processor.get_piece_size()
    for number, kind in enumerate(types):
        assert processor.is_control(number) == (kind == CONTROL)
        assert processor.is_unknown(number) == (kind == UNKNOWN)
        assert processor.is_byte(number) == (kind == BYTE)
    assert [processor.id_to_piece(i) for i, kind in enumerate(types) if kind == USER_DEFINED] == ["<tag>"]
    assert types.count(NORMAL) > 20


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_pieces_in_another_order_cut_text_alike(algorithm: str) -> None:
    content = train(model_type=algorithm, vocab_size=40)
    pieces = read_pieces(content)
    before = sentencepiece.SentencePieceProcessor(model_proto=content)
    assert [piece.text for piece in pieces] == [before.id_to_piece(number) for number in range(len(pieces))]
    assert [piece.score for piece in pieces] == [before.get_score(number) for number in range(len(pieces))]
    others = [*reversed(pieces), Piece("<filler>", 0.0, CONTROL)]
    changed = with_pieces(content, others)
    after = sentencepiece.SentencePieceProcessor(model_proto=changed)
    assert after.get_piece_size() == len(others)
    assert (after.id_to_piece(after.eos_id()), after.id_to_piece(after.unk_id())) == ("</s>", "<unk>")
    assert read_pieces(changed) == others
    assert read_facts(changed).algorithm == algorithm
    for line in ("abcd eeee cab", "dcba", "xyz <filler> ab", "ü"):
        assert after.encode(line, out_type=str) == before.encode(line, out_type=str)
        assert after.decode(after.encode(line)) == before.decode(before.encode(line))
