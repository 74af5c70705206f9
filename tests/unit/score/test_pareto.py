"""The Pareto frontier of quality and speed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kdmt.score.pareto import Point, frontier

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
