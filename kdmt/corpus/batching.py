"""Parallel data, its division into batches, and the padded tensors of a batch.

Batches are formed from the sizes of the pairs alone. Sizes are numbers of tokens, including `</s>`.

Shape legend: B batch, S source length, T target length, M target tokens of a batch, K tokens from a teacher.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.binarize import data_prefix
from kdmt.corpus.indexed import IndexedDataset, without_padding
from kdmt.corpus.packing import PackingShape, pack, packed_ends, shift_right
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.types import EOS, PAD, Packing

if TYPE_CHECKING:
    import torch

IntArray = NDArray[np.integer[Any]]
Sentence = tuple[IntArray, IntArray | None]  # source [S] and target [T], each with </s>
Side = tuple[IntArray, IntArray]  # concatenated tokens, and the size of each sentence
# (concatenated tokens, size of each sentence, side) -> other tokens and sizes
Change = Callable[[IntArray, IntArray, int], tuple[IntArray, IntArray]]


@dataclass(frozen=True)
class Knowledge:
    """A teacher's most probable tokens at each real target token of a batch, in the order of the tokens."""

    ids_MK: torch.Tensor  # int64, distinct in each row, most probable first
    log_probs_MG: torch.Tensor  # float32 [M, K + 1], natural logarithms at one temperature; last: all other tokens


@dataclass(frozen=True)
class BatchLinks:
    """Links between the target and source tokens of a batch."""

    place_3L: torch.Tensor  # int64 [3, L], sentence, target and source position of each link
    weight_L: torch.Tensor  # float32, 1 / (number of links of the target token), times the weight of the pair
    num_tokens: float  # number of target tokens with a link, or the sum of the weights of their pairs


@dataclass(frozen=True)
class Extras:
    """Inputs that only some training methods need, in addition to sources and targets."""

    knowledge: Knowledge | None = None  # for students that learn from a cache
    weight_B: torch.Tensor | None = None  # float32, weight of each pair; None for 1
    weighted_tokens: float | None = None  # sum of the pair weights over the real target tokens
    monolingual_BS: torch.Tensor | None = None  # int64, sources without targets, for the masked language model
    alignment: BatchLinks | None = None  # for guided alignment
    denoising: Batch | None = None  # text with noise as sources, and without it as targets

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Extras:
        """Return a copy with `change` applied to every tensor."""
        knowledge, alignment = self.knowledge, self.alignment
        return replace(
            self,
            knowledge=knowledge and Knowledge(change(knowledge.ids_MK), change(knowledge.log_probs_MG)),
            weight_B=None if self.weight_B is None else change(self.weight_B),
            monolingual_BS=None if self.monolingual_BS is None else change(self.monolingual_BS),
            alignment=alignment
            and replace(alignment, place_3L=change(alignment.place_3L), weight_L=change(alignment.weight_L)),
            denoising=self.denoising and self.denoising.map(change),
        )


