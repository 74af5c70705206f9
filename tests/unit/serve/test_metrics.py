"""Metrics in Prometheus' text format."""

from __future__ import annotations

from kdmt.serve.metrics import Histogram, Metrics


def test_buckets_are_cumulative_and_include_their_bound() -> None:
    histogram = Histogram((1, 2.5))
    for value in (0.5, 1.0, 2.0, 9.0):
        histogram.add(value)
    assert histogram.lines("x", 'm="a"') == [
        'x_bucket{m="a",le="1"} 2',
        'x_bucket{m="a",le="2.5"} 3',
        'x_bucket{m="a",le="+Inf"} 4',
        'x_sum{m="a"} 12.5',
        'x_count{m="a"} 4',
    ]
    assert Histogram((1,)).lines("y") == ['y_bucket{le="1"} 0', 'y_bucket{le="+Inf"} 0', "y_sum 0", "y_count 0"]


def test_every_metric_has_its_type_before_its_samples() -> None:
    metrics = Metrics()
    metrics.request("/", 200)
    metrics.batch("en-de", 3)
    metrics.translation("en-de", 10, 0.2)
    typed: set[str] = set()
    for line in metrics.text({"en-de": lambda: 7}, 2).splitlines():
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        elif not line.startswith("#"):
            assert any(line.startswith(name) for name in typed), line
    assert 'kdmt_queue_sentences{model="en-de"} 7' in metrics.text({"en-de": lambda: 7}, 2)
