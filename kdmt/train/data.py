"""Training data: micro-batches of a data-bin, and the batches of each update, loaded in advance by a thread."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from kdmt.config import Train
from kdmt.corpus.augmentation import Augmentation
from kdmt.corpus.batching import (
    Batch,
    Change,
    Extras,
    IntArray,
    ParallelData,
    Side,
    check_lengths,
    collate,
    collate_packed,
    epoch_order,
    filter_by_size,
    make_batches,
)
from kdmt.corpus.infilling import Infilling
from kdmt.corpus.knowledge_cache import KnowledgeSource
from kdmt.corpus.packing import PackingShape
from kdmt.corpus.right_to_left import reversing
from kdmt.corpus.subword_sampling import SubwordSampling
from kdmt.corpus.word_links import LinkSource
from kdmt.errors import UserError
from kdmt.ranks import Ranks
from kdmt.train.direction_sampling import PairDirections
from kdmt.train.mixture import Mixture, earlier_occurrences
from kdmt.train.target_selection import TargetSelection
from kdmt.types import PAD

_COMPILED_MULTIPLE = 8  # lengths are padded to multiples of it, so that a compiled model sees few different shapes


class BinarizedData:
    """Batches of at most `max_tokens` tokens, made from length-sorted pairs.

    They depend on (seed, epoch, order) alone. A batch is an array of places: the index of a pair, plus the number of
    all pairs for each earlier occurrence of the pair in the epoch, since a mixture may repeat pairs. Text and subwords
    are drawn for the place, so that a repeated pair has other ones.

    Args:
        knowledge: cache from which the teacher's most probable tokens are added to each batch.
        monolingual: sources without targets to add to each batch.
        denoising: text with noise to add to each batch.
        weights: float32 [pairs], weight of each pair.
        links: alignment of the pairs, which is added to each batch.
        sampling: draws other subwords for the sentences of a batch, or noise; batches are planned without them.
        augmentation: changes the text of some pairs before; batches are planned by the sizes of the changed pairs.
        shares: share of each data-bin in the pairs of an epoch; None to use all pairs in each epoch.
        directions: direction of each pair, by which the setting `sampling` draws pairs; None for one direction.
        selection: choice between two targets of each pair of the first data-bin, by which batches are then planned and
            loaded; the other pairs are second targets.
        right_to_left: whether targets are reversed, see `kdmt.corpus.right_to_left`.
        usable_P: whether each pair may be used, bool [pairs]; None for all.

    Attributes:
        num_left_out: number of pairs over the size limits, and of those that may not be used.
        order: number of the sequence of orders of the batches, see `epoch_order`.

    Raises:
        UserError: if no pair is within the size limits, or none of a data-bin that has a share, or if a pair has more
            than `max_tokens` tokens.
    """

    def __init__(
        self,
        data: ParallelData,
        settings: Train,
        *,
        seed: int,
        knowledge: KnowledgeSource | None = None,
        monolingual: MonolingualText | None = None,
        denoising: DenoisingText | None = None,
        weights: np.ndarray | None = None,
        sampling: SubwordSampling | Infilling | None = None,
        augmentation: Augmentation | None = None,
        links: LinkSource | None = None,
        shares: Sequence[float] | None = None,
        right_to_left: bool = False,
        selection: TargetSelection | None = None,
        directions: PairDirections | None = None,
        usable_P: np.ndarray | None = None,
    ) -> None:
        self.data, self.settings, self.seed, self.knowledge = data, settings, seed, knowledge
        self.monolingual, self.weights, self.sampling, self.links = monolingual, weights, sampling, links
        self.augmentation, self.denoising = augmentation, denoising
        self.right_to_left, self.selection, self.directions = right_to_left, selection, directions
        # of the pairs that batches are made of
        self.src_sizes, self.tgt_sizes = data.src_sizes, data.tgt_sizes
        if selection is not None and data.tgt_sizes is not None:
            self.src_sizes = data.src_sizes[: len(selection.second)]
            self.tgt_sizes = selection.longest_sizes(data.tgt_sizes)
        self.order = 1
        self.kept, self.num_left_out = filter_by_size(
            self.src_sizes,
            self.tgt_sizes,
            max_source_tokens=settings.max_source_tokens,
            max_target_tokens=settings.max_target_tokens,
        )
        if usable_P is not None:
            self.kept = self.kept[usable_P[self.kept]]
            self.num_left_out = len(self.src_sizes) - len(self.kept)
        if not len(self.kept):
            raise UserError("no pair is within train.max_source_tokens and train.max_target_tokens")
        check_lengths(self.src_sizes, self.tgt_sizes, self.kept, settings.max_tokens)
        self.mixture = None if shares is None else Mixture(self._kept_of_parts(), shares, seed=seed)
        if directions is not None and settings.sampling is not None:
            parts = [self.kept] if shares is None else self._kept_of_parts()
            self.mixture = directions.mixture(parts, settings.sampling, seed=seed, shares=shares)
        self.packing = self._packing_shape() if settings.packing else None

    def epoch(self, epoch: int) -> Sequence[np.ndarray]:
        """Return the batches of an epoch in their order."""
        batches = self.batches(epoch)
        order = epoch_order(len(batches), seed=self.seed, epoch=epoch, number=self.order)
        return [batches[position] for position in order]

    def batches(self, epoch: int = 0) -> list[np.ndarray]:
        """Return the batches of an epoch from the shortest to the longest, with `one_direction` by direction.

        Args:
            epoch: number of the epoch, from 1; 0 for pairs without augmentation.
        """
        places = self._places(epoch)
        src_sizes, tgt_sizes = self._planned_sizes(places, epoch)
        found = []
        for numbers in self._parts_of_batches(places):
            batches = make_batches(
                src_sizes,
                tgt_sizes,
                max_tokens=self.settings.max_tokens,
                indices=numbers,
                seed=self.seed,
                epoch=epoch,
                packing=self.packing,
            )
            found += [places[batch] for batch in batches]
        return found

    def _parts_of_batches(self, places: np.ndarray) -> list[np.ndarray | None]:
        """Return the numbers of the places from which the same batches are made, by direction; None for all places."""
        sampling = self.settings.sampling
        if self.directions is None or sampling is None or sampling.batches == "mixed":
            return [None]
        direction_N = self.directions.direction_P[places % len(self.data)]
        return [np.flatnonzero(direction_N == number) for number in np.unique(direction_N)]

    def _places(self, epoch: int) -> np.ndarray:
        """Return the place of each pair of an epoch."""
        if self.mixture is None:
            return self.kept
        pairs = self.mixture.pairs(max(epoch, 1), order=self.order)
        has_draws = self.sampling is not None or self.augmentation is not None
        return pairs + len(self.data) * earlier_occurrences(pairs) if has_draws else pairs

    def _planned_sizes(self, places: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the number of tokens of the source and of the target at each place.

        With a selection, it is that of the longer one of both targets.
        """
        indices = places % len(self.data)
        src_sizes, tgt_sizes = self.src_sizes[indices], None if self.tgt_sizes is None else self.tgt_sizes[indices]
        if self.augmentation is None or epoch == 0:
            return src_sizes, tgt_sizes
        assert tgt_sizes is not None
        choices = [places]
        if self.selection is not None:
            second = self.selection.second[indices]
            choices.append(np.where(second < 0, places, places - indices + second))
        sizes = [self.augmentation.sizes(self.data, each, epoch) for each in choices]
        src_sizes, tgt_sizes = (np.maximum.reduce([both[side] for both in sizes]) for side in range(2))
        return src_sizes, tgt_sizes

    def _kept_of_parts(self) -> list[np.ndarray]:
        """Return the pairs of each data-bin that are within the size limits."""
        parts = np.split(self.kept, np.searchsorted(self.kept, self.data.starts[1:-1]))
        for (source, _), kept in zip(self.data.parts, parts, strict=True):
            if not len(kept):
                raise UserError(
                    f"{source.prefix}: no pair is within train.max_source_tokens and train.max_target_tokens"
                )
        return parts

    def _packing_shape(self) -> PackingShape:
        assert self.tgt_sizes is not None
        longer = np.maximum(self.src_sizes, self.tgt_sizes)
        return PackingShape.of(longer[self.kept], self.settings.max_tokens)

    def load(self, places: np.ndarray, epoch: int = 0, update: int = 0) -> Batch:
        """Return the batch of the pairs at these places.

        Args:
            epoch: epoch for which text and subwords are drawn if there is `augmentation` or `sampling`.
            update: number of updates done, for which targets are chosen if there is a `selection`.
        """
        indices = places % len(self.data)
        if self.selection is not None:
            chosen = self.selection.choose(indices, update)
            indices, places = chosen, places - indices + chosen
        change = self._change(places, epoch)
        if self.packing is not None:
            batch = collate_packed(indices, self.data, self.packing, change=change)
        else:
            sides = None if self.augmentation is None else self.augmentation.apply(self.data, places, epoch)
            multiple = _length_multiple(self.settings)
            batch = collate(indices, self.data, length_multiple=multiple, sides=sides, change=change)
        return self._with_extras(batch, indices, epoch)

    def _with_extras(self, batch: Batch, indices: np.ndarray, epoch: int) -> Batch:
        extras = Extras(
            knowledge=None if self.knowledge is None else self.knowledge.load(indices),
            monolingual_BS=None if self.monolingual is None else self.monolingual.batch_for(indices),
            alignment=None if self.links is None else self.links.load(indices, self._weights_of(indices)),
            denoising=None if self.denoising is None else self.denoising.batch_for(indices, epoch),
        )
        weights = self._weights_of(indices)
        if weights is not None:
            extras = self._weighted(extras, weights, self._target_sizes(indices, batch))
        return replace(batch, extras=extras)

    def _change(self, places: np.ndarray, epoch: int) -> Change | None:
        """Return the function that changes the tokens of a batch, None if they are those of the data-bin."""
        sampling = self.sampling
        if sampling is None:
            return reversing(None) if self.right_to_left else None

        def sample(tokens_M: IntArray, sizes_B: IntArray, side: int) -> Side:
            return sampling.sample(tokens_M, sizes_B, places, side, epoch=epoch)

        return reversing(sample) if self.right_to_left else sample

    def _weights_of(self, indices: np.ndarray) -> np.ndarray | None:
        return None if self.weights is None else self.weights[indices]

    def _target_sizes(self, indices: np.ndarray, batch: Batch) -> np.ndarray:
        if self.sampling is not None or self.augmentation is not None:
            return batch.targets[1].ne(PAD).sum(dim=1).numpy()
        assert self.data.tgt_sizes is not None
        return self.data.tgt_sizes[indices]

    def _weighted(self, extras: Extras, weights: np.ndarray, sizes: np.ndarray) -> Extras:
        weighted_tokens = float(weights.astype(np.float64) @ sizes)
        return replace(extras, weight_B=torch.from_numpy(weights), weighted_tokens=weighted_tokens)


