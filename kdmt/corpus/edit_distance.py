"""Levenshtein distance of many pairs of token sequences at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def edit_distances(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """Return the number of insertions, deletions and substitutions that turn each sequence into its counterpart.

    Args:
        first, second: sequences of tokens, in the same order.

    Returns:
        int32 [pairs].
    """
    rows_BS, columns_BT = _padded(first, fill=-1), _padded(second, fill=-2)
    lengths_B = np.array([len(each) for each in first], dtype=np.int64)
    ends_B = np.array([len(each) for each in second], dtype=np.int64)
    places_T = np.arange(columns_BT.shape[1] + 1, dtype=np.int32)
    distance_BT = np.repeat(places_T[None], len(rows_BS), axis=0)  # from an empty sequence
    found_B = distance_BT[np.arange(len(rows_BS)), ends_B]
    for row in range(rows_BS.shape[1]):
        differs_BT = rows_BS[:, row, None] != columns_BT
        next_BT = distance_BT + 1  # deletion
        next_BT[:, 1:] = np.minimum(next_BT[:, 1:], distance_BT[:, :-1] + differs_BT)
        # insertions: the minimum over all earlier columns, each one more expensive by one
        distance_BT = np.minimum.accumulate(next_BT - places_T, axis=1) + places_T
        is_last_B = lengths_B == row + 1
        found_B[is_last_B] = distance_BT[is_last_B, ends_B[is_last_B]]
    return found_B


def _padded(sequences: Sequence[Sequence[int]], *, fill: int) -> NDArray[np.int64]:
    padded_BL = np.full((len(sequences), max(map(len, sequences), default=0)), fill, dtype=np.int64)
    for row_L, sequence in zip(padded_BL, sequences, strict=True):
        row_L[: len(sequence)] = sequence
    return padded_BL
