"""Micro-batches of a data-bin for the loop and for validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from kdmt.config import Train
from kdmt.corpus.batching import ParallelData, collate, epoch_order, filter_by_size, make_batches
from kdmt.corpus.knowledge_cache import KnowledgeSource
from kdmt.errors import UserError
from kdmt.types import Batch

_COMPILED_MULTIPLE = 8  # compiled programs meet few different lengths


class BinarizedData:
    """Length-sorted max-tokens batches; which, and their order, is a function of (seed, epoch) alone.

    `num_left_out` counts the pairs over the size limits. With `knowledge` a batch brings what the teacher said of its
    target tokens, with `monolingual` sources without targets, with `weights` (float32 [pairs]) what each pair counts.
    """

    def __init__(
        self,
        data: ParallelData,
        settings: Train,
        *,
        seed: int,
        knowledge: KnowledgeSource | None = None,
        monolingual: MonolingualText | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        self.data, self.settings, self.seed, self.knowledge = data, settings, seed, knowledge
        self.monolingual, self.weights = monolingual, weights
        self.kept, self.num_left_out = filter_by_size(
            data.src_sizes,
            data.tgt_sizes,
            max_source_tokens=settings.max_source_tokens,
            max_target_tokens=settings.max_target_tokens,
        )
        if not len(self.kept):
            raise UserError("no pair is within train.max_source_tokens and train.max_target_tokens")

    def epoch(self, epoch: int) -> Sequence[np.ndarray]:
        batches = self.batches(epoch)
        return [batches[position] for position in epoch_order(len(batches), seed=self.seed, epoch=epoch)]

    def batches(self, epoch: int = 0) -> list[np.ndarray]:
        """The epoch's batches from the shortest to the longest."""
        return make_batches(
            self.data.src_sizes,
            self.data.tgt_sizes,
            indices=self.kept,
            max_tokens=self.settings.max_tokens,
            seed=self.seed,
            epoch=epoch,
        )

    def load(self, indices: np.ndarray) -> Batch:
        batch = collate(indices, self.data, length_multiple=_length_multiple(self.settings))
        if self.knowledge is not None:
            batch = replace(batch, knowledge=self.knowledge.load(indices))
        if self.monolingual is not None:
            batch = replace(batch, monolingual_BS=self.monolingual.beside(indices))
        if self.weights is not None:
            batch = self._weighted(batch, self.weights[indices], indices)
        return batch

    def _weighted(self, batch: Batch, weights: np.ndarray, indices: np.ndarray) -> Batch:
        assert self.data.tgt_sizes is not None
        weighted_tokens = float(weights.astype(np.float64) @ self.data.tgt_sizes[indices])
        return replace(batch, weight_B=torch.from_numpy(weights), weighted_tokens=weighted_tokens)


class MonolingualText:
    """Sources without targets, a batch of them for each batch of pairs; those over the size limit are left out.

    Raises:
        UserError: all are over it.
    """

    def __init__(self, data: ParallelData, settings: Train, *, seed: int) -> None:
        self.data, self.settings, self.seed = data, settings, seed
        kept, _ = filter_by_size(
            data.src_sizes, None, max_source_tokens=settings.max_source_tokens, max_target_tokens=1
        )
        if not len(kept):
            raise UserError("no line of prepare.monolingual is within train.max_source_tokens")
        self.batches = make_batches(data.src_sizes, None, indices=kept, max_tokens=settings.max_tokens, seed=seed)

    def beside(self, indices: np.ndarray) -> torch.Tensor:
        """The text that goes with a batch of pairs, int64 [B, S]: drawn as a function of (seed, indices)."""
        place = np.random.default_rng([self.seed, *indices.tolist()]).integers(len(self.batches))
        return collate(self.batches[place], self.data, length_multiple=_length_multiple(self.settings)).src_tokens_BS


def _length_multiple(settings: Train) -> int:
    return _COMPILED_MULTIPLE if settings.compile else 1
