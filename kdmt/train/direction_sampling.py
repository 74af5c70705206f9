"""Directions of the pairs of a training set, and their shares in an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.config import DirectionSampling
from kdmt.corpus.direction_codecs import read_directions
from kdmt.corpus.temperature import temperature_shares
from kdmt.errors import UserError
from kdmt.train.mixture import Mixture

_DIGITS = 12  # of a share, so that it does not depend on the last bits of a logarithm


@dataclass(frozen=True)
class PairDirections:
    """Direction of each pair of the training data.

    Attributes:
        names: names of the directions.
        direction_P: index in `names` of the direction of each pair, int16 [pairs].
    """

    names: tuple[str, ...]
    direction_P: NDArray[np.int16]

    @classmethod
    def read(cls, files: Iterable[Path], names: Sequence[str]) -> PairDirections:
        """Read files in which each line is the direction of a pair.

        Args:
            names: names of the directions of the pipeline.

        Raises:
            UserError: if a line is none of them.
        """
        return cls(tuple(names), read_directions(files, names))

    def counts(self, indices: NDArray[np.int64]) -> dict[str, int]:
        """Return the number of pairs of each direction among the pairs with these indices."""
        counted = np.bincount(self.direction_P[indices], minlength=len(self.names))
        return dict(zip(self.names, counted.tolist(), strict=True))

    def sizes(self, mixture: Mixture) -> dict[str, float]:
        """Return the number of pairs of each direction in an epoch of a mixture."""
        found = dict.fromkeys(self.names, 0.0)
        for own, size in zip(mixture.sets, mixture.sizes, strict=True):
            found[self.names[self.direction_P[own[0]]]] += float(size)
        return found

    def mixture(
        self,
        parts: Sequence[NDArray[np.int64]],
        settings: DirectionSampling,
        *,
        seed: int,
        shares: Sequence[float] | None = None,
    ) -> Mixture:
        """Return the sampling of the directions.

        Of several training sets with shares, the pairs of each set are distributed over its directions. An epoch then
        has as many pairs as one of the mixture without sampling, else as many as are kept.

        Args:
            parts: for each training set the indices of the pairs that are within the size limits, int64 [kept].
            shares: share of each training set; None for all pairs of all sets.

        Raises:
            UserError: if a direction has no pair.
        """
        kept = np.concatenate(parts)
        for number, name in enumerate(self.names):
            if not (self.direction_P[kept] == number).any():
                raise UserError(f"{name}: no pair is within train.max_source_tokens and train.max_target_tokens")
        if shares is None:
            sets, rounded = self._cells(kept, settings, 1.0)
            return Mixture(sets, rounded, seed=seed, total=len(kept))
        found = [self._cells(part, settings, share) for part, share in zip(parts, shares, strict=True)]
        sets, rounded = [own for sets, _ in found for own in sets], [each for _, of_set in found for each in of_set]
        return Mixture(sets, rounded, seed=seed, total=round(len(parts[0]) / shares[0]))

    def _cells(
        self, kept: NDArray[np.int64], settings: DirectionSampling, share: float
    ) -> tuple[list[NDArray[np.int64]], list[float]]:
        """Return the pairs of each direction of a training set, and the share of each in an epoch."""
        by_name = {name: kept[self.direction_P[kept] == number] for number, name in enumerate(self.names)}
        by_name = {name: own for name, own in by_name.items() if len(own)}
        weights = {name: weight for name, weight in settings.weights.items() if name in by_name}
        of_names = temperature_shares({name: len(own) for name, own in by_name.items()}, settings.temperature, weights)
        rounded = [round(share * of_names[name], _DIGITS) for name in by_name]
        if not all(rounded):
            raise UserError("train.sampling: a direction has a share of less than 1e-12: change its weight")
        return list(by_name.values()), rounded
