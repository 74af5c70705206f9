"""Directions of the pairs of a training set, and their shares in an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.config import DirectionSampling
from kdmt.corpus.direction_codecs import read_directions
from kdmt.corpus.temperature import temperature_shares
from kdmt.errors import UserError
from kdmt.objectives.annealing import piecewise_linear
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

    def usable(self, max_pairs: Mapping[str, int], starts: Sequence[int]) -> NDArray[np.bool_]:
        """Return whether each pair may be used if directions have a maximum number of pairs, bool [pairs].

        The pairs of a direction are chosen at random. The choice depends on the number of its pairs alone, so that two
        training sets with the same pairs keep the same ones.

        Args:
            max_pairs: name of a direction -> maximum number of its pairs in each training set.
            starts: index of the first pair of each training set, and the number of all pairs.
        """
        usable_P = np.ones(len(self.direction_P), dtype=bool)
        for first, last in pairwise(starts):
            for name, limit in max_pairs.items():
                own = first + np.flatnonzero(self.direction_P[first:last] == self.names.index(name))
                usable_P[np.random.default_rng(0).permutation(own)[limit:]] = False
        return usable_P

    def counts(self, indices: NDArray[np.int64]) -> dict[str, int]:
        """Return the number of pairs of each direction among the pairs with these indices."""
        counted = np.bincount(self.direction_P[indices], minlength=len(self.names))
        return dict(zip(self.names, counted.tolist(), strict=True))

    def sizes(self, mixture: Mixture, epoch: int = 1) -> dict[str, float]:
        """Return the number of pairs of each direction in an epoch of a mixture."""
        found = dict.fromkeys(self.names, 0.0)
        for own, size in zip(mixture.sets, mixture.sizes(epoch), strict=True):
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
        cells = [self._by_name(part) for part in parts]

        def shares_at(epoch: int) -> list[float]:
            temperature = _temperature(settings, epoch)
            with_shares = zip(cells, [1.0] if shares is None else shares, strict=True)
            return [each for own, share in with_shares for each in _shares(own, settings, temperature, share)]

        for epoch, _ in settings.temperature_schedule or [(1, settings.temperature)]:
            shares_at(epoch)  # the smallest shares are those at a point
        total = len(kept) if shares is None else round(len(parts[0]) / shares[0])
        return Mixture([own for cell in cells for own in cell.values()], shares_at, seed=seed, total=total)

    def _by_name(self, kept: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Return the pairs of each direction of a training set, without directions that have none."""
        found = {name: kept[self.direction_P[kept] == number] for number, name in enumerate(self.names)}
        return {name: own for name, own in found.items() if len(own)}


def _temperature(settings: DirectionSampling, epoch: int) -> float:
    if settings.temperature_schedule is None:
        return settings.temperature
    return piecewise_linear(epoch, settings.temperature_schedule)


def _shares(
    by_name: Mapping[str, NDArray[np.int64]], settings: DirectionSampling, temperature: float, share: float
) -> list[float]:
    """Return the share in an epoch of each direction of a training set, which has a share itself."""
    weights = {name: weight for name, weight in settings.weights.items() if name in by_name}
    of_names = temperature_shares({name: len(own) for name, own in by_name.items()}, temperature, weights)
    rounded = [round(share * of_names[name], _DIGITS) for name in by_name]
    if not all(rounded):
        raise UserError("train.sampling: a direction has a share of less than 1e-12: change its weight")
    return rounded
