"""Tests of batching: limits, padding, reproducible epochs, and tensors equal to those of a naive loop."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.corpus.batching import (
    ParallelData,
    collate,
    epoch_order,
    filter_by_size,
    make_batches,
    open_parallel,
    pad_sentences,
)
from kdmt.corpus.indexed import IndexedWriter
from kdmt.errors import UserError


def random_sizes(num_pairs, seed=1):
    """Return lengths like those of a translated corpus: the target is about as long as the source."""
    rng = np.random.default_rng(seed)
    src = np.clip(rng.lognormal(3, 0.6, num_pairs), 1, 200)
    tgt = np.clip(src * rng.normal(1.05, 0.15, num_pairs), 1, 250)
    return src.astype(np.int32) + 1, tgt.astype(np.int32) + 1


def padded(batch, src_sizes, tgt_sizes):
    return len(batch) * max(src_sizes[batch].max(), tgt_sizes[batch].max())


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=80),
    max_tokens=st.integers(30, 200),
    max_sentences=st.none() | st.integers(1, 9),
    multiple=st.integers(1, 8),
    seed=st.none() | st.integers(0, 3),
)
def test_every_pair_is_in_one_batch_within_the_limits(sizes, max_tokens, max_sentences, multiple, seed):
    src_sizes, tgt_sizes = np.array(sizes, dtype=np.int32).reshape(-1, 2).T
    batches = make_batches(
        src_sizes,
        tgt_sizes,
        max_tokens=max_tokens,
        max_sentences=max_sentences,
        required_batch_multiple=multiple,
        seed=seed,
    )
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    assert all(padded(batch, src_sizes, tgt_sizes) <= max_tokens for batch in batches)
    assert all(len(batch) <= (max_sentences or len(batch)) for batch in batches)
    assert all(len(batch) % multiple == 0 or len(batch) < multiple for batch in batches[:-1])


@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=60),
    max_tokens=st.integers(30, 200),
)
def test_batches_are_as_large_as_the_limit_allows(sizes, max_tokens):
    src_sizes, tgt_sizes = np.array(sizes, dtype=np.int32).T
    batches = make_batches(src_sizes, tgt_sizes, max_tokens=max_tokens)
    for batch, following in itertools.pairwise(batches):
        assert padded(np.append(batch, following[0]), src_sizes, tgt_sizes) > max_tokens


def test_batches_have_little_padding():
    src_sizes, tgt_sizes = random_sizes(100_000)
    batches = make_batches(src_sizes, tgt_sizes, max_tokens=4096, seed=1)
    positions = sum(len(batch) * (src_sizes[batch].max() + tgt_sizes[batch].max()) for batch in batches)
    assert 1 - (src_sizes.sum() + tgt_sizes.sum()) / positions < 0.025


def test_neighbouring_pairs_have_similar_lengths():
    pairs = [(src, tgt) for src in range(1, 12) for tgt in range(1, 12)]
    src_sizes, tgt_sizes = np.array(pairs, dtype=np.int32).T
    order = np.concatenate(make_batches(src_sizes, tgt_sizes, max_tokens=11))
    steps = np.abs(np.diff(src_sizes[order])) + np.abs(np.diff(tgt_sizes[order]))
    assert steps.max() == 1


def test_order_of_batches_depends_only_on_seed_and_epoch():
    src_sizes, tgt_sizes = random_sizes(5000)

    def batches(**kwargs):
        return [batch.tolist() for batch in make_batches(src_sizes, tgt_sizes, max_tokens=1000, **kwargs)]

    first = batches(seed=1, epoch=1)
    assert first == batches(seed=1, epoch=1)
    assert first != batches(seed=1, epoch=2)
    assert first != batches(seed=2, epoch=1)
    assert list(map(len, first)) == list(map(len, batches(seed=1, epoch=2)))  # only pairs of equal lengths are shuffled
    assert batches() == batches()


def test_only_the_given_indices_are_in_batches():
    src_sizes, tgt_sizes = random_sizes(1000)
    kept, num_left_out = filter_by_size(src_sizes, tgt_sizes, max_source_tokens=40, max_target_tokens=30)
    assert num_left_out == int(((src_sizes > 40) | (tgt_sizes > 30)).sum())
    assert num_left_out + len(kept) == 1000
    batches = make_batches(src_sizes, tgt_sizes, max_tokens=500, indices=kept, seed=1)
    assert sorted(np.concatenate(batches)) == kept.tolist()


def test_batches_of_sources_without_targets():
    src_sizes = np.array([5, 3, 4, 3], dtype=np.int32)
    assert [batch.tolist() for batch in make_batches(src_sizes, None, max_tokens=8)] == [[1, 3], [2], [0]]
    assert filter_by_size(src_sizes, None, max_source_tokens=4, max_target_tokens=1)[0].tolist() == [1, 2, 3]
    assert filter_by_size(src_sizes, src_sizes, max_source_tokens=0, max_target_tokens=4)[0].tolist() == [1, 2, 3]
    assert len(filter_by_size(src_sizes, src_sizes, max_source_tokens=0, max_target_tokens=0)[0]) == len(src_sizes)


def test_a_pair_longer_than_a_batch_is_refused():
    with pytest.raises(UserError, match=r"pair 2 .* has 9 tokens, more than max_tokens 8"):
        make_batches(np.array([1, 8, 2, 99]), np.array([1, 1, 9, 1]), max_tokens=8)
    assert (
        len(make_batches(np.array([1, 8, 2, 99]), np.array([1, 1, 9, 1]), max_tokens=8, indices=np.array([0, 1]))) == 2
    )


def test_epoch_order_is_a_permutation_that_depends_on_seed_and_epoch():
    order = epoch_order(50, seed=1, epoch=3)
    assert sorted(order) == list(range(50))
    assert order.tolist() == epoch_order(50, seed=1, epoch=3).tolist()
    assert order.tolist() != epoch_order(50, seed=1, epoch=4).tolist()
    assert order.tolist() != epoch_order(50, seed=2, epoch=3).tolist()


def test_epoch_order_of_a_later_stage_is_another_one():
    first = np.random.default_rng([1, 3, 1]).permutation(50).tolist()  # as in all versions
    assert epoch_order(50, seed=1, epoch=3).tolist() == epoch_order(50, seed=1, epoch=3, number=1).tolist() == first
    orders = [epoch_order(50, seed=1, epoch=3, number=number).tolist() for number in (1, 2, 3)]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)


def write(prefix, sentences):
    with IndexedWriter(prefix, 100) as writer:
        for sentence in sentences:
            writer.add(np.array([*sentence, 2]))
    return prefix


@pytest.fixture
def mixed(tmp_path):
    """Return two concatenated data-bins, of three pairs and of one pair."""
    raw = write(tmp_path / "raw.en", [[5], [6, 7, 1], []]), write(tmp_path / "raw.de", [[8, 9], [10], [11, 12, 13]])
    distilled = write(tmp_path / "distilled.en", [[14, 15]]), write(tmp_path / "distilled.de", [[16]])
    return open_parallel([raw, distilled])


def test_data_bins_are_concatenated(mixed):
    assert len(mixed) == 4
    assert mixed.src_sizes.tolist() == [2, 4, 1, 3]
    assert mixed.tgt_sizes.tolist() == [3, 2, 4, 2]
    assert [tuple(side.tolist() for side in mixed[i]) for i in (2, 3)] == [
        ([2], [11, 12, 13, 2]),
        ([14, 15, 2], [16, 2]),
    ]
    for index in (-1, 4):
        with pytest.raises(IndexError):
            mixed[index]


def naive(sentences):
    longest = max(map(len, sentences))
    return [[*sentence, *[1] * (longest - len(sentence))] for sentence in sentences]


def test_collate_equals_a_naive_loop(mixed):
    indices = [3, 1, 2]
    batch = collate(indices, mixed)
    sources, targets = zip(*[[side.tolist() for side in mixed[i]] for i in indices], strict=True)
    assert sources[1] == [6, 7, 1, 2]
    sources = [sources[0], [6, 7, 3, 2], sources[2]]  # <pad> inside a sentence becomes <unk>, because it is not padding
    assert batch.index_B.tolist() == indices
    assert batch.src_tokens_BS.tolist() == naive(sources)
    assert batch.tgt_tokens_BT.tolist() == naive(targets)
    assert batch.prev_tokens_BT.tolist() == naive([[2, *target[:-1]] for target in targets])
    assert batch.num_tgt_tokens == 2 + 2 + 4
    assert {str(tensor.dtype) for tensor in (batch.index_B, batch.src_tokens_BS, batch.tgt_tokens_BT)} == {
        "torch.int64"
    }


def test_only_positions_after_a_sentence_are_padding(tmp_path):
    sentences = [[5, 1, 1, 6], [1], [7, 1]]
    batch = collate(
        [0, 1, 2], open_parallel([(write(tmp_path / "a.en", sentences), write(tmp_path / "a.de", sentences))])
    )
    for tokens, ends in ((batch.src_tokens_BS, 1), (batch.tgt_tokens_BT, 1), (batch.prev_tokens_BT, 1)):
        assert tokens.ne(1).sum(1).tolist() == [len(sentence) + ends for sentence in sentences]
        assert not tokens.eq(1).cummax(1).values.logical_and(tokens.ne(1)).any()
    assert batch.tgt_tokens_BT.tolist() == naive([[5, 3, 3, 6, 2], [3, 2], [7, 3, 2]])
    assert batch.prev_tokens_BT.tolist() == naive([[2, 5, 3, 3, 6], [2, 3], [2, 7, 3]])


SENTENCES = st.lists(st.integers(0, 99), max_size=6)


@given(
    parts=st.lists(st.lists(st.tuples(SENTENCES, SENTENCES), max_size=4), min_size=1, max_size=3),
    picks=st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
    multiple=st.sampled_from([1, 4, 8]),
    with_targets=st.booleans(),
)
@settings(deadline=None)
def test_collate_of_any_pairs_equals_padding_each_sentence(tmp_path_factory, parts, picks, multiple, with_targets):
    """Several data-bins, also empty ones; pairs in any order and more than once; `<pad>` inside sentences."""
    pairs = [pair for part in parts for pair in part]
    if not pairs:
        return
    folder = tmp_path_factory.mktemp("collate")
    data = open_parallel(
        [
            (
                write(folder / f"{number}.en", [source for source, _ in part]),
                write(folder / f"{number}.de", [target for _, target in part]) if with_targets else None,
            )
            for number, part in enumerate(parts)
        ]
    )
    indices = [pick % len(pairs) for pick in picks]
    batch = collate(indices, data, length_multiple=multiple)
    sources = [np.array([*pairs[index][0], 2]) for index in indices]
    targets = [np.array([*pairs[index][1], 2]) for index in indices]
    assert batch.src_tokens_BS.tolist() == pad_sentences(sources, multiple).tolist()
    assert batch.num_src_tokens == sum(map(len, sources))
    assert batch.index_B.tolist() == indices
    if not with_targets:
        assert batch.tgt_tokens_BT is batch.prev_tokens_BT is None
        return
    shifted = [np.array([2, *target[:-1]]) for target in targets]
    assert batch.tgt_tokens_BT.tolist() == pad_sentences(targets, multiple).tolist()
    assert batch.prev_tokens_BT.tolist() == pad_sentences(shifted, multiple).tolist()
    assert batch.num_tgt_tokens == sum(map(len, targets))


def test_collate_of_a_pair_outside_of_the_data(mixed):
    for index in (-1, 4):
        with pytest.raises(IndexError):
            collate([0, index], mixed)


def test_collate_without_targets(tmp_path):
    data = open_parallel([(write(tmp_path / "test.en", [[5], [6, 7]]), None)])
    batch = collate(np.array([0, 1]), data)
    assert batch.src_tokens_BS.tolist() == [[5, 2, 1], [6, 7, 2]]
    assert batch.tgt_tokens_BT is None
    assert batch.prev_tokens_BT is None
    assert data.tgt_sizes is None


def test_sides_of_different_length_are_refused(tmp_path):
    prefixes = write(tmp_path / "train.en", [[5], [6]]), write(tmp_path / "train.de", [[5]])
    with pytest.raises(UserError, match=r"train\.en holds 2 sentences, .*train\.de 1"):
        open_parallel([prefixes])


def test_targets_of_only_some_data_bins_are_refused(mixed):
    with pytest.raises(ValueError, match="all of them or to none"):
        ParallelData((mixed.parts[0], (mixed.parts[1][0], None)))


def test_a_batch_on_another_device_keeps_the_batch_on_the_host(mixed):
    batch = collate([0, 1], mixed)
    moved = batch.to("meta")
    assert batch.on_host is batch
    assert moved.on_host is batch
    assert moved.to("meta").on_host is batch
    assert batch.to("cpu").on_host.host is None
