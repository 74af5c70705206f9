"""Choice of the tokens that stay in a vocabulary that is cut to some text.

Shapes: V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdmt.errors import UserError


@dataclass(frozen=True)
class TokenLimits:
    """How many tokens of the text stay.

    Attributes:
        min_count: minimum number of occurrences of a token in the text.
        size: number of tokens of the new vocabulary at most; None for no limit.
    """

    min_count: int = 1
    size: int | None = None


def extreme_pieces(scores: Mapping[str, float]) -> set[str]:
    """Return the pieces of a unigram model with the lowest and the highest score, none if there are no pieces.

    SentencePiece gives unknown characters the lowest score minus 10, and user-defined symbols a score that depends on
    the highest one. With both, a model that is cut segments text with such characters as before.
    """
    return {min(scores, key=scores.__getitem__), max(scores, key=scores.__getitem__)} if scores else set()


def choose_tokens(
    counts_V: NDArray[np.int64],
    required: Collection[int],
    limits: TokenLimits,
    parts_of: Callable[[int], Collection[int]],
) -> NDArray[np.int64]:
    """Return the ids of the tokens that stay, in ascending order.

    The most frequent tokens stay; of tokens with the same count, those with lower ids. With `limits.size`, the choice
    ends at the first token for which there is no room.

    Args:
        counts_V: number of occurrences of each token in the text.
        required: tokens that stay in any case.
        limits: minimum count and maximum size.
        parts_of: function that returns the ids of further tokens that a token needs (`kdmt.corpus.bpe_parts`).

    Raises:
        UserError: if the required tokens are more than `limits.size`, or no token of the text stays by its count.
    """
    kept = {token for each in required for token in (each, *parts_of(each))}
    size = len(counts_V) if limits.size is None else limits.size
    if len(kept) > size:
        raise UserError(
            f"--vocab-size {size}: {len(kept)} tokens stay in any case: special tokens, languages, single characters "
            "and --keep-tokens"
        )
    by_count = np.argsort(-counts_V, kind="stable")
    frequent = by_count[counts_V[by_count] >= max(limits.min_count, 1)].tolist()
    if not frequent:
        raise UserError(
            f"--min-count {limits.min_count}: no token of the text stays: the most frequent one occurs "
            f"{int(counts_V.max(initial=0)):,} times"
        )
    for token in frequent:
        more = {token, *parts_of(token)} - kept
        if len(kept) + len(more) > size:
            break
        kept |= more
    return np.array(sorted(kept), dtype=np.int64)
