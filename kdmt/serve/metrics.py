"""Counters and histograms in the text format of Prometheus.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass
class Histogram:
    """Numbers of values up to each bound, their sum and their number."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, label: str = "") -> list[str]:
        """Return the samples of the histogram."""
        found, total = [], 0
        comma = f"{label}," if label else ""
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            found.append(f'{name}_bucket{{{comma}le="{bound}"}} {total}')
        braces = f"{{{label}}}" if label else ""
        return [*found, f"{name}_sum{braces} {self.sum:.6g}", f"{name}_count{braces} {total}"]


class Metrics:
    """Counters and histograms of a server. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()  # path, status
        self._seconds = Histogram(_SECONDS)
        self._batches: dict[str, Histogram] = {}
        self._characters: Counter[str] = Counter()

    def request(self, path: str, status: int) -> None:
        """Count a request that was answered."""
        with self._lock:
            self._requests[path, status] += 1

    def translation(self, model: str, characters: int, seconds: float) -> None:
        """Count a request that was translated."""
        with self._lock:
            self._seconds.add(seconds)
            self._characters[model] += characters

    def batch(self, model: str, sentences: int) -> None:
        """Count a batch."""
        with self._lock:
            self._batches.setdefault(model, Histogram(_BATCHES)).add(sentences)

    def text(self, queues: dict[str, Callable[[], int]], connections: int) -> str:
        """Return all metrics.

        Args:
            queues: function that returns the number of sentences in the queue of each model.
            connections: number of open connections.
        """
        with self._lock:
            lines = [
                *_head("kdmt_requests_total", "counter", "Requests by path and status."),
                *(
                    f'kdmt_requests_total{{path="{path}",status="{status}"}} {count}'
                    for (path, status), count in sorted(self._requests.items())
                ),
                *_head("kdmt_translation_seconds", "histogram", "Time of requests that were translated."),
                *self._seconds.lines("kdmt_translation_seconds"),
                *_head("kdmt_characters_total", "counter", "Characters of requests that were translated."),
                *(f'kdmt_characters_total{{model="{m}"}} {count}' for m, count in sorted(self._characters.items())),
                *_head("kdmt_batch_sentences", "histogram", "Sentences that were translated together."),
            ]
            for model, histogram in sorted(self._batches.items()):
                lines += histogram.lines("kdmt_batch_sentences", f'model="{model}"')
        lines += _head("kdmt_queue_sentences", "gauge", "Sentences that wait for a model.")
        lines += [f'kdmt_queue_sentences{{model="{model}"}} {length()}' for model, length in queues.items()]
        lines += [*_head("kdmt_connections", "gauge", "Open connections."), f"kdmt_connections {connections}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, description: str) -> list[str]:
    return [f"# HELP {name} {description}", f"# TYPE {name} {kind}"]
