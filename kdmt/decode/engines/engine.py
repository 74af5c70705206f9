"""Protocols of decoding engines, and functions that their implementations share. Loading this does not load PyTorch.

Shapes: S source length, T target length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from kdmt.config import Decode, NATDecode
from kdmt.errors import UserError
from kdmt.types import EOS, Hypothesis

WHY_NAN = "are weights NaN, infinite or far too large?"  # end of messages about scores that are NaN
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class EngineOptions:
    """Options for opening a folder with an engine. An engine ignores options that it does not support.

    Attributes:
        device: cpu, cuda or cuda:<n>.
        threads: number of CPU threads, for engines that do not use PyTorch's.
        search: settings for decoding with non-autoregressive models.
        iterations: maximum number of decoder passes of a non-autoregressive model.
        precision: number type of matrix products of PyTorch's engines; see `kdmt.decode.engines.precision`.
        rescorer: checkpoint of an autoregressive model that chooses among candidates if `search.rescore` is set.
    """

    device: str = "cpu"
    threads: int = 1
    search: NATDecode = field(default_factory=NATDecode)
    iterations: int = 10
    rescorer: Path | None = None
    precision: Literal["auto", "float32"] = "float32"


class Engine(Protocol):
    """A model that translates token ids."""

    @property
    def max_source_positions(self) -> int:
        """Maximum number of source tokens, </s> included."""
        ...

    def decode(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """Translate `sources` (int [S] each, ending in </s>).

        Args:
            progress: function called after each batch with the number of sentences in it.

        Returns:
            For each source, in order, its `settings.nbest` hypotheses, best first.

        Raises:
            UserError: if a source is longer than the model can read; the message has its index.
        """
        ...


@runtime_checkable
class RefiningEngine(Engine, Protocol):
    """A non-autoregressive model, which decodes in a number of passes and not with a beam."""

    @property
    def refines(self) -> bool:
        """Return whether more than one pass changes the output."""
        ...

    def with_iterations(self, iterations: int) -> Engine:
        """Return the same model with another maximum number of passes."""
        ...


@runtime_checkable
class ScoringEngine(Engine, Protocol):
    """An engine with forced decoding."""

    @property
    def max_target_positions(self) -> int:
        """Maximum number of target tokens, </s> included."""
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
            sources, targets: sentence pairs in the same order, int [S] and int [T], both ending in </s>.
            max_tokens: maximum number of padded tokens of the longer side in a batch.
            batch_size: maximum number of sentence pairs in a batch.

        Returns:
            For each pair, in order, floats [T].

        Raises:
            ValueError: if the numbers of sources and targets differ.
            UserError: if a source or target is longer than the model's positions; the message has its index.
        """
        ...


def length_batches(lengths: Sequence[int], *, max_tokens: int, batch_size: int) -> Iterator[list[int]]:
    """Yield batches of indices of sentences of similar length, longest first, equal lengths in their order.

    A batch holds at most `batch_size` sentences and `max_tokens` padded tokens; a sentence longer than that forms a
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


def compute_in_batches(
    lengths: Sequence[int],
    compute: Callable[[list[int]], Iterable[_Result]],
    *,
    max_tokens: int,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> list[_Result]:
    """Return one result for each sentence, in order, computed in the batches of `length_batches`.

    The longest sentences go first, so that a lack of memory shows early.

    Args:
        lengths: length of each sentence.
        compute: function that takes the indices of a batch and returns their results.
        progress: function called after each batch with the number of sentences in it.
    """
    results: dict[int, _Result] = {}
    for batch in length_batches(lengths, max_tokens=max_tokens, batch_size=batch_size):
        results.update(zip(batch, compute(batch), strict=True))
        if progress is not None:
            progress(len(batch))
    return [results[index] for index in range(len(lengths))]


def score_in_batches(
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    score: Callable[[list[np.ndarray], list[np.ndarray]], Iterable[np.ndarray]],
    *,
    max_tokens: int,
    batch_size: int,
) -> list[np.ndarray]:
    """Return the log-probabilities of each target's tokens. See `ScoringEngine.score_pairs`.

    Args:
        score: function that takes the sources and targets of a batch and returns an array for each pair, whose first
            numbers are the log-probabilities of the target's tokens; the numbers after them, for padding, are dropped.

    Raises:
        UserError: if a log-probability is NaN.
    """

    def compute(batch: list[int]) -> Iterator[np.ndarray]:
        found = score([sources[index] for index in batch], [targets[index] for index in batch])
        for index, log_probs_T in zip(batch, found, strict=True):
            own_T = log_probs_T[: len(targets[index])].copy()
            if np.isnan(own_T).any():
                raise UserError(f"the model cannot score: the score of pair {index} is NaN: {WHY_NAN}")
            yield own_T

    lengths = [max(len(source), len(target)) for source, target in zip(sources, targets, strict=True)]
    return compute_in_batches(lengths, compute, max_tokens=max_tokens, batch_size=batch_size)


def limits_for_rows(settings: Decode, rows: int) -> Decode:
    """Return settings whose batches have fewer sources, so that `rows` rows for each source keep within the limits."""
    limits = {name: max(1, getattr(settings, name) // rows) for name in ("max_tokens", "batch_size")}
    return settings.model_copy(update=limits)


def check_pairs(
    sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], source_limit: int, target_limit: int
) -> None:
    """Check that an engine can score sentence pairs. See `check_sentences`.

    Raises:
        ValueError: also if the numbers of sources and targets differ.
    """
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources and {len(targets)} targets")
    check_sentences(sources, source_limit, "source")
    check_sentences(targets, target_limit, "target")


def check_sentences(sentences: Sequence[np.ndarray], limit: int, side: str) -> None:
    """Check that an engine can read sentences.

    Args:
        sentences: int [S] each.
        limit: maximum number of tokens, </s> included.
        side: name of the sentences in messages, such as "source".

    Raises:
        ValueError: if a sentence does not end in </s>.
        UserError: if a sentence is longer than the limit; the message has its index.
    """
    for index, tokens in enumerate(sentences):
        if not len(tokens) or tokens[-1] != EOS:
            raise ValueError(f"{side} {index} does not end in </s>")
        if len(tokens) > limit:
            raise UserError(f"{side} {index} has {len(tokens)} tokens with </s>; the model's limit is {limit}")
