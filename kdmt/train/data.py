"""Micro-batches of a data-bin for the loop and for validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kdmt.config import Train
from kdmt.corpus.batching import ParallelData, collate, epoch_order, filter_by_size, make_batches
from kdmt.corpus.knowledge import KnowledgeSource
from kdmt.errors import UserError
from kdmt.types import Batch

_COMPILED_MULTIPLE = 8  # compiled programs meet few different lengths


class BinarizedData:
    """Length-sorted max-tokens batches; which, and their order, is a function of (seed, epoch) alone.

    `num_left_out` counts the pairs over the size limits. With `knowledge` a batch brings what the teacher said of its
    target tokens.
    """

    def __init__(
        self, data: ParallelData, settings: Train, *, seed: int, knowledge: KnowledgeSource | None = None
    ) -> None:
        self.data, self.settings, self.seed, self.knowledge = data, settings, seed, knowledge
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
        batch = collate(indices, self.data, length_multiple=_COMPILED_MULTIPLE if self.settings.compile else 1)
        return batch if self.knowledge is None else replace(batch, knowledge=self.knowledge.load(indices))