@dataclass(frozen=True)
class Batch:
    """Sentence pairs, padded on the right with `PAD`, or packed in one row (`kdmt.corpus.packing`).

    Sentences end with `</s>`; the decoder input is the target shifted right by one, with `</s>` first.
    """

    index_B: torch.Tensor  # int64 [B], index of each pair in the data-bin
    src_tokens_BS: torch.Tensor  # int64 [B, S]
    prev_tokens_BT: torch.Tensor | None = None  # int64 [B, T], decoder input
    tgt_tokens_BT: torch.Tensor | None = None  # int64 [B, T]
    num_tgt_tokens: int = 0  # number of real target tokens, including </s>
    num_src_tokens: int = 0  # number of real source tokens, including </s>
    src_packing: Packing | None = None  # limits of the sentences if they are packed: then tensors [B, S] are [1, N]
    tgt_packing: Packing | None = None
    extras: Extras = Extras()
    host: Batch | None = None  # the batch in the memory of the host, if this one is on another device

    @property
    def on_host(self) -> Batch:
        """The batch in the memory of the host, from which values are read without waiting for a GPU."""
        return self if self.host is None else self.host

    @property
    def targets(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Decoder input and target tokens, [B, T] each.

        Raises:
            ValueError: if the batch has no targets.
        """
        if self.prev_tokens_BT is None or self.tgt_tokens_BT is None:
            raise ValueError("an objective needs a batch with targets")
        return self.prev_tokens_BT, self.tgt_tokens_BT

    def to(self, device: torch.device | str) -> Batch:
        """Return a copy on a device; the host does not wait for a copy from pinned memory."""
        moved = self.map(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, host=None if moved.src_tokens_BS.device.type == "cpu" else self.on_host)

    def pin_memory(self) -> Batch:
        """Return a copy in pinned memory."""
        return self.map(lambda tensor: tensor.pin_memory())

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """Return a copy with `change` applied to every tensor."""
        return replace(
            self,
            src_tokens_BS=change(self.src_tokens_BS),
            prev_tokens_BT=None if self.prev_tokens_BT is None else change(self.prev_tokens_BT),
            tgt_tokens_BT=None if self.tgt_tokens_BT is None else change(self.tgt_tokens_BT),
            src_packing=None if self.src_packing is None else self.src_packing.map(change),
            tgt_packing=None if self.tgt_packing is None else self.tgt_packing.map(change),
            extras=self.extras.map(change),
        )


@dataclass(frozen=True)
class ParallelData:
    """One or more concatenated data-bins, such as raw and distilled text; targets are None in text to be translated.

    Raises:
        UserError: if the two sides of a data-bin differ in length.
        ValueError: if there is no data-bin, or only some of the data-bins have targets.
    """

    parts: tuple[tuple[IndexedDataset, IndexedDataset | None], ...]

    def __post_init__(self) -> None:
        if len({target is None for _, target in self.parts}) != 1:
            raise ValueError("give at least one data-bin, and targets to all of them or to none")
        for source, target in self.parts:
            if target is not None and len(source) != len(target):
                raise UserError(
                    f"{source.prefix} holds {len(source)} sentences, {target.prefix} {len(target)}: not parallel"
                )

    def __len__(self) -> int:
        return len(self.src_sizes)

    @cached_property
    def src_sizes(self) -> NDArray[np.int32]:
        """Number of tokens of each source, int32 [pairs]."""
        return np.concatenate([source.sizes for source, _ in self.parts])

    @cached_property
    def tgt_sizes(self) -> NDArray[np.int32] | None:
        """Number of tokens of each target, int32 [pairs]; None without targets."""
        sizes = [target.sizes for _, target in self.parts if target is not None]
        return np.concatenate(sizes) if sizes else None

    @cached_property
    def starts(self) -> list[int]:
        """Index of the first pair of each data-bin, and the number of all pairs."""
        return np.cumsum([0, *(len(source) for source, _ in self.parts)]).tolist()

    def located(
        self, indices: NDArray[np.int64], side: int
    ) -> Iterator[tuple[NDArray[np.bool_] | None, IndexedDataset, NDArray[np.int64]]]:
        """Yield the data-bins that contain some pairs.

        Args:
            indices: indices of the pairs, int64 [pairs].
            side: 0 for the sources, 1 for the targets.

        Yields:
            The mask of the pairs that a data-bin contains, bool [pairs], or None for all of them; its sentences; and
            the indices of the pairs within it.
        """
        outside = indices[(indices < 0) | (indices >= len(self))]
        if len(outside):
            raise IndexError(f"pair {outside[0]} of {len(self)}")
        numbers = np.searchsorted(self.starts, indices, side="right") - 1
        for number, part in enumerate(self.parts):
            mask = numbers == number
            dataset = part[side]
            if dataset is not None and mask.any():
                yield None if mask.all() else mask, dataset, indices[mask] - self.starts[number]

    def __getitem__(self, index: int) -> Sentence:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        number = bisect_right(self.starts, index) - 1
        source, target = self.parts[number]
        place = index - self.starts[number]
        return source[place], None if target is None else target[place]


def open_parallel(prefixes: Sequence[tuple[Path, Path | None]]) -> ParallelData:
    """Open data-bins by the (source, target) prefixes of their files."""
    return ParallelData(
        tuple((IndexedDataset(src), None if tgt is None else IndexedDataset(tgt)) for src, tgt in prefixes)
    )


def open_split(data_bin: Path, split: str, direction: Direction) -> ParallelData:
    """Open both sides of a split of a data-bin."""
    source, target = (data_prefix(data_bin, split, direction, lang) for lang in direction.sides)
    return open_parallel([(source, target)])


def join_data(every: Sequence[ParallelData]) -> ParallelData:
    """Concatenate several data sets into one."""
    return ParallelData(tuple(part for each in every for part in each.parts))


def filter_by_size(
    src_sizes: IntArray, tgt_sizes: IntArray | None, *, max_source_tokens: int, max_target_tokens: int
) -> tuple[NDArray[np.int64], int]:
    """Return the pairs within both limits.

    Args:
        src_sizes: number of tokens of each source, integers [pairs].
        tgt_sizes: number of tokens of each target; None without targets.
        max_source_tokens, max_target_tokens: limits; 0 for no limit.

    Returns:
        Indices of the pairs, int64 ascending, and the number of pairs that are left out.
    """
    fits = np.ones(len(src_sizes), dtype=bool)
    if max_source_tokens:
        fits &= np.asarray(src_sizes) <= max_source_tokens
    if tgt_sizes is not None and max_target_tokens:
        fits &= np.asarray(tgt_sizes) <= max_target_tokens
    kept = np.flatnonzero(fits)
    return kept, len(fits) - len(kept)


def make_batches(
    src_sizes: IntArray,
    tgt_sizes: IntArray | None,
    *,
    max_tokens: int,
    max_sentences: int | None = None,
    required_batch_multiple: int = 1,
    indices: IntArray | None = None,
    seed: int | None = None,
    epoch: int = 1,
    packing: PackingShape | None = None,
) -> list[NDArray[np.int64]]:
    """Sort the pairs by length and divide them into batches.

    Pairs are sorted by their longer side and, where that is equal, by the difference of the sides, alternately in
    ascending and descending order, so that neighbours are similar in both sizes. On Multi30k with 4096 tokens, 3.1% of
    the positions are padding; sorting by source, then by target gives 6.0%. Pairs with the same two sizes are shuffled
    in each epoch, so that they are combined differently; in all other respects the batches of two epochs are the same.

    Args:
        src_sizes: number of tokens of each source, integers [pairs].
        tgt_sizes: number of tokens of each target; None without targets.
        max_tokens: maximum number of padded tokens of the longer side of a batch, B * max(S, T), as in fairseq.
        max_sentences: maximum of B.
        required_batch_multiple: a batch that ends because of a limit has a multiple of this number of sentences, unless
            it has fewer.
        indices: indices of the pairs to use (default: all).
        seed: seed for shuffling pairs with the same sizes; None keeps them in the order of `indices`.
        epoch: number of the epoch, from 1; the batches depend on (sizes, settings, seed, epoch) alone.
        packing: sizes of packed rows, which limit a batch instead of `max_sentences`. Pairs are not sorted then: packed
            rows contain no padding between sentences. The pairs need targets.

    Returns:
        Batches, without `packing` from short to long, each an int64 array [B] of indices of pairs.

    Raises:
        UserError: if a pair is longer than `max_tokens`; the message names the first such pair.
    """
    longer = _longer(src_sizes, tgt_sizes)
    order = np.arange(len(longer)) if indices is None else np.asarray(indices, dtype=np.int64)
    check_lengths(src_sizes, tgt_sizes, order, max_tokens)
    if seed is not None:
        order = np.random.default_rng([seed, epoch]).permutation(order)
    if packing is not None:
        assert tgt_sizes is not None
        ends = packed_ends(np.asarray(src_sizes)[order], np.asarray(tgt_sizes)[order], packing)
        return np.split(order, ends[:-1]) if ends else []
    difference = np.zeros_like(longer) if tgt_sizes is None else np.subtract(tgt_sizes, src_sizes, dtype=np.int64)
    # |difference| < longer, so one number can hold both sort keys; odd lengths are in descending order.
    key = longer * (2 * longer.max(initial=0) + 1) + np.where(longer % 2, -difference, difference)
    order = order[np.argsort(key[order], kind="stable")]
    ends = _batch_ends(longer[order], max_tokens, max_sentences, required_batch_multiple)
    return np.split(order, ends[:-1]) if ends else []


def epoch_order(num_batches: int, *, seed: int, epoch: int, number: int = 1) -> NDArray[np.int64]:
    """Return the order of the batches in an epoch, a permutation that depends on (seed, epoch, number) alone.

    Args:
        number: number of the sequence of orders, from 1; stages of a training with one seed have different ones.
    """
    more = [] if number == 1 else [number]
    return np.random.default_rng([seed, epoch, 1, *more]).permutation(num_batches)


def collate(
    indices: Sequence[int] | IntArray,
    data: ParallelData,
    *,
    length_multiple: int = 1,
    sides: tuple[Side, Side] | None = None,
    change: Change | None = None,
) -> Batch:
    """Return the padded batch of the pairs at these indices, in the given order.

    The decoder input is the target shifted right by one, with `</s>` at the beginning instead of the end. Both sides
    are padded to a multiple of `length_multiple`.

    Args:
        sides: sources and targets instead of those of the data.
        change: function that replaces the tokens of a side.
    """
    import torch

    index_B = np.asarray(indices, dtype=np.int64)
    src_tokens_BS, src_mask_BS = _pad_side(index_B, data, 0, length_multiple, sides, change)
    batch = Batch(
        index_B=torch.as_tensor(index_B),
        src_tokens_BS=torch.from_numpy(src_tokens_BS),
        num_src_tokens=int(src_mask_BS.sum()),
    )
    if data.tgt_sizes is None:
        return batch
    tgt_tokens_BT, tgt_mask_BT = _pad_side(index_B, data, 1, length_multiple, sides, change)
    prev_tokens_BT = np.roll(tgt_tokens_BT, 1, axis=1)
    prev_tokens_BT[:, 0] = EOS
    prev_tokens_BT[~tgt_mask_BT] = PAD
    return replace(
        batch,
        prev_tokens_BT=torch.from_numpy(prev_tokens_BT),
        tgt_tokens_BT=torch.from_numpy(tgt_tokens_BT),
        num_tgt_tokens=int(tgt_mask_BT.sum()),
    )


def _pad_side(
    indices: NDArray[np.int64],
    data: ParallelData,
    side: int,
    multiple: int,
    sides: tuple[Side, Side] | None,
    change: Change | None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the sources (side 0) or targets (side 1) of some pairs, padded as by `pad_sentences`.

    The work is done by a few operations on all tokens of the batch, during which Python's other threads go on.

    Returns:
        Tokens, int64 [B, L], and the mask of the real ones, bool [B, L].
    """
    if sides is not None or change is not None:
        joined = join_side(indices, data, side) if sides is None else sides[side]
        tokens_M, sizes_B = joined if change is None else change(joined[0], joined[1], side)
        tokens_BL, mask_BL = _empty_rows(sizes_B, multiple)
        tokens_BL[mask_BL] = tokens_M
        return tokens_BL, mask_BL
    sizes = data.src_sizes if side == 0 else data.tgt_sizes
    assert sizes is not None
    tokens_BL, mask_BL = _empty_rows(sizes[indices], multiple)
    for rows, dataset, own in data.located(indices, side):
        tokens, _ = dataset.gather(own)
        tokens_BL[mask_BL if rows is None else mask_BL & rows[:, None]] = without_padding(tokens)
    return tokens_BL, mask_BL


def _empty_rows(sizes_B: IntArray, multiple: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return rows of padding, int64 [B, L], and the mask of the places of tokens, bool [B, L]."""
    length = -(-int(sizes_B.max()) // multiple) * multiple
    mask_BL = np.arange(length) < sizes_B[:, None]
    return np.full(mask_BL.shape, PAD, dtype=np.int64), mask_BL


def collate_packed(
    indices: Sequence[int] | IntArray, data: ParallelData, shape: PackingShape, *, change: Change | None = None
) -> Batch:
    """Return the pairs at these indices packed in one row for each side, in the given order.

    Args:
        change: function that replaces the tokens of a side by as many others.

    Raises:
        ValueError: if a pair has no target, or the pairs do not fit into a row.
    """
    import torch

    if data.tgt_sizes is None:
        raise ValueError("only pairs with targets can be packed")
    index_B = np.asarray(indices, dtype=np.int64)
    joined = [join_side(index_B, data, side) for side in range(2)]
    sides = joined if change is None else [change(*each, side) for side, each in enumerate(joined)]
    (src_tokens, src_packing), (tgt_tokens, tgt_packing) = (
        pack(tokens_M.astype(np.int64, copy=False), sizes_B.astype(np.int64, copy=False), shape)
        for tokens_M, sizes_B in sides
    )
    return Batch(
        index_B=torch.from_numpy(index_B),
        src_tokens_BS=src_tokens,
        prev_tokens_BT=shift_right(tgt_tokens, tgt_packing),
        tgt_tokens_BT=tgt_tokens,
        num_tgt_tokens=tgt_packing.num_tokens,
        num_src_tokens=src_packing.num_tokens,
        src_packing=src_packing,
        tgt_packing=tgt_packing,
    )


def join_side(indices: NDArray[np.int64], data: ParallelData, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the concatenated sources (side 0) or targets (side 1) of some pairs, and the size of each."""
    sizes = data.src_sizes if side == 0 else data.tgt_sizes
    assert sizes is not None
    sizes_B = sizes[indices].astype(np.int64)
    tokens_M = np.empty(int(sizes_B.sum()), dtype=np.int64)
    for rows, dataset, own in data.located(indices, side):
        tokens, _ = dataset.gather(own)
        tokens_M[slice(None) if rows is None else np.repeat(rows, sizes_B)] = without_padding(tokens)
    return tokens_M, sizes_B


def pad_sentences(sentences: Sequence[IntArray], multiple: int = 1) -> torch.Tensor:
    """Return sentences as an int64 tensor [B, longest length rounded up to a multiple], padded on the right.

    A `<pad>` inside a sentence becomes `<unk>` (see `without_padding`), so that code that recognises padding by its id
    finds the length of the sentence.
    """
    import torch

    length = -(-max(map(len, sentences)) // multiple) * multiple
    tokens_BL = np.full((len(sentences), length), PAD, dtype=np.int64)
    num_tokens = 0
    for row, sentence in zip(tokens_BL, sentences, strict=True):
        row[: len(sentence)] = sentence
        num_tokens += len(sentence)
    if np.count_nonzero(tokens_BL == PAD) > tokens_BL.size - num_tokens:
        for row, sentence in zip(tokens_BL, sentences, strict=True):
            row[: len(sentence)] = without_padding(sentence)
    return torch.from_numpy(tokens_BL)


def check_lengths(src_sizes: IntArray, tgt_sizes: IntArray | None, indices: NDArray[np.int64], max_tokens: int) -> None:
    """Check that no pair alone exceeds the limit of a batch.

    Raises:
        UserError: if a pair is longer than `max_tokens`; the message names the first such pair.
    """
    longer = _longer(src_sizes, tgt_sizes)
    too_long = indices[longer[indices] > max_tokens]
    if len(too_long):
        index = int(too_long.min())
        raise UserError(
            f"pair {index} (from 0) has {longer[index]} tokens, more than max_tokens {max_tokens}:"
            " raise max_tokens or lower max_source_tokens and max_target_tokens"
        )


def _longer(src_sizes: IntArray, tgt_sizes: IntArray | None) -> NDArray[np.int64]:
    """Return the size of the longer side of each pair."""
    return np.asarray(src_sizes if tgt_sizes is None else np.maximum(src_sizes, tgt_sizes), dtype=np.int64)


def _batch_ends(
    longer: NDArray[np.int64], max_tokens: int, max_sentences: int | None, required_batch_multiple: int
) -> list[int]:
    """Return the end of each batch.

    Args:
        longer: size of the longer side of each pair, ascending, so that the last pair of a batch determines its width.
    """
    ends: list[int] = []
    start, count = 0, len(longer)
    while start < count:
        # B times the width grows with every pair: find the first pair that exceeds the limit by bisection.
        most = min(max_tokens // max(int(longer[start]), 1), max_sentences or count, count - start)
        widths = longer[start : start + most]
        size = int(np.searchsorted(widths * np.arange(1, most + 1), max_tokens, side="right"))
        if start + size < count and size > required_batch_multiple:
            size -= size % required_batch_multiple
        start += size
        ends.append(start)
    return ends
