"""Reranking: choice of the candidate with the highest value of a linear model over features.

Shapes: N candidates of a sentence, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kdmt.choices import FeatureName
from kdmt.config import Mbr, Rerank
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.sentence_lengths import SLACK
from kdmt.distill.mbr import ExpectedUtility
from kdmt.distill.selection import ALL, Candidate, Choice, Line, Selector
from kdmt.errors import UserError
from kdmt.interop.kenlm import KenLM

MBR: FeatureName = "mbr"
VALID = "valid"  # folder of the validation set's candidates in the stage's folder
BACKWARD: FeatureName = "backward"  # feature that is computed for all candidates before, and given like a file


def given_features(settings: Rerank, mbr: Mbr) -> tuple[str, ...]:
    """Return the names of the features that are given for all candidates, in the order of `Candidate.given`."""
    backward = [name for name in settings.features if name == BACKWARD]
    return (*settings.files, *backward, *scored_features(settings, mbr))


def scored_features(settings: Rerank, mbr: Mbr) -> dict[str, str]:
    """Return the features that external scorers compute, each with the name of the scorer."""
    own = {name: name for name in settings.scorers}
    return own if mbr.scorer is None or MBR not in settings.features else {**own, MBR: mbr.scorer}


LogProbs = Callable[[Sequence[str]], Sequence[float]]  # lines of words -> log-probability of each


@dataclass(frozen=True)
class Features:
    """The features of candidates. They can be sent to other processes.

    Attributes:
        names: names of the features that are computed from the candidates.
        given: names of the features that are given, in the order of `Candidate.given`.
        expected: expected utility.
        lenpen: exponent of the length by which scores are divided.
        typical_ratio: typical number of target characters per source character, or that of each direction by the tag
            of its lines.
        language_model: log-probabilities of lines, if there is such a feature.
    """

    names: tuple[FeatureName, ...]
    given: tuple[str, ...] = ()
    expected: ExpectedUtility = field(default_factory=ExpectedUtility)
    lenpen: float = 1.0
    typical_ratio: float | Mapping[str, float] = 1.0
    language_model: LogProbs | None = None

    @classmethod
    def of(
        cls,
        settings: Rerank,
        mbr: Mbr,
        *,
        expected: ExpectedUtility,
        lenpen: float,
        typical_ratio: float | Mapping[str, float],
        corpus: Path,
    ) -> Features:
        """Return the features that the section `distill.rerank` describes.

        Args:
            mbr: section `distill.mbr`.
            expected: expected utility, unless an external scorer computes it.
            corpus: folder of the prepared corpus, whose pieces the language model has.
        """
        path, given = settings.language_model, given_features(settings, mbr)
        return cls(
            tuple(cast("FeatureName", name) for name in settings.features if name not in given),
            given,
            replace(expected, prune=0),  # every candidate needs a value
            lenpen,
            typical_ratio,
            None if path is None else partial(_piece_log_probs, Path(path), corpus),
        )

    @property
    def all_names(self) -> tuple[str, ...]:
        """Return the names in the order of the values."""
        return (*self.names, *self.given)

    def __call__(self, candidates: Sequence[Candidate], line: Line) -> NDArray[np.float64]:
        """Return the features of each candidate [N, F].

        Raises:
            UserError: if a value is infinite, which a linear model cannot use.
        """
        values_NF = np.empty((len(candidates), len(self.all_names)))
        for column, name in enumerate(self.names):
            values_NF[:, column] = FEATURES[name](self, candidates, line)
        values_NF[:, len(self.names) :] = [candidate.given for candidate in candidates]
        infinite = np.flatnonzero(~np.isfinite(values_NF).all(axis=0))
        if len(infinite):
            raise UserError(f"the feature {self.all_names[infinite[0]]!r} of a candidate is not a finite number")
        return values_NF


def _scores(_: Features, candidates: Sequence[Candidate], __: Line) -> list[float]:
    return _without_gaps([each.score for each in candidates])


def _log_probs(features: Features, candidates: Sequence[Candidate], _: Line) -> list[float]:
    return _without_gaps([each.score * each.length**features.lenpen for each in candidates])


def _without_gaps(scores: Sequence[float]) -> list[float]:
    """Return scores in which the candidates of other systems, whose scores are NaN, have the lowest of the teacher's.

    If the teacher has none, all scores are 0.
    """
    lowest = min((score for score in scores if not math.isnan(score)), default=0.0)
    return [lowest if math.isnan(score) else score for score in scores]


def _lengths(_: Features, candidates: Sequence[Candidate], __: Line) -> list[float]:
    return [float(each.length) for each in candidates]


def _ratios(features: Features, candidates: Sequence[Candidate], line: Line) -> list[float]:
    ratio = features.typical_ratio
    ratio = ratio[line.tag] if isinstance(ratio, Mapping) else ratio
    typical = math.log(len(line.source) * ratio + SLACK)
    return [abs(math.log(len(each.words) + SLACK) - typical) for each in candidates]


def _draws(_: Features, candidates: Sequence[Candidate], __: Line) -> list[float]:
    return [math.log1p(each.count) for each in candidates]


def _utilities(features: Features, candidates: Sequence[Candidate], _: Line) -> NDArray[np.float64]:
    return features.expected(candidates)


def _fluencies(features: Features, candidates: Sequence[Candidate], _: Line) -> Sequence[float]:
    assert features.language_model is not None
    return features.language_model([each.words for each in candidates])


# name in `distill.rerank.features` -> values of the candidates
FEATURES: dict[FeatureName, Callable[[Features, Sequence[Candidate], Line], Sequence[float] | NDArray[np.float64]]] = {
    "score": _scores,
    "log_prob": _log_probs,
    "length": _lengths,
    "ratio": _ratios,
    "count": _draws,
    "mbr": _utilities,
    "language_model": _fluencies,
}


def _piece_log_probs(path: Path, corpus: Path, lines: Sequence[str]) -> list[float]:
    """Return the natural log-probability of each line under a KenLM model of pieces, with </s>."""
    codec, model = _open_language_model(path, corpus)
    found = []
    for tokens in codec.encode_target(lines):
        state, log_prob = model.start(), 0.0
        for token in tokens.tolist()[:-1]:
            state, piece = model.extend(state, token)
            log_prob += piece
        found.append(log_prob + model.end(state))
    return found


@lru_cache(maxsize=1)
def _open_language_model(path: Path, corpus: Path) -> tuple[TextCodec, KenLM]:
    codec = TextCodec.load(corpus)
    return codec, KenLM(path, codec.tgt_dictionary.symbols)


def by_linear_model(features: Features, weights: Mapping[str, float]) -> Selector:
    """Return the rule that chooses the first candidate with the highest weighted sum of features.

    Args:
        weights: weight of each feature by its name.
    """
    weights_F = np.array([weights[name] for name in features.all_names])
    return Selector(
        depth=ALL,
        choose=partial(_highest_value, features=features, weights_F=weights_F),
        reason="highest value of the linear model",
        columns=("value", *features.all_names),
    )


def _highest_value(
    candidates: Sequence[Candidate], line: Line, *, features: Features, weights_F: NDArray[np.float64]
) -> list[Choice]:
    values_NF = features(candidates, line)
    value_N = values_NF @ weights_F
    best = int(np.argmax(value_N))
    return [Choice(best, values=(float(value_N[best]), *values_NF[best].tolist()))]
