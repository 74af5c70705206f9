"""Tests of histograms: every value is in one bin, with the label of its range."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.data_report.histogram import Histogram, histogram_of_ratios, histogram_of_sizes, histogram_svg

LINES = {"svg": "{http://www.w3.org/2000/svg}"}


def bounds(label: str) -> tuple[float, float]:
    """Return the smallest and the largest value of a bin of sizes."""
    if label.endswith("+"):
        return int(label[:-1]), math.inf
    low, _, high = label.partition("–")
    return int(low), int(high or low)


@given(values=st.lists(st.integers(0, 300), min_size=1))
def test_each_size_is_counted_in_the_bin_of_its_label(values: list[int]) -> None:
    found = histogram_of_sizes(np.bincount(values).astype(np.int64))
    for label, count in zip(found.labels, found.counts, strict=True):
        low, high = bounds(label)
        assert count == sum(low <= value <= high for value in values)
    assert sum(found.counts) == len(values)
    assert len(found.counts) <= 31


def test_rare_large_sizes_share_the_last_bin() -> None:
    found = histogram_of_sizes(np.bincount([*range(1, 21)] * 100 + [5_000]).astype(np.int64))
    assert found.labels[-1] == "21+"
    assert found.counts[-1] == 1


def test_nothing_is_an_empty_histogram() -> None:
    assert histogram_of_sizes(np.zeros(4, dtype=np.int64)) == Histogram((), ())
    assert "<rect" not in histogram_svg(Histogram((), ()), "title", "unit")


def test_ratios_are_counted_around_one() -> None:
    ratios = np.array([0.1, 0.26, 1.0, 1.05, 3.9, 7.0])
    found = dict(zip(*(lambda h: (h.labels, h.counts))(histogram_of_ratios(ratios)), strict=True))
    assert found["below 0.25"] == 1
    assert found["0.25–0.28"] == 1
    assert found["1.00–1.12"] == 2
    assert found["3.56–4.00"] == 1
    assert found["4.00+"] == 1
    assert sum(found.values()) == 6


@pytest.mark.parametrize("title", ["tokens", 'a "<b>" & c'])
def test_the_picture_has_a_bar_with_height_and_tooltip_for_each_bin(title: str) -> None:
    drawn = ElementTree.fromstring(histogram_svg(Histogram(("1", "2–3"), (5, 10)), title, title))
    bars = drawn.findall(f"{LINES['svg']}rect")
    heights = [float(bar.get("height", "")) for bar in bars]
    assert heights[1] == pytest.approx(2 * heights[0])
    assert [bar[0].text for bar in bars] == ["1: 5", "2–3: 10"]
    assert drawn.get("aria-label") == title
    assert re.search(r"^0 0 \d+ \d+$", drawn.get("viewBox", ""))
