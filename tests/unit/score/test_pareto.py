"""The plot of quality against speed."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.score.pareto import Point, frontier, pareto_svg

SVG = "{http://www.w3.org/2000/svg}"
POINTS = st.lists(
    st.builds(Point, st.sampled_from(["ctc", "<b>", "teacher & co"]), st.floats(0.01, 1e5), st.floats(0, 100)),
    min_size=1,
    max_size=8,
)


@given(POINTS)
def test_the_frontier_has_the_points_that_no_other_point_beats(points: list[Point]) -> None:
    found = frontier(points)
    for point in points:
        beaten = any(
            (other.speed >= point.speed and other.score > point.score)
            or (other.speed > point.speed and other.score >= point.score)
            for other in points
        )
        assert beaten == ((point.speed, point.score) not in {(each.speed, each.score) for each in found})


@given(POINTS)
def test_every_system_is_plotted_in_the_order_of_speed(points: list[Point]) -> None:
    text = pareto_svg(points, speed_label="sentences/s at batch 1", score_label="BLEU on test")
    root = ElementTree.fromstring(text)
    circles = [(float(each.get("cx", "")), float(each.get("cy", ""))) for each in root.iter(f"{SVG}circle")]
    assert len(circles) == len(points)
    assert all(0 <= x <= 720 and 0 <= y <= 420 for x, y in circles)
    order = sorted(range(len(points)), key=lambda each: points[each].speed)
    xs = [circles[each][0] for each in order]
    assert xs == sorted(xs)
    titles = [each.text or "" for each in root.iter(f"{SVG}title")]
    assert [title.partition(":")[0] for title in titles] == [point.name for point in points]
    labels = {each.text for each in root.iter(f"{SVG}text")}
    assert {"sentences/s at batch 1", "BLEU on test"} <= labels


def test_the_speed_axis_is_logarithmic() -> None:
    text = pareto_svg([Point("a", 10, 30), Point("b", 20, 30), Point("c", 40, 30)], speed_label="sentences/s")
    xs = [float(x) for x in re.findall(r'cx="([\d.]+)"', text)]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)


@pytest.mark.parametrize("points", [[], [Point("a", 0.0, 3.0)]])
def test_a_plot_without_points_is_an_error(points: list[Point]) -> None:
    with pytest.raises(ValueError, match="needs points"):
        pareto_svg(points, speed_label="sentences/s")
