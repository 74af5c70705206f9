"""The protocol of decoding engines, and what their implementations share. Nothing here loads torch.

S is a source's length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from kdmt.config import Decode, NATDecode
from kdmt.errors import UserError
from kdmt.types import EOS, Hypothesis


@dataclass(frozen=True)
class EngineOptions:
    """Options for opening a folder with an engine. An engine ignores those that it does not have.

    Attributes:
        device: cpu, cuda or cuda:<n>.
        threads: CPU threads, of engines that do not take PyTorch's.
        search: how non-autoregressive models decode.
        iterations: decoder passes of a non-autoregressive model, at most.
        rescorer: a checkpoint of an autoregressive model that chooses among candidates, where `search.rescore` is set.
    """

    device: str = "cpu"
    threads: int = 1
    search: NATDecode = field(default_factory=NATDecode)
    iterations: int = 10
    rescorer: Path | None = None


class Engine(Protocol):
    """A model that translates token ids."""

    @property
    def max_source_positions(self) -> int:
        """Most tokens of a source, </s> included."""
        ...

    def decode(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """Translate `sources` (int [S] each, ending in </s>).

        Args:
            progress: called after each batch with the number of sentences in it.

        Returns:
            For each source, in order, its `settings.nbest` hypotheses, best first.

        Raises:
            UserError: a source is longer than the model can read; names its index.
        """
        ...


@runtime_checkable
class RefiningEngine(Engine, Protocol):
    """A non-autoregressive model, which decodes in a number of passes and not with a beam."""

    @property
    def refines(self) -> bool:
        """Whether more than one pass changes the output."""
        ...

    def with_iterations(self, iterations: int) -> Engine:
        """Return the same model with another maximum number of passes."""
        ...


@runtime_checkable
class ScoringEngine(Engine, Protocol):
    """An engine with forced decoding."""

    @property
    def max_target_positions(self) -> int:
        """Most tokens of a target, </s> included."""
        ...

    def score_pairs(
        self,
        sources: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        *,
        max_tokens: int = 4096,
        batch_size: int = 256,
    ) -> list[np.ndarray]:
        """Return the natural log-probability of each target token, given the source and the tokens before it.

        Args:
            sources, targets: int [S] and int [T], line by line, both ending in </s>.
            max_tokens: padded tokens of the longer side in a batch.
            batch_size: pairs in a batch.

        Returns:
            For each pair, in order, floats [T].

        Raises:
            ValueError: there are not as many targets as sources.
            UserError: a side is longer than the model's positions; names its index.
        """
        ...


def length_batches(lengths: Sequence[int], *, max_tokens: int, batch_size: int) -> Iterator[list[int]]:
    """Yield batches of indices of similar length, longest first, equal lengths in their order.

    A batch holds at most `batch_size` sentences and `max_tokens` padded tokens; a sentence longer than that is a
    batch of its own.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * lengths[batch[0]] > max_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def check_sentences(sentences: Sequence[np.ndarray], limit: int, side: str) -> None:
    """Refuse sentences that an engine cannot read.

    Args:
        sentences: int [S] each.
        limit: most tokens, </s> included.
        side: their name in messages.

    Raises:
        ValueError: one does not end in </s>.
        UserError: one is longer than the limit; names its index.
    """
    for index, tokens in enumerate(sentences):
        if not len(tokens) or tokens[-1] != EOS:
            raise ValueError(f"{side} {index} does not end in </s>")
        if len(tokens) > limit:
            raise UserError(f"{side} {index} has {len(tokens)} tokens with </s>; the model's limit is {limit}")