class MonolingualText:
    """Sentences to mask: one batch of them for each batch of pairs. Those over the size limit are left out.

    Args:
        data: the sentences, as sources without targets.
        prefixes: ids that are put before sentences, such as language tokens; None for none.

    Raises:
        UserError: if all sentences are over the limit.
    """

    def __init__(self, data: ParallelData, settings: Train, *, seed: int, prefixes: Prefixes | None = None) -> None:
        self.data, self.settings, self.seed, self.prefixes = data, settings, seed, prefixes
        sizes = data.src_sizes if prefixes is None else data.src_sizes + prefixes.sizes
        kept, _ = filter_by_size(sizes, None, max_source_tokens=settings.max_source_tokens, max_target_tokens=1)
        if not len(kept):
            raise UserError("no line of the text is within train.max_source_tokens")
        self.batches = make_batches(sizes, None, indices=kept, max_tokens=settings.max_tokens, seed=seed)

    def batch_for(self, indices: np.ndarray) -> torch.Tensor:
        """Return the monolingual batch for a batch of pairs, int64 [B, S], chosen as a function of (seed, indices)."""
        place = np.random.default_rng([self.seed, *indices.tolist()]).integers(len(self.batches))
        chosen, multiple = self.batches[place], _length_multiple(self.settings)
        change = None if self.prefixes is None else self.prefixes.before(chosen)
        return collate(chosen, self.data, length_multiple=multiple, change=change).src_tokens_BS


