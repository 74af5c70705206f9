"""Order of the tokens of a model in another vocabulary. This module does not load torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Logit of a token that the model does not have, minus the logit of the unknown token: its probability is at most e^-20.
_ABSENT = np.float32(-20.0)


@dataclass(frozen=True)
class SideRows:
    """For each token of a new vocabulary, its id in the vocabulary of a model.

    Attributes:
        index_V: id in the model's vocabulary, int64 [V]; -1 for a token that the model does not have. Such a token
            has the embedding of the unknown token, and is never predicted.
        unknown: id of the unknown token in the model's vocabulary.
    """

    index_V: NDArray[np.int64]
    unknown: int

    def matrix(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return a matrix with a row for each token of the new vocabulary."""
        return rows[self._known_V]

    def bias(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return an output bias for the tokens of the new vocabulary."""
        return values[self._known_V] + np.where(self.index_V < 0, _ABSENT, np.float32(0.0))

    @property
    def _known_V(self) -> NDArray[np.int64]:
        return np.where(self.index_V < 0, self.unknown, self.index_V)

    def inverse(self, unknown: int) -> SideRows:
        """Return the rows of the model's own vocabulary, all of whose tokens are in the new one.

        Args:
            unknown: id of the unknown token in the new vocabulary.
        """
        index = np.full(int(self.index_V.max()) + 1, -1, dtype=np.int64)
        known = self.index_V >= 0
        index[self.index_V[known]] = np.flatnonzero(known)
        return SideRows(index, unknown)


@dataclass(frozen=True)
class TokenRows:
    """Rows of both sides of a model."""

    source: SideRows
    target: SideRows
