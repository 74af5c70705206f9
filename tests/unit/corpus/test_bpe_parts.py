"""Tests of the symbols that a BPE piece needs, against SentencePiece itself."""

from __future__ import annotations

import io
import itertools
import random
from functools import cache

import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.corpus.bpe_parts import Rank, bpe_parts
from kdmt.corpus.sentencepiece_file import NORMAL, read_pieces, with_pieces


def ranks(merges: list[str]) -> Rank:
    """Return ranks of merges that are written as "left right", the first one first."""
    numbers = {tuple(merge.split()): float(number) for number, merge in enumerate(merges)}
    return lambda left, right: numbers.get((left, right))


def test_results_of_all_merges_are_parts() -> None:
    assert bpe_parts("abcd", ranks(["b c", "a bc", "abc d", "a b"])) == {*"abcd", "bc", "abc", "abcd"}


def test_merges_that_do_not_happen_are_no_parts() -> None:
    assert bpe_parts("abc", ranks(["a b", "b c", "ab c", "a bc"])) == {*"abc", "ab", "abc"}


def test_first_place_is_merged_first() -> None:
    assert bpe_parts("aaa", ranks(["a a", "aa a", "a aa"])) == {"a", "aa", "aaa"}


def test_piece_of_one_character_and_piece_that_is_never_built() -> None:
    assert bpe_parts("a", ranks(["a b"])) == {"a"}
    assert bpe_parts("ab", ranks([])) == {"a", "b", "ab"}


@cache
def trained() -> bytes:
    rng, out = random.Random(4), io.BytesIO()
    words = ["".join(rng.choices("abc", k=rng.randint(1, 6))) for _ in range(60)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(rng.choices(words, k=5)) for _ in range(300)),
        model_writer=out,
        vocab_size=90,
        model_type="bpe",
        minloglevel=2,
    )
    return out.getvalue()


@given(seed=st.integers(0, 1000), share=st.floats(0.1, 0.9), text=st.text("abc ", max_size=30))
@settings(max_examples=150, deadline=None)
def test_text_of_kept_pieces_is_cut_as_before_if_their_parts_are_kept(seed: int, share: float, text: str) -> None:
    pieces = read_pieces(trained())
    scores = {piece.text: -piece.score for piece in pieces if piece.kind == NORMAL}
    rng = random.Random(seed)
    chosen = [name for name in scores if rng.random() < share]
    kept = set(itertools.chain.from_iterable(bpe_parts(name, lambda a, b: scores.get(a + b)) for name in chosen))
    whole = sentencepiece.SentencePieceProcessor(model_proto=trained())
    cut = sentencepiece.SentencePieceProcessor(
        model_proto=with_pieces(trained(), [piece for piece in pieces if piece.kind != NORMAL or piece.text in kept])
    )
    before, after = whole.encode(text, out_type=str), cut.encode(text, out_type=str)
    if kept.issuperset(before):
        assert after == before
    else:
        assert after != before
