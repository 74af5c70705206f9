"""Directions of the pairs of a training set, and their shares in an epoch."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.config import DirectionSampling
from kdmt.corpus.lines import iterate_lines
from kdmt.corpus.temperature import temperature_shares
from kdmt.errors import UserError
from kdmt.train.mixture import Mixture

_DIGITS = 12  # of a share, so that it does not depend on the last bits of a logarithm


@dataclass(frozen=True)
class PairDirections:
    """Direction of each pair of the training data.

    Attributes:
        names: names of the directions.
        number_P: index in `names` of the direction of each pair, int16 [pairs].
    """

    names: tuple[str, ...]
    number_P: NDArray[np.int16]

    @classmethod
    def read(cls, files: Iterable[Path], names: Sequence[str]) -> PairDirections:
        """Read files in which each line is the direction of a pair.

        Args:
            names: names of the directions of the pipeline.

        Raises:
            UserError: if a line is none of them.
        """
        known = {name: number for number, name in enumerate(names)}
        numbers = array("h")
        for path in files:
            for line, name in enumerate(iterate_lines(path), start=1):
                if name not in known:
                    raise UserError(f"{path}:{line}: {name[:80]!r} is none of the directions {', '.join(names)}")
                numbers.append(known[name])
        return cls(tuple(names), np.array(numbers, dtype=np.int16))

    def counts(self, indices: NDArray[np.int64]) -> dict[str, int]:
        """Return the number of pairs of each direction among the pairs with these indices."""
        counted = np.bincount(self.number_P[indices], minlength=len(self.names))
        return dict(zip(self.names, counted.tolist(), strict=True))

    def mixture(self, kept: NDArray[np.int64], settings: DirectionSampling, *, seed: int) -> Mixture:
        """Return the sampling of the directions: an epoch has as many pairs as are kept.

        Args:
            kept: indices of the pairs that are within the size limits, int64 [kept].

        Raises:
            UserError: if a direction has no pair.
        """
        sets = [kept[self.number_P[kept] == number] for number in range(len(self.names))]
        for name, own in zip(self.names, sets, strict=True):
            if not len(own):
                raise UserError(f"{name}: no pair is within train.max_source_tokens and train.max_target_tokens")
        sizes = {name: len(own) for name, own in zip(self.names, sets, strict=True)}
        shares = temperature_shares(sizes, settings.temperature, settings.weights)
        rounded = [round(shares[name], _DIGITS) for name in self.names]
        if not all(rounded):
            raise UserError("train.sampling: a direction has a share of less than 1e-12: change its weight")
        return Mixture(sets, rounded, seed=seed, total=len(kept))
