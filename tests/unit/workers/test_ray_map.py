"""An ordered map on a Ray cluster of two nodes on this machine: order, errors, lost workers, and the prepare stage."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tiny_pipeline import hash_tree, kdmt, make_pairs, write_lines

from kdmt.corpus import first_pass
from kdmt.errors import UserError
from kdmt.workers.ray_map import mapping_on_ray

pytest.importorskip("ray")


def add(number: int, chunk: list[int]) -> list[int]:
    """Add a number to each item; the first chunks take longest."""
    time.sleep(0.2 / (1 + chunk[0]))
    return [number + each for each in chunk]


def refuse(chunk: list[int]) -> list[int]:
    raise UserError(f"chunk {chunk} is refused")


def die_once(marker: Path, chunk: list[int]) -> list[int]:
    """End the worker process at the first call."""
    if not marker.exists():
        marker.touch()
        os._exit(1)
    return chunk


def die(_: list[int]) -> list[int]:
    os._exit(1)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_results_are_in_the_order_of_the_chunks() -> None:
    read = []

    def chunks() -> Iterator[list[int]]:
        for number in range(40):
            read.append(number)
            yield [number, -number]

    with mapping_on_ray(partial(add, 1000), workers=2) as map_in_order:
        results = map_in_order(chunks())
        assert next(results) == [1000, 1000]
        assert len(read) == 6  # three for each worker
        assert list(results) == [[1000 + number, 1000 - number] for number in range(1, 40)]
        assert list(map_in_order([[1], [2]])) == [[1001], [1002]]
    with mapping_on_ray(partial(add, 7), workers=0) as map_in_order:  # another function in the same worker processes
        assert list(map_in_order([[1], [2]])) == [[8], [9]]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_error_of_the_function_is_raised() -> None:
    with mapping_on_ray(refuse, workers=1) as map_in_order, pytest.raises(UserError, match=r"^chunk \[5\] is refused$"):
        list(map_in_order([[5]]))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_chunk_of_a_lost_worker_is_done_by_another(tmp_path: Path) -> None:
    with mapping_on_ray(partial(die_once, tmp_path / "marker"), workers=2) as map_in_order:
        assert list(map_in_order([[1], [2], [3]])) == [[1], [2], [3]]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_that_are_always_lost_are_an_error() -> None:
    with mapping_on_ray(die, workers=1) as map_in_order, pytest.raises(UserError, match="a worker of Ray was lost"):
        list(map_in_order([[1]]))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "pipeline")
def test_a_preparation_on_ray_gives_the_same_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_pass, "CHUNK_PAIRS", 50)
    for side, lang in enumerate(("en", "de")):
        write_lines(Path(f"text/train.{lang}"), [pair[side] for pair in make_pairs(400, seed=3)])
    lowercase = ("--set", "prepare.text.lowercase=true")
    made = {}
    for executor in ("inline", "ray"):
        result = kdmt("prepare", "tiny.yaml", *lowercase, "--set", f"prepare.executor={executor}", "--runs", executor)
        assert result.code == 0, result.err
        made[executor] = hash_tree(Path(executor, "tiny/prepare"))
    assert {name for name in made["ray"] if made["ray"][name] != made["inline"].get(name)} == {"config.json"}
    assert made["ray"].keys() == made["inline"].keys()
