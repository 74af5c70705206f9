import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.sampling import choose_evenly, mixture_sizes


@given(st.integers(1, 200), st.data())
def test_one_pair_of_each_stratum_is_chosen(num_pairs: int, data: st.DataObject) -> None:
    num_chosen = data.draw(st.integers(1, num_pairs))
    chosen = np.flatnonzero(choose_evenly(num_pairs, num_chosen, seed=data.draw(st.integers(0, 9)), stream=0))
    bounds = [number * num_pairs // num_chosen for number in range(num_chosen + 1)]
    assert len(chosen) == num_chosen
    assert all(low <= each < high for low, each, high in zip(bounds, chosen, bounds[1:], strict=False))


def test_every_pair_is_chosen_with_the_same_probability() -> None:
    """Choose 30 of 100 pairs 4,000 times: the counts have the mean 1,200 and a standard deviation of 29."""
    counts = sum(choose_evenly(100, 30, seed=seed, stream=0).astype(int) for seed in range(4000))
    # strata of 3 and of 4 pairs: 1/3 and 1/4
    sizes = np.diff([number * 100 // 30 for number in range(31)])
    expected = np.repeat(4000 / sizes, sizes)
    assert np.abs(counts - expected).max() < 5 * math.sqrt(4000 / 4)
    assert counts.sum() == 4000 * 30


def test_seeds_and_streams_give_different_choices() -> None:
    choices = {choose_evenly(1000, 300, seed=seed, stream=stream).tobytes() for seed in (1, 2) for stream in (0, 1)}
    assert len(choices) == 4
    again = choose_evenly(1000, 300, seed=1, stream=0).tobytes()
    assert again in choices


def test_the_choice_does_not_depend_on_the_strata_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = choose_evenly(1000, 700, seed=1, stream=0)
    monkeypatch.setattr("kdmt.corpus.sampling._STRATA_AT_ONCE", 13)
    assert (choose_evenly(1000, 700, seed=1, stream=0) == whole).all()


def test_nothing_is_chosen_from_nothing() -> None:
    assert choose_evenly(0, 0, seed=1, stream=0).tolist() == []
    assert not choose_evenly(5, 0, seed=1, stream=0).any()


def test_mixture_by_hand() -> None:
    """Sizes 10,000 and 100 with temperature 2 have the weights 100 and 10."""
    assert mixture_sizes([10_000, 100], 2.0, 1100) == [1000, 100]
    assert mixture_sizes([10_000, 100], 1.0, 10_100) == [10_000, 100]
    assert mixture_sizes([32, 1, 0], 5.0, 300) == [200, 100, 0]


@given(
    st.lists(st.integers(0, 10**8), min_size=1, max_size=8).filter(any),
    st.floats(1.0, 100.0),
    st.integers(8, 10**8),
)
def test_mixture_sizes_are_proportional_and_have_the_total(sizes: list[int], temperature: float, total: int) -> None:
    found = mixture_sizes(sizes, temperature, total)
    weights = [size ** (1 / temperature) if size else 0.0 for size in sizes]
    exact = [total * weight / sum(weights) for weight in weights]
    assert all((count > 0) == (size > 0) for count, size in zip(found, sizes, strict=True))
    if all(share >= 1 for share, size in zip(exact, sizes, strict=True) if size):
        assert sum(found) == total
    assert all(abs(count - share) <= 1 + 1e-6 * share for count, share in zip(found, exact, strict=True))