@dataclass(frozen=True)
class Prefixes:
    """Ids before sentences.

    Attributes:
        ids: the ids of each kind of prefix.
        kind_N: index in `ids` of the prefix of each sentence, int16 [sentences].
    """

    ids: Sequence[Sequence[int]]
    kind_N: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Return the number of ids before each sentence, int32 [sentences]."""
        return np.array([len(each) for each in self.ids], dtype=np.int32)[self.kind_N]

    def before(self, indices: np.ndarray) -> Change:
        """Return the change that puts the prefixes of these sentences before them."""
        kinds = self.kind_N[indices]

        def prepend(tokens_M: IntArray, sizes_B: IntArray, side: int) -> Side:  # noqa: ARG001
            sentences = np.split(tokens_M, np.cumsum(sizes_B)[:-1])
            found = [(*self.ids[kind], *each.tolist()) for kind, each in zip(kinds.tolist(), sentences, strict=True)]
            tokens = np.array([token for each in found for token in each], dtype=np.int64)
            return tokens, np.array([len(each) for each in found], dtype=np.int64)

        return prepend


class DenoisingText:
    """Text with noise for each batch of pairs: one batch of about the same size.

    Args:
        text: the text as both sides of a data set, whose sources get noise.
    """

    def __init__(self, text: BinarizedData) -> None:
        self.text = text
        self._latest: tuple[int, list[np.ndarray]] | None = None  # batches of one epoch

    def batch_for(self, indices: np.ndarray, epoch: int) -> Batch:
        """Return the batch for a batch of pairs, chosen as a function of (seed, epoch, indices)."""
        batches = self._batches(epoch)
        place = np.random.default_rng([self.text.seed, epoch, *indices.tolist()]).integers(len(batches))
        return self.text.load(batches[place], epoch)

    def _batches(self, epoch: int) -> list[np.ndarray]:
        if self._latest is None or self._latest[0] != epoch:
            self._latest = (epoch, self.text.batches(epoch))
        return self._latest[1]


def _length_multiple(settings: Train) -> int:
    return _COMPILED_MULTIPLE if settings.compile else 1


# ------------------------------------------------------------------------------------------ updates

Item = TypeVar("Item")


class TrainingData(Protocol):
    """Micro-batches of an epoch. Their order depends on (seed, epoch) alone, their content also on the update."""

    def epoch(self, epoch: int) -> Sequence[np.ndarray]: ...

    def load(self, places: np.ndarray, epoch: int = 0, update: int = 0) -> Batch: ...


@dataclass(frozen=True)
class Step:
    """One rank's share of an update.

    All ranks have the same number of micro-batches, because they add their gradients at the same time. A rank without
    a micro-batch at the end of an epoch repeats one of another rank and ignores its gradient.
    """

    epoch: int
    done: int  # number of micro-batches of the epoch, over all ranks, that are done after this update
    batches: list[Batch]
    idle: int  # number of `batches` at the end of the list whose gradient is ignored


def steps(
    data: TrainingData,
    *,
    epoch: int,
    done: int,
    update_freq: int,
    ranks: Ranks,
    update: int = 0,
    pin_memory: bool = False,
) -> Iterator[Step]:
    """Yield the updates from a position in an epoch on, without end.

    An update takes the next `update_freq` * n micro-batches for n ranks, fewer at the end of an epoch. Rank r takes
    those whose number modulo n is r, so that n ranks are equivalent to one rank with an `update_freq` n times as large.

    Args:
        update: number of updates done.
    """
    while True:
        batches = data.epoch(epoch)
        for start in range(done, len(batches), update_freq * ranks.world):
            group = batches[start : start + update_freq * ranks.world]
            own = list(group[ranks.rank :: ranks.world])
            idle = -(-len(group) // ranks.world) - len(own)
            loaded = [data.load(places, epoch, update) for places in own + [group[0]] * idle]
            if pin_memory:
                loaded = [batch.pin_memory() for batch in loaded]
            yield Step(epoch, start + len(group), loaded, idle)
            update += 1
        epoch, done = epoch + 1, 0


class Prefetched(Generic[Item]):
    """The items of an iterator, each computed by a thread before it is needed.

    Attributes:
        waited: time in seconds spent waiting for items.
    """

    def __init__(self, items: Iterator[Item], *, depth: int) -> None:
        self.items, self.depth = items, depth
        self.waited = 0.0

    def __iter__(self) -> Iterator[Item]:
        waiting: collections.deque[Future[Item]] = collections.deque()
        pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        try:
            for _ in range(self.depth):
                waiting.append(pool.submit(next, self.items))
            while True:
                started = time.perf_counter()
                item = waiting.popleft().result()
                self.waited += time.perf_counter() - started
                waiting.append(pool.submit(next, self.items))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)
