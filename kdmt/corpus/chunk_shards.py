"""Shards of the first pass of cleaning: several commands clean a part of the chunks each, possibly at the same time.

    <shard>/<corpus>.log                        log of the chunks of a shard in one corpus (`chunk_log.py`)
    <shard>/<corpus>.source, <corpus>.target    their text

The chunks of all corpora are numbered from 0. Of n shards, shard i has the chunks whose number divided by n leaves i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.corpus.chunk_log import ChunkLog, FinishedChunks


@dataclass(frozen=True)
class ChunkShards:
    """The shards of the first pass over some corpora.

    Attributes:
        folder: folder of all shards.
        num_shards: number of shards.
    """

    folder: Path
    num_shards: int

    def open_log(self, shard: int, corpus: int) -> ChunkLog:
        """Open the log of a shard for a corpus; its text files are those of source and target."""
        path, texts = self._paths(shard, corpus)
        path.parent.mkdir(parents=True, exist_ok=True)
        return ChunkLog(path, texts)

    def find(self, corpus: int, *, first_chunk: int) -> FoundChunks:
        """Return the finished chunks of all shards of a corpus.

        Args:
            first_chunk: number of the first chunk of the corpus.
        """
        logs = [FinishedChunks(*self._paths(shard, corpus)) for shard in range(self.num_shards)]
        return FoundChunks(logs, first_chunk)

    def _paths(self, shard: int, corpus: int) -> tuple[Path, list[Path]]:
        log, source, target = (self.folder / str(shard) / f"{corpus}.{what}" for what in ("log", "source", "target"))
        return log, [source, target]


@dataclass(frozen=True)
class FoundChunks:
    """The finished chunks of all shards of one corpus, by their index in it.

    Attributes:
        logs: chunks of each shard.
        first_chunk: number of the first chunk of the corpus.
    """

    logs: Sequence[FinishedChunks]
    first_chunk: int

    def __contains__(self, index: int) -> bool:
        return index // len(self.logs) < len(self._log(index))

    def read(self, index: int) -> tuple[Any, list[bytes]]:
        """Return the values of a chunk, and its text of both sides."""
        return self._log(index).read(index // len(self.logs))

    def _log(self, index: int) -> FinishedChunks:
        return self.logs[(self.first_chunk + index) % len(self.logs)]
