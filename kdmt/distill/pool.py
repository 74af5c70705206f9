"""Pools of candidates: for each source the hypotheses of beam search, then the distinct samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from kdmt.config import Decode, Pool
from kdmt.types import Hypothesis

Lists = list[list[Hypothesis]]  # hypotheses of each source
Progress = Callable[[int], None]


def beam_of(settings: Decode, pool: Pool) -> Decode:
    """Return the settings of the beam search whose hypotheses are in a pool."""
    return settings.model_copy(update={"beam": pool.beam, "nbest": pool.beam})


def pooled(
    num_sources: int,
    pool: Pool,
    *,
    search: Callable[[Progress], Lists],
    draw: Callable[[Progress], Lists],
    progress: Progress,
) -> Lists:
    """Return the pool of each source.

    Args:
        search: function that returns the hypotheses of beam search.
        draw: function that returns samples.
        progress: function that is called with numbers of sources that are done.
    """
    nothing: Lists = [[] for _ in range(num_sources)]
    drawn = draw(progress) if pool.samples else nothing
    # if there are samples, the sources have been counted already
    found = search((lambda _: progress(0)) if pool.samples else progress) if pool.beam else nothing
    return [merged(best, samples) for best, samples in zip(found, drawn, strict=True)]


def merged(best: Sequence[Hypothesis], samples: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Return distinct hypotheses with the number of their draws.

    Those of beam search come first, in their order. The other samples follow, those drawn most often first; of those
    that were drawn equally often, the most probable one goes first.
    """
    draws = Counter(sample.tokens for sample in samples)
    found = [replace(hypothesis, draws=draws.pop(hypothesis.tokens, 0), log_probs=()) for hypothesis in best]
    others = {sample.tokens: sample for sample in samples if sample.tokens in draws}
    distinct = [replace(sample, draws=draws[tokens], log_probs=()) for tokens, sample in others.items()]
    return found + sorted(distinct, key=lambda sample: (-sample.draws, -sample.score, sample.tokens))
