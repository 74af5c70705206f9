import numpy as np
import pytest

from kdmt.corpus.hashing import hash_windows, mix


def test_mix_agrees_with_the_published_generator() -> None:
    """Compare with the first outputs of SplitMix64 with seed 1234567, which mixes multiples of a constant."""
    state = np.array([1234567], dtype=np.uint64)
    found = []
    for _ in range(3):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        found.append(int(mix(state)[0]))
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("size", [1, 3])
def test_windows_have_equal_hashes_if_and_only_if_they_are_equal(size: int) -> None:
    values = np.random.default_rng(1).integers(0, 3, 200).astype("<u4")
    hashes = hash_windows(values, size).tolist()
    windows = [tuple(values[start : start + size].tolist()) for start in range(len(values) - size + 1)]
    assert len(hashes) == len(windows)
    assert len(set(zip(hashes, windows, strict=True))) == len(set(hashes)) == len(set(windows)) == 3**size


def test_windows_longer_than_the_text() -> None:
    assert hash_windows(np.zeros(2, dtype="<u4"), 3).tolist() == []
