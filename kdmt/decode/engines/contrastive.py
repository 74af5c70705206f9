"""Contrastive tests of a translator: which targets have the largest log-probability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from kdmt.decode.engines.translator import Translator
from kdmt.score.contrastive import ContrastivePair, ContrastiveResult, compare_scores

_SCORED_AT_ONCE = 512  # number of targets between two calls of `progress`


def contrast(
    translator: Translator, pairs: Sequence[ContrastivePair], *, progress: Callable[[int, int], None] | None = None
) -> ContrastiveResult:
    """Return the result of a contrastive test.

    A model without context scores the sources alone. A pair of which a target is too long for the model has no margin.

    Args:
        translator: translator whose engine scores given targets.
        pairs: contrastive pairs, at least one.
        progress: called with the number of targets that are scored and the number of all targets.
    """
    sources = [translator.with_context(pair.source, pair.context) for pair in pairs for _ in pair.targets]
    targets = [target for pair in pairs for target in pair.targets]
    scores: list[float] = []
    for start in range(0, len(targets), _SCORED_AT_ONCE):
        stop = start + _SCORED_AT_ONCE
        for log_probs in translator.score(sources[start:stop], targets[start:stop]):
            scores.append(math.fsum(log_probs) if log_probs else math.nan)
        if progress is not None:
            progress(len(scores), len(targets))
    return compare_scores(pairs, scores)
