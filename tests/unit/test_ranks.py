"""What the ranks of a training share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kdmt.ranks import interleave


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_interleaved_slices_are_the_list(items: list[int], world: int) -> None:
    assert interleave([items[rank::world] for rank in range(world)]) == items
