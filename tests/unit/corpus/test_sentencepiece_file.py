"""Facts of SentencePiece model files, against models that the library trains with known settings."""

from __future__ import annotations

import io
import random

import pytest
import sentencepiece

from kdmt.corpus.sentencepiece_file import NORMAL, read_facts

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
