"""Latency of simultaneous translation: average lagging and its variants, on words, as SimulEval 1.1.4 computes them.

The delay of a target word is the number of source words that had been read when it was written, d_1, ..., d_|Y|. With
|X| source words, |Y*| words of the reference and |Y| of the translation, and tau the first word that was written after
the whole source had been read (the last word if there is none):

    AL   = 1/tau sum_{i <= tau} d_i - (i - 1) |X| / |Y*|              (Ma et al. 2019, STACL)
    LAAL = 1/tau sum_{i <= tau} d_i - (i - 1) |X| / max(|Y|, |Y*|)    (Papi et al. 2022)
    AP   = 1/(|X| |Y*|) sum_i d_i                                     (Cho & Esipova 2016)
    DAL  = 1/|Y| sum_i d'_i - (i - 1) |X| / |Y|                       (Cherry & Foster 2019)

with d'_1 = d_1 and d'_i = max(d_i, d'_{i-1} + |X| / |Y|). AP is a proportion, the others are numbers of source words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

SIGNATURE = "unit:word|reference_length:yes|mean:sentences|as:simuleval-1.1.4"


@dataclass(frozen=True)
class Timing:
    """Delays of the words of one translation.

    Attributes:
        delays: number of source words that had been read when each target word was written.
        source_length: number of source words.
        reference_length: number of words of the reference.
    """

    delays: Sequence[int]
    source_length: int
    reference_length: int


def average_lagging(timing: Timing) -> float:
    """Return AL, in source words."""
    return _lagging(timing, timing.reference_length)


def length_adaptive_average_lagging(timing: Timing) -> float:
    """Return LAAL, in source words: it does not reward translations that are longer than their references."""
    return _lagging(timing, max(len(timing.delays), timing.reference_length))


def _lagging(timing: Timing, target_length: int) -> float:
    rate, total, tau = timing.source_length / target_length, 0.0, 0
    for place, delay in enumerate(timing.delays):
        total, tau = total + delay - place * rate, place + 1
        if delay >= timing.source_length:
            break
    return total / tau


def average_proportion(timing: Timing) -> float:
    """Return AP, 1 if every word was written after the whole source and there are as many as in the reference."""
    return sum(timing.delays) / (timing.source_length * timing.reference_length)


def differentiable_average_lagging(timing: Timing) -> float:
    """Return DAL, in source words: each word takes at least the time of |X| / |Y| source words."""
    rate, total, earliest = timing.source_length / len(timing.delays), 0.0, 0.0
    for place, delay in enumerate(timing.delays):
        earliest = max(float(delay), earliest + rate) if place else float(delay)
        total += earliest - place * rate
    return total / len(timing.delays)


LATENCY_METRICS = {
    "al": average_lagging,
    "laal": length_adaptive_average_lagging,
    "ap": average_proportion,
    "dal": differentiable_average_lagging,
}


def mean_latency(timings: Sequence[Timing]) -> dict[str, float]:
    """Return the mean of each metric over the sentences; those without source or target words do not count.

    Without any sentence that counts there is no mean, since 0 would be the best one.
    """
    counted = [timing for timing in timings if timing.delays and timing.source_length]
    return {name: fmean(map(metric, counted)) for name, metric in LATENCY_METRICS.items()} if counted else {}
