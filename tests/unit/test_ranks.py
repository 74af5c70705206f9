"""Ranks: a single process, and two processes started as `torchrun` starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.ranks import ALONE, Ranks, interleave, joined_ranks

PROGRAM = """
import json
from kdmt.ranks import joined_ranks
with joined_ranks() as ranks:
    found = {
        "rank": ranks.rank, "world": ranks.world, "local_rank": ranks.local_rank, "first": ranks.is_first,
        "sum": ranks.sum([ranks.rank + 1, 0.1]), "share": ranks.share({"from": ranks.rank}),
        "collect": ranks.collect("r" * (ranks.rank + 1)),
    }
    ranks.wait()
print(json.dumps(found))
"""


def test_a_single_process_needs_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_ranks() as ranks:
        assert ranks is ALONE
    assert ranks.is_first
    assert ranks.sum([1.5, 2]) == [1.5, 2]
    assert ranks.share("x") == "x"
    assert ranks.collect("x") == ["x"]
    ranks.wait()


def test_ranks_sum_broadcast_and_gather() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    found = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    for rank, values in enumerate(found):
        assert (values["rank"], values["world"], values["local_rank"]) == (rank, 2, rank)
        assert values["first"] is (rank == 0)
        assert values["sum"] == pytest.approx([3.0, 0.2], abs=1e-12)  # in float64
        assert values["share"] == {"from": 0}
        assert values["collect"] == ["r", "rr"]


def test_only_rank_0_is_the_first() -> None:
    assert [Ranks(rank, 3).is_first for rank in range(3)] == [True, False, False]


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_interleaved_slices_give_the_whole_list(items: list[int], world: int) -> None:
    assert interleave([items[rank::world] for rank in range(world)]) == items
