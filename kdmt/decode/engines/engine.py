"""What decoding engines have in common: sources in, hypotheses out, in the order of the input.

Nothing here imports torch: a process that decodes with another toolkit stays small. S is a source's length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from kdmt.config import Decode
from kdmt.errors import UserError
from kdmt.types import EOS, Hypothesis


class Engine(Protocol):
    """Anything that translates token ids."""

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


def length_batches(lengths: Sequence[int], *, max_tokens: int, batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, equal lengths in their order.

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
        limit: most tokens, </s> counted.
        side: what the message calls them.

    Raises:
        ValueError: one does not end in </s>.
        UserError: one is longer than the limit; names its index.
    """
    for index, tokens in enumerate(sentences):
        if not len(tokens) or tokens[-1] != EOS:
            raise ValueError(f"{side} {index} does not end in </s>")
        if len(tokens) > limit:
            raise UserError(f"{side} {index} has {len(tokens)} tokens with </s>; the model's limit is {limit}")
