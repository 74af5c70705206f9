"""Messages between ranks: two processes over gloo."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from kdmt.ranks import joined_ranks, interleave
with joined_ranks() as ranks:
    ranks.wait()
    found = {
        "rank": ranks.rank,
        "world": ranks.world,
        "first": ranks.is_first,
        "sum": ranks.sum([1.0 + ranks.rank, 0.1]),
        "share": ranks.share({"from": ranks.rank}),
        "collect": interleave(ranks.collect(["a", "b", "c"][ranks.rank :: ranks.world])),
    }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_ranks_exchange_values() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    root = str(Path(__file__).parents[2])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={"PATH": "", "PYTHONPATH": root, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    found = [json.loads(rank.communicate(timeout=300)[0].splitlines()[-1]) for rank in ranks]
    expected = {"world": 2, "sum": [3.0, 0.2], "share": {"from": 0}, "collect": ["a", "b", "c"]}
    assert found == [{"rank": rank, "first": rank == 0, **expected} for rank in range(2)]
