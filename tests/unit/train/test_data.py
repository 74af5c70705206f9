"""Micro-batches of a data-bin, their distribution over ranks, and prefetching."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copy_task import VOCAB, make_model, terms_of, train_settings, write_copy_task, write_pairs
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config import DirectionSampling, Student
from kdmt.corpus.batching import Batch, Extras, Knowledge, ParallelData, Side, join_data, join_side
from kdmt.corpus.subword_sampling import Draw, SentenceSampler, SubwordSampling, Word, WordLimits
from kdmt.errors import UserError
from kdmt.objectives.build import build_objective
from kdmt.ranks import Ranks
from kdmt.train.data import BinarizedData, Prefetched, Step, steps
from kdmt.train.direction_sampling import PairDirections
from kdmt.train.target_selection import TargetSelection
from kdmt.types import EOS, PAD


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> ParallelData:
    return write_copy_task(tmp_path_factory.mktemp("data"), 200, seed=1)


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def test_an_epoch_has_every_pair_once(pairs: ParallelData) -> None:
    data = BinarizedData(pairs, train_settings(), seed=1)
    for epoch in (1, 2):
        assert sorted(np.concatenate(data.epoch(epoch))) == list(range(len(pairs)))


def test_epochs_depend_only_on_seed_and_number(pairs: ParallelData) -> None:
    settings = train_settings()
    first = BinarizedData(pairs, settings, seed=1)
    second_epoch = as_lists(first.epoch(2))
    assert as_lists(first.epoch(1)) != second_epoch
    assert as_lists(BinarizedData(pairs, settings, seed=1).epoch(2)) == second_epoch
    assert as_lists(BinarizedData(pairs, settings, seed=2).epoch(2)) != second_epoch


def test_an_epoch_of_a_mixture_has_the_share_of_each_data_bin_among_the_pairs_that_fit(
    pairs: ParallelData, tmp_path: Path
) -> None:
    more = write_copy_task(tmp_path, 90, seed=2)
    settings = train_settings(max_source_tokens=5)
    short = [int((part.src_sizes <= 5).sum()) for part in (pairs, more)]
    data = BinarizedData(join_data([pairs, more]), settings, seed=1, shares=(0.8, 0.2))
    for epoch in (1, 3):
        used = np.concatenate(data.epoch(epoch))
        assert data.data.src_sizes[used].max() <= 5
        assert len(set(used[used < len(pairs)])) == (used < len(pairs)).sum() == short[0]
        assert abs((used >= len(pairs)).sum() - short[0] / 4) < 1
    other = BinarizedData(join_data([pairs, more]), settings, seed=1, shares=(0.8, 0.2))
    assert as_lists(other.epoch(3)) == as_lists(data.epoch(3))  # without the epochs before
    other.order = 2
    assert as_lists(other.epoch(3)) != as_lists(data.epoch(3))


def test_a_mixture_with_a_data_bin_without_a_pair_that_fits_is_refused(pairs: ParallelData, tmp_path: Path) -> None:
    long = write_pairs(tmp_path, [([5] * 9, [5] * 9)])
    with pytest.raises(UserError, match=r"no pair is within train\.max_source_tokens"):
        BinarizedData(join_data([pairs, long]), train_settings(max_source_tokens=5), seed=1, shares=(0.5, 0.5))


@pytest.mark.parametrize("packing", [False, True])
def test_batches_of_one_direction_have_the_pairs_of_mixed_ones(pairs: ParallelData, packing: bool) -> None:
    directions = PairDirections(("en-de", "en-fr"), (np.arange(len(pairs)) % 3 > 0).astype(np.int16))
    drawn = {}
    for batches in ("mixed", "one_direction"):
        sampling = DirectionSampling(temperature=3.0, batches=batches)
        settings = train_settings(sampling=sampling, packing=packing)
        data = BinarizedData(pairs, settings, seed=1, directions=directions)
        drawn[batches] = data.epoch(2)
        assert as_lists(drawn[batches]) == as_lists(data.epoch(2))
    assert sorted(np.concatenate(drawn["mixed"])) == sorted(np.concatenate(drawn["one_direction"]))
    assert any(len(set(directions.direction_P[batch])) == 2 for batch in drawn["mixed"])
    assert all(len(set(directions.direction_P[batch])) == 1 for batch in drawn["one_direction"])


def test_targets_are_selected_by_the_update_also_after_a_resume(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    sources = [rng.integers(4, VOCAB, rng.integers(1, 7)).tolist() for _ in range(40)]
    for name in ("distilled", "raw"):
        (tmp_path / name).mkdir()
    distilled = write_pairs(tmp_path / "distilled", [(source, [5] * len(source)) for source in sources])
    raw = write_pairs(tmp_path / "raw", [(source, [6] * (len(source) + 1)) for source in sources])

    def data() -> BinarizedData:
        selection = TargetSelection(np.arange(40, 80), [(0, 1.0), (8, 0.0)], 1.0)
        selection.use(np.linspace(0, 1, 40, dtype=np.float32))
        return BinarizedData(join_data([distilled, raw]), train_settings(max_tokens=48), seed=1, selection=selection)

    def taken(stream: Iterator[Step], count: int) -> list[list[list[int]]]:
        return [step.batches[0].targets[1].tolist() for step in itertools.islice(stream, count)]

    made = data()
    batches = [made.epoch(epoch) for epoch in (1, 2, 3)]
    assert sorted(np.concatenate(batches[0])) == list(range(40))
    straight = taken(steps(made, epoch=1, done=0, update_freq=1, ranks=Ranks()), 12)
    for update, (batch, targets) in enumerate(zip(itertools.chain(*batches), straight, strict=False)):
        assert [row[0] for row in targets] == [6 if index < 5 * update else 5 for index in batch.tolist()]
        assert len(targets) * len(targets[0]) <= 48
    resumed = taken(steps(data(), epoch=1, done=3, update_freq=1, ranks=Ranks(), update=3), 9)
    assert resumed == straight[3:]


@pytest.mark.parametrize("packing", [False, True])
def test_targets_of_a_right_to_left_model_are_reversed(pairs: ParallelData, packing: bool) -> None:
    indices, settings = np.array([3, 11, 4]), train_settings(packing=packing)
    plain = BinarizedData(pairs, settings, seed=1).load(indices)
    turned = BinarizedData(pairs, settings, seed=1, right_to_left=True).load(indices)
    assert torch.equal(turned.src_tokens_BS, plain.src_tokens_BS)
    sentences = [pairs[index][1].tolist() for index in indices]  # type: ignore[union-attr]
    expected = [token for each in sentences for token in (*each[-2::-1], EOS)]
    assert [token for token in turned.targets[1].flatten().tolist() if token != PAD] == expected
    before = [token for each in sentences for token in (EOS, *each[-2::-1])]
    assert [token for token in turned.targets[0].flatten().tolist() if token != PAD] == before
    assert turned.num_tgt_tokens == plain.num_tgt_tokens


def test_batches_are_sorted_by_length_within_max_tokens(pairs: ParallelData) -> None:
    batches = BinarizedData(pairs, train_settings(max_tokens=40), seed=1).batches()
    longest = [int(pairs.src_sizes[batch].max()) for batch in batches]
    assert longest == sorted(longest)
    assert all(len(batch) * length <= 40 for batch, length in zip(batches, longest, strict=True))


def test_pairs_over_a_limit_are_left_out_and_counted(tmp_path: Path) -> None:
    words = [4, 5, 6, 7]
    pairs = write_pairs(tmp_path, [(words[:1], words[:1]), (words, words[:1]), (words[:1], words), (words, words)])
    data = BinarizedData(pairs, train_settings(max_source_tokens=5, max_target_tokens=4), seed=1)
    assert data.kept.tolist() == [0, 1]
    assert data.num_left_out == 2
    assert sorted(np.concatenate(data.epoch(1))) == [0, 1]


def test_no_pair_within_the_limits_is_an_error(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, [([4, 5, 6], [4, 5, 6])])
    with pytest.raises(UserError, match=r"train\.max_source_tokens and train\.max_target_tokens"):
        BinarizedData(pairs, train_settings(max_source_tokens=2), seed=1)


def test_batch_is_padded_on_the_right_and_its_target_shifted(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, [([4, 5], [6]), ([7], [8, 9, 10])])
    batch = BinarizedData(pairs, train_settings(), seed=1).load(np.array([1, 0]))
    assert batch.src_tokens_BS.tolist() == [[7, EOS, PAD], [4, 5, EOS]]
    assert batch.tgt_tokens_BT is not None
    assert batch.tgt_tokens_BT.tolist() == [[8, 9, 10, EOS], [6, EOS, PAD, PAD]]
    assert batch.prev_tokens_BT is not None
    assert batch.prev_tokens_BT.tolist() == [[EOS, 8, 9, 10], [EOS, 6, PAD, PAD]]
    assert batch.num_tgt_tokens == 6


def test_weights_of_pairs_are_applied_to_the_loss(pairs: ParallelData) -> None:
    """Check that pairs of weight 2 give the same as a batch in which they occur twice."""
    settings = train_settings()
    indices, twice = np.array([3, 1, 2]), np.array([3, 1, 1, 2, 2])
    weights = np.full(len(pairs), 1.0, dtype=np.float32)
    weights[[1, 2]] = 2.0
    weighted = BinarizedData(pairs, settings, seed=1, weights=weights).load(indices)
    plain = BinarizedData(pairs, settings, seed=1).load(twice)
    objective = build_objective(make_model().double().eval(), label_smoothing=0.1)
    assert objective.counts(objective.prepare(weighted)) == objective.counts(objective.prepare(plain))
    assert weighted.num_tgt_tokens < plain.num_tgt_tokens
    found, expected = terms_of(objective, weighted), terms_of(objective, plain)
    for name in expected:
        torch.testing.assert_close(found[name].sum, expected[name].sum, rtol=1e-12, atol=0)
        assert found[name].count == expected[name].count


def test_packed_batches_hold_every_pair_once_in_rows_of_one_shape(pairs: ParallelData) -> None:
    data = BinarizedData(pairs, train_settings(packing=True), seed=1)
    batches = data.epoch(1)
    assert sorted(np.concatenate(batches).tolist()) == list(range(200))
    loaded = [data.load(indices) for indices in batches]
    assert len({batch.src_tokens_BS.shape for batch in loaded}) == 1
    assert all(max(batch.num_src_tokens, batch.num_tgt_tokens) <= 64 for batch in loaded)
    room = [64 - batch.num_tgt_tokens for batch in loaded]
    assert sum(tokens >= 7 for tokens in room) <= 1  # no pair has more tokens; the last pairs may fill no batch


@pytest.mark.parametrize("student", [None, {"word_kd": {"source": "cache", "alpha": 0.7}}, {"word_kd": {}}], ids=str)
def test_packed_and_padded_pairs_have_the_same_loss(pairs: ParallelData, student: dict[str, Any] | None) -> None:
    indices = np.array([5, 3, 8, 13, 2])
    batches = [
        with_knowledge(BinarizedData(pairs, train_settings(packing=packing), seed=1).load(indices))
        for packing in (False, True)
    ]
    objective = build_objective(
        make_model(1).double(),
        None if student is None else Student.model_validate(student),
        label_smoothing=0.1,
        teachers=[make_model(2).double().eval()] if student == {"word_kd": {}} else [],
        marginal_V=torch.full((VOCAB,), 1 / VOCAB),
    )
    objective.model.eval()  # without dropout, but with the terms of training
    padded, packed = (terms_of(objective, batch) for batch in batches)
    assert padded.keys() == packed.keys()
    for name, term in padded.items():
        torch.testing.assert_close(packed[name].sum, term.sum, rtol=1e-6, atol=1e-9)
        assert packed[name].count == term.count


def test_packed_rows_have_the_tokens_of_padded_batches(tmp_path: Path) -> None:
    """Two data-bins, one of which contains <pad>; what a padded batch has without padding is the packed row."""
    data = join_data(
        [write_pairs(tmp_path / "a", [([5, PAD, 6], [7]), ([8], [9, 9])]), write_pairs(tmp_path / "b", [([4], [5, 6])])]
    )
    indices = np.array([2, 0, 1])
    packed, padded = (
        BinarizedData(data, train_settings(packing=packing), seed=1).load(indices) for packing in (True, False)
    )
    for name in ("src_tokens_BS", "prev_tokens_BT", "tgt_tokens_BT"):
        rows, row = getattr(padded, name), getattr(packed, name)
        assert row[row.ne(PAD)].tolist() == rows[rows.ne(PAD)].tolist()
    assert (packed.num_src_tokens, packed.num_tgt_tokens) == (padded.num_src_tokens, padded.num_tgt_tokens)


def with_knowledge(batch: Batch) -> Batch:
    """Add another distribution of three tokens for each target token, the same in each call."""
    generator = torch.Generator().manual_seed(1)
    tokens = batch.num_tgt_tokens
    ids_MK = torch.stack([torch.randperm(VOCAB, generator=generator)[:3] for _ in range(tokens)])
    log_probs_MG = torch.randn(tokens, 4, generator=generator).log_softmax(1)
    return replace(batch, extras=Extras(knowledge=Knowledge(ids_MK, log_probs_MG)))


class Repeating:
    """Draws the token of each word twice, or once, by a fair coin; `</s>` once."""

    def sample(self, words: Sequence[Word], draw: Draw) -> list[Word]:
        return [word if word == (EOS,) or draw() < 0.5 else word * 2 for word in words]


def repeating(pairs: ParallelData, **settings: Any) -> BinarizedData:
    limits = WordLimits(np.ones(VOCAB, dtype=bool), np.ones(VOCAB, dtype=bool))
    samplers = [SentenceSampler(Repeating(), limits, seed=1, side=side) for side in range(2)]
    return BinarizedData(pairs, train_settings(), seed=1, sampling=SubwordSampling(*samplers), **settings)


def test_batches_are_planned_without_the_drawn_subwords(pairs: ParallelData) -> None:
    plain = BinarizedData(pairs, train_settings(), seed=1)
    assert as_lists(repeating(pairs).epoch(3)) == as_lists(plain.epoch(3))


def test_weights_count_the_drawn_tokens(pairs: ParallelData) -> None:
    weights = np.random.default_rng(1).random(len(pairs)).astype(np.float32)
    indices = np.arange(30)
    batch = repeating(pairs, weights=weights).load(indices, 2)
    sizes = batch.targets[1].ne(PAD).sum(dim=1).numpy()
    assert sizes.sum() == batch.num_tgt_tokens
    assert pairs.tgt_sizes is not None
    assert (sizes > pairs.tgt_sizes[indices]).any()
    assert batch.extras.weighted_tokens == pytest.approx(float(weights[indices].astype(float) @ sizes))
    assert batch.prev_tokens_BT is not None
    assert batch.prev_tokens_BT[:, 1:].ne(PAD).sum() == batch.num_tgt_tokens - len(indices)


def test_subwords_depend_on_the_epoch_and_not_on_ranks_or_the_start(pairs: ParallelData) -> None:
    def taken(rank: int, world: int, *, done: int = 0, count: int = 6) -> list[Step]:
        data = repeating(pairs)
        stream = steps(data, epoch=1, done=done, update_freq=2 // world, ranks=Ranks(rank, world))
        return list(itertools.islice(stream, count))

    alone = [batch.src_tokens_BS.tolist() for step in taken(0, 1) for batch in step.batches]
    shared = [[step.batches[0].src_tokens_BS.tolist() for step in taken(rank, 2)] for rank in range(2)]
    assert [batch for both in zip(*shared, strict=True) for batch in both][: len(alone)] == alone
    resumed = [batch.src_tokens_BS.tolist() for step in taken(0, 1, done=4, count=4) for batch in step.batches]
    assert resumed == alone[4:]
    data, indices = repeating(pairs), np.arange(30)
    assert not torch.equal(data.load(indices, 1).src_tokens_BS, data.load(indices, 2).src_tokens_BS)


class Doubling:
    """Doubles the target at each place that is a multiple of 7, in odd epochs."""

    def apply(self, data: ParallelData, places: np.ndarray, epoch: int) -> tuple[Side, Side]:
        source, (tokens, sizes) = (join_side(places % len(data), data, side) for side in range(2))
        doubled = [
            np.concatenate([each[:-1], each]) if place % 7 == 0 and epoch % 2 else each
            for each, place in zip(np.split(tokens, np.cumsum(sizes)[:-1]), places.tolist(), strict=True)
        ]
        return source, (np.concatenate(doubled), np.array([len(each) for each in doubled]))

    def sizes(self, data: ParallelData, places: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        (_, source), (_, target) = self.apply(data, places, epoch)
        return source, target


def doubling(data: ParallelData, **changes: Any) -> BinarizedData:
    return BinarizedData(data, train_settings(), seed=1, augmentation=Doubling(), **changes)  # type: ignore[arg-type]


def rows(batches: Sequence[Batch]) -> list[tuple[int, list[int], list[int]]]:
    """Return the index of each pair with its tokens without padding: source and target."""
    found = []
    for batch in batches:
        sides = (batch.src_tokens_BS, batch.targets[1])
        for row, index in enumerate(batch.index_B.tolist()):
            source, target = ([token for token in side[row].tolist() if token != PAD] for side in sides)
            found.append((index, source, target))
    return found


def area(batches: Sequence[Batch]) -> int:
    """Return the number of tokens of all targets with padding."""
    return sum(batch.targets[1].numel() for batch in batches)


def test_batches_are_planned_by_the_sizes_of_augmented_pairs(pairs: ParallelData) -> None:
    plain, data = BinarizedData(pairs, train_settings(), seed=1), doubling(pairs)
    assert as_lists(data.epoch(2)) == as_lists(plain.epoch(2))  # nothing is doubled
    loaded = [data.load(places, 1) for places in data.epoch(1)]
    assert max(batch.targets[1].numel() for batch in loaded) <= 64
    expected = []
    for index, (source, target) in enumerate(pairs[index] for index in range(len(pairs))):
        assert target is not None
        expected.append((index, source.tolist(), [*target[:-1], *target] if index % 7 == 0 else target.tolist()))
    assert sorted(rows(loaded)) == expected
    by_data_bin = [data.load(places, 1) for places in plain.epoch(1)]
    assert area(loaded) < 0.9 * area(by_data_bin)
    assert max(batch.targets[1].numel() for batch in by_data_bin) > 64


def test_batches_without_an_epoch_are_planned_by_the_data_bin(pairs: ParallelData) -> None:
    assert as_lists(doubling(pairs).batches()) == as_lists(BinarizedData(pairs, train_settings(), seed=1).batches())


def test_both_targets_of_a_selection_fit_into_an_augmented_batch(pairs: ParallelData, tmp_path: Path) -> None:
    sources = [pairs[index][0][:-1].tolist() for index in range(len(pairs))]
    more = write_pairs(tmp_path, [(source, [6] * (1 + index % 5)) for index, source in enumerate(sources)])
    selection = TargetSelection(np.arange(200, 400), [(0, 0.5)], 1.0)
    selection.use(np.random.default_rng(1).random(200).astype(np.float32))
    data = doubling(join_data([pairs, more]), selection=selection)
    loaded = [data.load(places, 1, 0) for places in data.epoch(1)]
    assert max(batch.targets[1].numel() for batch in loaded) <= 64
    found = rows(loaded)
    assert sorted(index % 200 for index, _, _ in found) == list(range(200))
    for index, _, target in found:
        assert (len(target) - 1) % 2 == 0 if index % 7 == 0 else True
        assert index < 200 or set(target) == {6, EOS}


def test_a_repeated_pair_of_a_mixture_has_other_draws(pairs: ParallelData, tmp_path: Path) -> None:
    few = write_pairs(tmp_path, [([5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 9, 10]), ([5, 6], [5, 6, 7])])
    both, total = join_data([pairs, few]), len(pairs) + 2
    data = repeating(both, shares=(0.9, 0.1))  # 200 / 9 pairs of two: each 11 times or 12 times
    places = np.concatenate(data.epoch(1))
    assert len(set(places.tolist())) == len(places)
    for index in (200, 201):
        own = sorted(places[places % total == index].tolist())
        assert own == [index + number * total for number in range(len(own))]
        assert len(own) in (11, 12)
    found = rows([data.load(np.array([200 + number * total for number in range(11)]), 1)])
    assert {index for index, _, _ in found} == {200}
    assert len({tuple(source) for _, source, _ in found}) > 5  # of 64
    once = repeating(both)
    assert rows([data.load(np.array([200, 201, 3]), 1)]) == rows([once.load(np.array([200, 201, 3]), 1)])


def test_a_mixture_without_repeated_pairs_has_the_draws_of_one_set(pairs: ParallelData, tmp_path: Path) -> None:
    more = write_copy_task(tmp_path, 90, seed=2)
    both = join_data([pairs, more])
    data, plain = (repeating(both, shares=(0.9, 0.1)), BinarizedData(both, train_settings(), seed=1, shares=(0.9, 0.1)))
    for epoch in (1, 2, 3):
        assert as_lists(data.epoch(epoch)) == as_lists(plain.epoch(epoch))
        assert max(map(max, as_lists(data.epoch(epoch)))) < len(both)


def test_repeated_pairs_are_the_same_after_a_resume(pairs: ParallelData, tmp_path: Path) -> None:
    few = write_copy_task(tmp_path, 7, seed=2)

    def taken(done: int, count: int) -> list[list[list[int]]]:
        data = repeating(join_data([pairs, few]), shares=(0.5, 0.5), augmentation=Doubling())
        stream = steps(data, epoch=2, done=done, update_freq=1, ranks=Ranks())
        return [step.batches[0].targets[1].tolist() for step in itertools.islice(stream, count)]

    straight = taken(0, 12)
    assert taken(5, 7) == straight[5:]


# ------------------------------------------------------------------------------------------ updates


class Numbered:
    """Epochs of `length` micro-batches, each with one pair; its number gives the epoch and the index in it."""

    def __init__(self, length: int) -> None:
        self.length = length

    def epoch(self, epoch: int) -> Sequence[np.ndarray]:
        return [np.array([1000 * epoch + number]) for number in range(self.length)]

    def load(self, indices: np.ndarray, epoch: int = 0, update: int = 0) -> Batch:  # noqa: ARG002
        tokens = torch.as_tensor(indices)
        return Batch(index_B=tokens, src_tokens_BS=tokens[:, None])


def take(length: int, count: int, *, world: int, update_freq: int, done: int = 0) -> list[list[Step]]:
    """Return the first steps of each rank."""
    ranks = [Ranks(rank, world) for rank in range(world)]
    data = Numbered(length)
    return [
        list(itertools.islice(steps(data, epoch=1, done=done, update_freq=update_freq, ranks=each), count))
        for each in ranks
    ]


def numbers(step: Step) -> list[int]:
    """Return the numbers of the micro-batches of a step that are not idle."""
    return [int(batch.index_B) for batch in step.batches[: len(step.batches) - step.idle]]


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 12))
def test_several_ranks_take_the_same_batches_as_one(length: int, world: int, update_freq: int, done: int) -> None:
    done = min(done, length)
    alone = take(length, 6, world=1, update_freq=update_freq * world, done=done)[0]
    together = take(length, 6, world=world, update_freq=update_freq, done=done)
    for one, parts in zip(alone, zip(*together, strict=True), strict=True):
        assert sorted(number for part in parts for number in numbers(part)) == numbers(one)
        assert {(part.epoch, part.done) for part in parts} == {(one.epoch, one.done)}
        assert len({len(part.batches) for part in parts}) == 1  # all ranks make the same number of passes
        assert all(part.idle in (0, 1) for part in parts)


def test_an_epoch_that_is_done_is_followed_by_the_next() -> None:
    (first, second, third), *_ = take(3, 3, world=1, update_freq=2, done=2)
    assert (numbers(first), first.epoch, first.done) == ([1002], 1, 3)
    assert (numbers(second), second.epoch, second.done) == ([2000, 2001], 2, 2)
    assert (numbers(third), third.epoch, third.done) == ([2002], 2, 3)


def test_items_are_prefetched_in_order() -> None:
    made: list[int] = []
    ready = threading.Event()

    def items() -> Iterator[int]:
        for number in itertools.count():
            made.append(number)
            if number == 4:
                ready.set()
            yield number

    taken = iter(Prefetched(items(), depth=4))
    assert next(taken) == 0
    assert ready.wait(10)  # the fifth is made while the first is in use
    assert [next(taken) for _ in range(20)] == list(range(1, 21))
    taken.close()  # type: ignore[attr-defined]
    assert made == list(range(len(made)))
    assert len(made) <= 26


def test_an_error_while_prefetching_is_raised_at_its_item() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise ZeroDivisionError

    taken = iter(Prefetched(items(), depth=2))
    assert [next(taken) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(taken)


def test_time_waiting_for_an_item_is_counted() -> None:
    release = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        release.wait(10)
        yield 1
        yield from itertools.count(2)

    prefetched = Prefetched(items(), depth=1)
    taken = iter(prefetched)
    next(taken)
    before = prefetched.waited
    threading.Timer(0.05, release.set).start()
    next(taken)
    assert prefetched.waited - before > 0.02
    taken.close()  # type: ignore[attr-defined]
