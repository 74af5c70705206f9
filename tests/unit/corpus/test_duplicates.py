import hashlib
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.corpus.duplicates import DIGEST_BYTES, DuplicateFinder, find_either


def digest(item: object) -> bytes:
    return hashlib.blake2b(repr(item).encode(), digest_size=DIGEST_BYTES).digest()


def find_repeats(chunks: list[list[bytes]], workdir: Path) -> list[bool]:
    finder = DuplicateFinder(workdir)
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


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30)), max_size=8))
def test_repeats_equal_those_found_with_a_set(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[list[int]]
) -> None:
    digests = [[digest(item) for item in chunk] for chunk in chunks]
    found = find_repeats(digests, tmp_path_factory.mktemp("work"))
    assert found == repeats_by_set(list(itertools.chain(*digests)))


def find_first(chunks: list[list[bytes]], workdir: Path) -> list[int]:
    finder = DuplicateFinder(workdir)
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
    finder = DuplicateFinder(tmp_path_factory.mktemp("work"))
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


# ------------------------------------------------------------------------------------- limits, exclusions, either side

some_items = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 4), st.integers(0, 4)), max_size=25)


def order_of(items: list[tuple[bool, bool, int, int]]) -> list[int]:
    """Return the numbers of the items that are not excluded: first items, then second items."""
    return sorted((n for n, item in enumerate(items) if not item[1]), key=lambda n: items[n][0])


@settings(max_examples=30, deadline=None)
@given(some_items, st.integers(1, 3))
def test_a_limit_keeps_as_many_of_the_items_that_are_not_excluded(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[bool, bool, int, int]], limit: int
) -> None:
    finder = DuplicateFinder(tmp_path_factory.mktemp("work"))
    for second, _, item, _ in items:
        finder.add(digest(item), second=second)
    kept: Counter[int] = Counter()
    expected = [False] * len(items)
    for number in order_of(items):
        expected[number] = kept[items[number][2]] >= limit
        kept[items[number][2]] += 1
    excluded_N = np.array([excluded for _, excluded, _, _ in items], dtype=bool)
    assert finder.find(limit=limit, excluded_N=excluded_N).tolist() == expected


@settings(max_examples=30, deadline=None)
@given(some_items, st.integers(1, 3))
def test_either_side_is_decided_pair_by_pair(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[bool, bool, int, int]], limit: int
) -> None:
    workdir = tmp_path_factory.mktemp("work")
    source, target = DuplicateFinder(workdir, "sources"), DuplicateFinder(workdir, "targets")
    for second, _, of_source, of_target in items:
        source.add(digest(of_source), second=second)
        target.add(digest(of_target), second=second)
    kept: Counter[tuple[str, int]] = Counter()
    expected = [False] * len(items)
    for number in order_of(items):
        sides = [("source", items[number][2]), ("target", items[number][3])]
        expected[number] = any(kept[side] >= limit for side in sides)
        if not expected[number]:
            kept.update(sides)
    excluded_N = np.array([excluded for _, excluded, _, _ in items], dtype=bool)
    assert find_either(source, target, limit=limit, excluded_N=excluded_N).tolist() == expected
