"""Labels of points: none covers another one, a point or the border."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kdmt.score.report_page.labels import Box, place_labels

BOUNDS = Box(0, 0, 400, 300)
NUMBERS = st.integers(0, 40)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=30), st.integers(10, 120))
def test_no_label_overlaps_a_label_a_point_or_the_border(places: list[tuple[int, int]], width: int) -> None:
    points = [(x * 10.0, y * 7.5) for x, y in places]
    found = place_labels(points, [(float(width), 10.0)] * len(points), bounds=BOUNDS, radius=3)
    boxes = [box for box in found if box is not None]
    assert all(box.is_inside(BOUNDS) for box in boxes)
    assert all(box.right - box.left == width for box in boxes)
    for number, box in enumerate(boxes):
        assert not any(overlap(box, other) for other in boxes[:number])
        assert not any(overlap(box, Box(x - 3, y - 3, x + 3, y + 3)) for x, y in points)


def overlap(one: Box, other: Box) -> bool:
    """Compare the sums of the widths with the width of both together, along each axis."""
    across = max(one.right, other.right) - min(one.left, other.left)
    along = max(one.top, other.top) - min(one.bottom, other.bottom)
    widths = one.right - one.left + other.right - other.left
    return across < widths and along < one.top - one.bottom + other.top - other.bottom


def test_a_label_next_to_its_point_comes_first_and_one_without_room_is_left_out() -> None:
    (first,) = place_labels([(100.0, 100.0)], [(50.0, 10.0)], bounds=BOUNDS, radius=3)
    assert first == Box(107.0, 95.0, 157.0, 105.0)
    assert place_labels([(100.0, 100.0)], [(500.0, 10.0)], bounds=BOUNDS, radius=3) == [None]


def test_points_without_labels_are_not_covered() -> None:
    (only,) = place_labels([(100.0, 100.0), (120.0, 100.0)], [(50.0, 10.0)], bounds=BOUNDS, radius=3)
    assert only is not None
    assert only.right <= 97
