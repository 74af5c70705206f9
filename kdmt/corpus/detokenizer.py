"""Ids to text, many lines at once. Shape legend: N lines, M tokens of all of them, V symbols.

A subword model says what each symbol adds to a line, at its edge and inside; then a line's text is these joined. Lines
with a symbol of which it cannot say so (`Surfaces`) are left to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.tokenizer import SubwordModel
from kdmt.types import EOS, UNK

_END = "\n"


class Detokenizer:
    """Joins the symbols of a dictionary. It is made for the symbols that there are: later ones read `<unk>`."""

    def __init__(self, model: SubwordModel, symbols: Sequence[str]) -> None:
        surfaces = model.surfaces(symbols)
        by_place = [*surfaces.inner, *surfaces.edge]  # a symbol at the edge goes by its id + V
        self._model = model
        self._symbols = list(symbols)
        self._edge_at = surfaces.edge_at
        self._is_hard = np.array([text is None or _END in text for text in by_place])
        self._texts = [text or "" for text in by_place] + [_END]

    def decode(self, tokens: NDArray[np.integer[Any]], sizes: NDArray[np.integer[Any]]) -> list[str]:
        """Text of each line [N]: `model.decode` of the symbols between spaces.

        Args:
            tokens: ids from 0 on, back to back [M]; `<s>`, `<pad>` and `</s>` mean nothing, those beyond the last
                symbol are `<unk>`.
            sizes: tokens of each line [N].

        Raises:
            ValueError: there are not as many tokens as the sizes say.
        """
        ids_M, ends_N = self._kept(np.asarray(tokens), np.asarray(sizes))
        by_place_M = self._by_place(ids_M, ends_N)
        # the end of line i stands after its last token, behind i others
        in_order = np.full(len(ids_M) + len(ends_N), len(self._texts) - 1)
        is_token = np.ones(len(in_order), dtype=bool)
        is_token[ends_N + np.arange(len(ends_N))] = False
        in_order[is_token] = by_place_M
        lines = "".join(map(self._texts.__getitem__, in_order.tolist())).split(_END)[:-1]
        hard = np.searchsorted(ends_N, np.flatnonzero(self._is_hard[by_place_M]), side="right")
        for i in np.unique(hard).tolist():
            own = ids_M[ends_N[i - 1] if i else 0 : ends_N[i]].tolist()
            lines[i] = self._model.decode(" ".join(map(self._symbols.__getitem__, own)))
        return lines

    def _kept(
        self, tokens: NDArray[np.integer[Any]], sizes: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ids that mean something, and where each line then ends [N]."""
        ends_N = np.cumsum(sizes, dtype=np.int64)
        if len(tokens) != (ends_N[-1] if len(ends_N) else 0):
            raise ValueError(f"{len(tokens)} tokens in lines of {sizes.sum()}")
        ids = np.where(tokens < len(self._symbols), tokens, UNK).astype(np.int64)
        special = ids <= EOS
        if not special.any():
            return ids, ends_N
        num_special_before = np.concatenate([[0], np.cumsum(special)])
        return ids[~special], ends_N - num_special_before[ends_N]

    def _by_place(self, ids_M: NDArray[np.int64], ends_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Each id, with V added to those at the edge of a line [M]."""
        starts_N = np.concatenate([[0], ends_N[:-1]]).astype(np.int64)
        edges = (starts_N if self._edge_at == "first" else ends_N - 1)[starts_N < ends_N]
        by_place_M = ids_M.copy()
        by_place_M[edges] += len(self._symbols)
        return by_place_M
