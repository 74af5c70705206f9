"""Records of students as they are deployed: exported to an engine, and measured in a process of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kdmt.score.metrics import MetricScore, metric_label

# metric -> loss against the float student above which there is a warning
MOST_LOST = {"bleu": 0.5, "chrf": 0.3}


@dataclass(frozen=True)
class EngineMeasurement:
    """Cost of an engine on a set of sentences, in a process of its own.

    Attributes:
        load_seconds: time for loading the model, after the library was imported.
        first_sentence_ms: time of the first sentence.
        mean_ms, median_ms, p95_ms: time per sentence at batch size 1, after the first one: mean, median and 95th
            percentile.
        sentences_per_second, words_per_second: speed on all sentences at once; words are those of the source between
            spaces.
        library_bytes: resident memory with the library, before the model is loaded.
        resident_bytes: highest resident memory of the process.
        joules_per_sentence: energy of the processors, whatever else runs on them, on all sentences at once; None if
            the machine does not report it.
    """

    load_seconds: float
    first_sentence_ms: float
    mean_ms: float
    median_ms: float
    p95_ms: float
    sentences_per_second: float
    words_per_second: float
    library_bytes: int
    resident_bytes: int
    joules_per_sentence: float | None = None


@dataclass(frozen=True)
class Deployment:
    """A student in an engine.

    Attributes:
        engine: name in `score.engines`.
        bytes_on_disk: size of the files that the engine reads.
        cost: measurements.
        losses: metric -> difference by which the score is worse than that of the float student in PyTorch, with the
            same way of decoding; empty for PyTorch.
        library: package of the engine with its version.
    """

    engine: str
    bytes_on_disk: int
    cost: EngineMeasurement
    losses: dict[str, float] = field(default_factory=dict)
    library: str | None = None

    @property
    def is_exported(self) -> bool:
        """Return whether the model is another than the checkpoint."""
        return self.engine != "pytorch"

    def large_losses(self) -> Iterator[str]:
        """Yield a description of each loss that is too large."""
        for metric, most in MOST_LOST.items():
            loss = self.losses.get(metric, 0.0)
            if loss > most:
                yield f"{loss:.2f} {metric_label(metric)} below the float student (at most {most} is usual)"


def losses(own: Mapping[str, MetricScore], exported: Mapping[str, MetricScore]) -> dict[str, float]:
    """Return by how much each score of an exported model is worse than that of the float student."""
    return {
        metric: (score.value - exported[metric].value) * (1 if score.higher_is_better else -1)
        for metric, score in own.items()
        if metric in exported
    }
