"""Packed rows: every token is there once, at its own position, and all rows of a data set have the same shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.packing import PackingShape, pack, packed_ends, shift_right
from kdmt.types import EOS, PAD

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def sentences_of(lengths: list[int]) -> list[np.ndarray]:
    return [np.array([*range(10, 9 + length), EOS], dtype=np.int32) for length in lengths]


def joined(sentences: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(sentences).astype(np.int64), np.array(list(map(len, sentences)), dtype=np.int64)


@given(LENGTHS)
def test_a_row_contains_the_sentences_and_padding(lengths: list[int]) -> None:
    shape = PackingShape(max_tokens=72, max_length=9, max_sentences=9)
    sentences = sentences_of(lengths)
    tokens_1N, packing = pack(*joined(sentences), shape)
    assert tokens_1N.shape == (1, shape.num_positions)
    assert packing.starts.shape == (shape.num_sequences + 1,)
    starts = packing.starts.tolist()
    for number, sentence in enumerate(sentences):
        assert tokens_1N[0, starts[number] : starts[number + 1]].tolist() == sentence.tolist()
    assert tokens_1N[0, sum(lengths) :].eq(PAD).all()
    assert (packing.num_sentences, packing.num_tokens, packing.longest) == (len(lengths), sum(lengths), max(lengths))


@given(LENGTHS)
def test_sequences_cover_the_row_and_no_padding_is_longer_than_a_sentence(lengths: list[int]) -> None:
    shape = PackingShape(max_tokens=72, max_length=9, max_sentences=9)
    _, packing = pack(*joined(sentences_of(lengths)), shape)
    sizes = packing.starts.diff().tolist()
    assert sum(sizes) == shape.num_positions
    padding = sizes[len(lengths) : len(lengths) + shape.num_paddings]
    assert all(1 <= size <= shape.max_length for size in padding)
    assert not any(sizes[len(lengths) + shape.num_paddings :])
    wanted = [position for size in lengths for position in range(size)] + [0] * (shape.num_positions - sum(lengths))
    assert packing.position_N.tolist() == wanted


@given(LENGTHS)
def test_the_decoder_input_is_each_target_shifted_right(lengths: list[int]) -> None:
    sentences = sentences_of(lengths)
    tokens_1N, packing = pack(*joined(sentences), PackingShape(max_tokens=72, max_length=9, max_sentences=9))
    prev_1N = shift_right(tokens_1N, packing)
    wanted = [token for sentence in sentences for token in (EOS, *sentence[:-1].tolist())]
    assert prev_1N[0].tolist() == wanted + [PAD] * (prev_1N.size(1) - len(wanted))


@pytest.mark.parametrize("lengths", [[9] * 9, [1] * 10, [10]])
def test_sentences_that_do_not_fit_are_an_error(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        pack(*joined(sentences_of(lengths)), PackingShape(max_tokens=72, max_length=9, max_sentences=9))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=60))
def test_batches_are_as_large_as_the_shape_allows(sizes: list[tuple[int, int]]) -> None:
    shape = PackingShape(max_tokens=32, max_length=9, max_sentences=4)
    pairs = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    ends = packed_ends(pairs[:, 0], pairs[:, 1], shape)
    assert sorted(ends) == ends
    assert (ends[-1] if ends else 0) == len(pairs)
    for start, end in zip([0, *ends], ends, strict=False):
        fits = [len(part) <= shape.max_sentences and part.sum(0).max() <= shape.max_tokens for part in
                (pairs[start:end], pairs[start : end + 1])]  # fmt: skip
        assert fits[0]
        assert end == len(pairs) or not fits[1]


def test_the_row_is_hardly_longer_than_its_tokens() -> None:
    shape = PackingShape.of(np.array([256, 24]), max_tokens=16_384)
    assert shape.num_positions - shape.max_tokens == 65
    assert shape.max_sentences == 175  # one and a half times 16,384 / 140
    assert isinstance(pack(*joined(sentences_of([5])), shape)[0], torch.Tensor)
