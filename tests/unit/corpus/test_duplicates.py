import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.corpus.duplicates import DIGEST_BYTES, DuplicateFinder


def digest(item: object) -> bytes:
    return hashlib.blake2b(repr(item).encode(), digest_size=DIGEST_BYTES).digest()


def find_repeats(chunks: list[list[bytes]], workdir: Path) -> list[bool]:
    with DuplicateFinder(workdir) as finder:
        for chunk in chunks:
            finder.add(b"".join(chunk))
        return list(finder.find())


def repeats_by_set(digests: list[bytes]) -> list[bool]:
    seen: set[bytes] = set()
    repeats = []
    for one in digests:
        repeats.append(one in seen)
        seen.add(one)
    return repeats


@settings(max_examples=30, deadline=None)  # each example opens and closes 128 files
@given(st.lists(st.lists(st.integers(0, 30)), max_size=8))
def test_repeats_equal_those_found_with_a_set(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[list[int]]
) -> None:
    digests = [[digest(item) for item in chunk] for chunk in chunks]
    found = find_repeats(digests, tmp_path_factory.mktemp("work"))
    assert found == repeats_by_set(list(itertools.chain(*digests)))


def find_first(chunks: list[list[bytes]], workdir: Path) -> list[int]:
    with DuplicateFinder(workdir) as finder:
        for chunk in chunks:
            finder.add(b"".join(chunk))
        found = finder.find_first()
        assert found.dtype == np.int64
        return found.tolist()


def first_by_dictionary(digests: list[bytes]) -> list[int]:
    first: dict[bytes, int] = {}
    return [first.setdefault(one, number) for number, one in enumerate(digests)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30)), max_size=8))
def test_first_occurrences_equal_those_found_with_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[list[int]]
) -> None:
    digests = [[digest(item) for item in chunk] for chunk in chunks]
    found = find_first(digests, tmp_path_factory.mktemp("work"))
    assert found == first_by_dictionary(list(itertools.chain(*digests)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 12))), max_size=8))
def test_secondary_chunks_are_compared_after_all_others(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[bool, list[int]]]
) -> None:
    """Compare with adding all chunks with `second` last, except that items keep their numbers."""
    items = [(second, item) for second, chunk in chunks for item in chunk]
    order = sorted(range(len(items)), key=lambda number: items[number][0])
    firsts: dict[int, int] = {}
    for number in order:
        firsts.setdefault(items[number][1], number)
    with DuplicateFinder(tmp_path_factory.mktemp("work")) as finder:
        for second, chunk in chunks:
            finder.add(b"".join(map(digest, chunk)), second=second)
        assert finder.find().tolist() == [firsts[item] != number for number, (_, item) in enumerate(items)]
        assert finder.find_first().tolist() == [firsts[item] for _, item in items]


def test_first_occurrences_of_many_items(tmp_path: Path) -> None:
    digests = [digest(item) for item in np.random.default_rng(1).integers(0, 20_000, 50_000).tolist()]
    chunks = [digests[start : start + 7_001] for start in range(0, len(digests), 7_001)]
    assert find_first(chunks, tmp_path) == first_by_dictionary(digests)
    a, b = bytes(8), b"\1" * 8
    assert find_first([[a + b, a + a, b + a], [a + b, b + a]], tmp_path) == [0, 1, 2, 0, 2]


def test_digests_that_share_half_their_bits_are_different(tmp_path: Path) -> None:
    a, b = bytes(8), b"\1" * 8
    assert find_repeats([[a + b, a + a, b + a, a + b]], tmp_path) == [False, False, False, True]


def test_repeats_of_many_items_in_many_chunks(tmp_path: Path) -> None:
    items = np.random.default_rng(1).integers(0, 20_000, 50_000).tolist()
    digests = [digest(item) for item in items]
    chunks = [digests[start : start + 7_001] for start in range(0, len(digests), 7_001)]
    assert find_repeats(chunks, tmp_path) == repeats_by_set(digests)


def test_no_items(tmp_path: Path) -> None:
    assert find_repeats([], tmp_path) == []
    assert find_repeats([[]], tmp_path) == []


def test_files_are_closed_on_exit(tmp_path: Path) -> None:
    with DuplicateFinder(tmp_path) as finder:
        finder.add(digest(1))
    with pytest.raises(ValueError, match="closed file"):
        finder.find()
