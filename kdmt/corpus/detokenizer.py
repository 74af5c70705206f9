"""Fast conversion of the ids of many lines to text.

A subword model gives the text of each symbol at the edge of a line and inside it (`Surfaces`), and the text of a line
is their concatenation. Lines with a symbol whose text depends on other symbols are decoded by the model.

Shape legend: N lines, M tokens of all lines, V symbols.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.subword_model import SubwordModel, on_one_line
from kdmt.types import EOS, UNK

_END = "\n"


class Detokenizer:
    """Converts ids of a dictionary to text; symbols that are added to the dictionary later are decoded as `<unk>`.

    Args:
        model: subword model that joins the symbols.
        symbols: symbols of the dictionary [V].
        left_out: ids without text, besides those of `<s>`, `<pad>` and `</s>`.
    """

    def __init__(self, model: SubwordModel, symbols: Sequence[str], *, left_out: Collection[int] = ()) -> None:
        surfaces = model.surfaces(symbols)
        by_place = [*surfaces.inner, *surfaces.edge]  # a symbol at the edge has the index id + V
        self._model = model
        self._symbols = list(symbols)
        self._left_out = list(left_out)
        self._edge_at = surfaces.edge_at
        is_hard = [text is None or on_one_line(text) != text for text in by_place]
        self._is_hard = np.array(is_hard)
        self._texts = ["" if hard else text or "" for hard, text in zip(is_hard, by_place, strict=True)] + [_END]

    def decode(self, tokens: NDArray[np.integer[Any]], sizes: NDArray[np.integer[Any]]) -> list[str]:
        """Return the text of each line [N], equal to `model.decode` of its symbols joined by spaces.

        Args:
            tokens: concatenated ids [M], not negative; `<s>`, `<pad>` and `</s>` are ignored, ids beyond the last
                symbol are decoded as `<unk>`.
            sizes: number of tokens of each line [N].

        Raises:
            ValueError: if the number of tokens is not the sum of the sizes.
        """
        ids_M, ends_N = self._kept(np.asarray(tokens), np.asarray(sizes))
        by_place_M = self._by_place(ids_M, ends_N)
        # the end of line i comes after its last token and after the ends of i other lines
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
        """Return the ids without special symbols, and the end of each line among them [N]."""
        ends_N = np.cumsum(sizes, dtype=np.int64)
        if len(tokens) != (ends_N[-1] if len(ends_N) else 0):
            raise ValueError(f"{len(tokens)} tokens in lines of {sizes.sum()}")
        ids = np.where(tokens < len(self._symbols), tokens, UNK).astype(np.int64)
        special = ids <= EOS
        if self._left_out:
            special |= np.isin(ids, self._left_out)
        if not special.any():
            return ids, ends_N
        num_special_before = np.concatenate([[0], np.cumsum(special)])
        return ids[~special], ends_N - num_special_before[ends_N]

    def _by_place(self, ids_M: NDArray[np.int64], ends_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return each id, with V added at the edge of a line [M]."""
        starts_N = np.concatenate([[0], ends_N[:-1]]).astype(np.int64)
        edges = (starts_N if self._edge_at == "first" else ends_N - 1)[starts_N < ends_N]
        by_place_M = ids_M.copy()
        by_place_M[edges] += len(self._symbols)
        return by_place_M
