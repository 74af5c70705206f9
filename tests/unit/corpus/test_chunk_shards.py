"""Tests of the chunks of shards: which shard has which chunk of a corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmt.corpus.chunk_shards import ChunkShards


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
@pytest.mark.parametrize("first_chunk", [0, 1, 5])
def test_each_chunk_is_found_in_the_log_of_its_shard(tmp_path: Path, num_shards: int, first_chunk: int) -> None:
    """Write five chunks of a corpus, whose numbers begin at `first_chunk`, but none of shard 1."""
    shards = ChunkShards(tmp_path / "shards", num_shards)
    owners = [number % num_shards for number in range(first_chunk, first_chunk + 5)]
    for shard in set(owners) - {1}:
        with shards.open_log(shard, 4) as log:
            assert list(log.finished()) == []
            for index, owner in enumerate(owners):
                if owner == shard:
                    log.add({"index": index}, [b"s%d" % index, b"t%d" % index])
    found = shards.find(4, first_chunk=first_chunk)
    there = [index for index, owner in enumerate(owners) if owner != 1]
    assert [index for index in range(20) if index in found] == there
    for index in there:
        assert found.read(index) == ({"index": index}, [b"s%d" % index, b"t%d" % index])
    assert not [index for index in range(20) if index in shards.find(3, first_chunk=first_chunk)]
