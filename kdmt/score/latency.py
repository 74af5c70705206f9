"""Speed of translation as reported for deployed systems: one sentence at a time, and with full batches.

Both are reported because they rank systems differently: a one-pass decoder that is many times faster at batch size 1
can be slower in large batches (Kasai et al. 2021, S_1 and S_max).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter


@dataclass(frozen=True)
class Speed:
    """Sentences per second of wall time."""

    batch_1: float
    full_batch: float


def measure_speed(
    decode: Callable[[list[str]], list[str]],
    sentences: Sequence[str],
    *,
    batch_1_sentences: int,
    repeats: int = 3,
    clock: Callable[[], float] = perf_counter,
) -> tuple[Speed, list[str]]:
    """Measure the speed of a translator at batch size 1 and on the whole set, and return it with the translations.

    After a warm-up call each measurement is repeated `repeats` times and the median is taken, of the time of each
    sentence at batch size 1 and of the time of the whole set with full batches. This requires `repeats` translations
    of the whole set and `repeats` times `batch_1_sentences` calls with a single sentence.

    Args:
        decode: function that translates a list of sentences and returns when the output is complete (on a GPU: has
            been copied back). It makes its own batches, the largest that fit.
        sentences: sources of the test set.
        batch_1_sentences: number of sentences, spread evenly over the set, that are timed one by one.
        repeats: number of repetitions of each measurement.
        clock: function that returns a monotonic time in seconds.

    Raises:
        ValueError: if there is no sentence, or a count is below 1.
    """
    if not sentences or batch_1_sentences < 1 or repeats < 1:
        raise ValueError(
            f"nothing to time: {len(sentences)} sentences, {batch_1_sentences} of them at batch 1, {repeats} repeats"
        )
    singles = [[sentence] for sentence in _spread(sentences, batch_1_sentences)]
    everything = list(sentences)
    decode(singles[0])  # the first call includes allocation and lazy initialisation
    passes = [[_seconds(decode, single, clock) for single in singles] for _ in range(repeats)]
    batch_1_seconds = sum(median(times) for times in zip(*passes, strict=True))
    full_batch_times = []
    for _ in range(repeats):
        start = clock()
        translations = decode(everything)
        full_batch_times.append(clock() - start)
    speed = Speed(len(singles) / batch_1_seconds, len(everything) / median(full_batch_times))
    return speed, translations


def _spread(sentences: Sequence[str], count: int) -> list[str]:
    """Return `count` evenly spaced sentences, or all of them. The first lines of a set may be its shortest."""
    count = min(count, len(sentences))
    return [sentences[i * len(sentences) // count] for i in range(count)]


def _seconds(decode: Callable[[list[str]], object], sentences: list[str], clock: Callable[[], float]) -> float:
    start = clock()
    decode(sentences)
    return clock() - start
