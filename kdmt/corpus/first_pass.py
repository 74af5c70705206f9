"""First pass of cleaning over training corpora: the rules that look at one pair at a time.

The pairs are streamed in chunks through worker processes, and those that remain are written to a temporary folder with
the values that the second pass needs (`second_pass.py`): fingerprints of the pairs and their lengths in characters.
"""

from __future__ import annotations

import collections
import itertools
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from kdmt.config import Clean
from kdmt.corpus.chunk_log import ChunkLog
from kdmt.corpus.chunk_shards import ChunkShards, FoundChunks
from kdmt.corpus.data_report.patterns import PatternCounts, add_patterns
from kdmt.corpus.dropped import Examples, add_examples
from kdmt.corpus.fingerprints import Finders, Fingerprints
from kdmt.corpus.process_pool import OpenMap
from kdmt.corpus.sentence_lengths import Lengths, RatioMedian

Pair = tuple[str, str]  # (source line, target line)

Overlaps = collections.Counter[tuple[str, int]]  # held-out side and line -> number of pairs that overlap with it

CHUNK_PAIRS = 10_000


@dataclass(frozen=True)
class TrainingCorpus:
    """Pairs of lines, and how much of them the training text has."""

    name: str
    pairs: Iterable[Pair]
    weight: int = 1  # number of times that the corpus is in the output
    tag: str | None = None
    share: float = 1.0  # share of the pairs that is used
    max_pairs: int = 0  # maximum number of pairs that are used; 0 for no limit
    clean: Clean | None = None  # settings of the rules for this corpus, instead of those for all
    # reason -> number of pairs that the reader leaves out; complete when all pairs are read
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RawChunk:
    """Pairs of one corpus, with the settings of the rules for it."""

    pairs: Sequence[Pair]
    clean: Clean | Literal["none"]


@dataclass(frozen=True)
class CleanedChunk:
    """The remaining pairs of a chunk: text with a newline after each line, and what the second pass needs of each."""

    source: bytes
    target: bytes
    fingerprints: Fingerprints
    pairs_in: int
    num_pairs: int
    counts: collections.Counter[str]  # rule, or held-out set and side -> number of lines or pairs
    characters: tuple[Lengths, Lengths]  # number of characters of each remaining line
    examples: Examples
    overlaps: Overlaps
    patterns: PatternCounts  # beginnings of dropped pairs


@dataclass(frozen=True)
class PassedCorpus:
    """A corpus after the first pass: text with `num_pairs` lines per side in `workdir`, including duplicates."""

    corpus: TrainingCorpus
    clean: Clean | Literal["none"]
    source: Path
    target: Path
    pairs_in: int
    num_pairs: int
    counts: collections.Counter[str]
    characters: Path  # file of the numbers of characters of both sides of each pair, uint32
    examples: Examples
    overlaps: Overlaps
    patterns: PatternCounts


def run_first_pass(
    workdir: Path,
    corpora: Iterable[TrainingCorpus],
    clean: Clean | Literal["none"],
    apply_rules: Callable[[RawChunk], CleanedChunk],
    finders: Finders,
    median: RatioMedian,
    open_map: OpenMap,
    shards: ChunkShards | None = None,
) -> list[PassedCorpus]:
    """Run the first pass over all corpora.

    Args:
        open_map: where the rules are applied.
        clean: settings of the rules for corpora without settings of their own.
        shards: shards of the pass, whose finished chunks are used.
    """
    passed: list[PassedCorpus] = []
    num_chunks = 0
    with open_map(apply_rules) as map_in_order:
        for number, corpus in enumerate(corpora):
            own = corpus.clean or clean
            paths = [workdir / f"{number}.{what}" for what in ("source", "target")]
            found = None if shards is None else shards.find(number, first_chunk=num_chunks)
            with ChunkLog(workdir / f"{number}.log", paths) as log:
                chunks = _clean_rest(corpus, own, log, map_in_order, found)
                passed.append(_sum_up(corpus, own, chunks, finders, median, workdir, number))
            num_chunks += _count_chunks(passed[-1].pairs_in)
    return passed


def run_shard(
    shards: ChunkShards,
    shard: int,
    corpora: Iterable[TrainingCorpus],
    clean: Clean | Literal["none"],
    apply_rules: Callable[[RawChunk], CleanedChunk],
    open_map: OpenMap,
) -> int:
    """Clean the chunks of one shard over all corpora, and return their number. All text is read.

    Args:
        shards: shards of the pass.
        shard: number of the shard, from 0.
        clean: settings of the rules for corpora without settings of their own.
        open_map: where the rules are applied.
    """
    numbers = itertools.count()  # of the chunks of all corpora
    num_own = 0
    with open_map(apply_rules) as map_in_order:
        for number, corpus in enumerate(corpora):
            with shards.open_log(shard, number) as log:
                num_done = sum(1 for _ in log.finished())
                chunks = _chunks(iter(corpus.pairs), corpus.clean or clean)
                own = (chunk for chunk in chunks if next(numbers) % shards.num_shards == shard)
                num_own += num_done
                for chunk in map_in_order(itertools.islice(own, num_done, None)):
                    log.add(*_split_text(chunk))
                    num_own += 1
    return num_own


def _count_chunks(num_pairs: int) -> int:
    return -(-num_pairs // CHUNK_PAIRS)


def remove_all_but_chunks(workdir: Path) -> None:
    """Remove the files of an interrupted call, except the finished chunks of the first pass."""
    for path in workdir.iterdir():
        if not re.fullmatch(r"[0-9]+\.(source|target|log)", path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _clean_rest(
    corpus: TrainingCorpus,
    clean: Clean | Literal["none"],
    log: ChunkLog,
    map_in_order: Callable[[Iterable[RawChunk]], Iterator[CleanedChunk]],
    found: FoundChunks | None,
) -> Iterator[CleanedChunk]:
    """Yield the chunks of a corpus without their text, which is written to the text files.

    The chunks that an interrupted call has finished are read from the log; their pairs are only counted.

    Args:
        found: chunks that shards have finished, which are copied to the log.
    """
    pairs, num_done, num_pairs = iter(corpus.pairs), 0, 0
    for chunk in log.finished():
        num_done += 1
        num_pairs += chunk.pairs_in
        yield chunk
    collections.deque(itertools.islice(pairs, num_pairs), maxlen=0)
    rest = _chunks(pairs, clean)
    for chunk in map_in_order(rest) if found is None else _fill_in(rest, num_done, found, map_in_order):
        bare, texts = _split_text(chunk)
        log.add(bare, texts)
        yield bare


def _fill_in(
    chunks: Iterable[RawChunk],
    first: int,
    found: FoundChunks,
    map_in_order: Callable[[Iterable[RawChunk]], Iterator[CleanedChunk]],
) -> Iterator[CleanedChunk]:
    """Yield the chunks that shards have finished, and clean the others, in order.

    Args:
        first: index of the first chunk in its corpus.
    """
    missing = (chunk for index, chunk in enumerate(chunks, start=first) if index not in found)
    cleaned = map_in_order(missing)
    for index in itertools.count(first):
        if index in found:
            bare, (source, target) = found.read(index)
            yield replace(bare, source=source, target=target)
        elif (chunk := next(cleaned, None)) is not None:
            yield chunk
        else:
            return


def _split_text(chunk: CleanedChunk) -> tuple[CleanedChunk, tuple[bytes, bytes]]:
    """Return a chunk without its text, and its text of both sides."""
    return replace(chunk, source=b"", target=b""), (chunk.source, chunk.target)


def _sum_up(
    corpus: TrainingCorpus,
    clean: Clean | Literal["none"],
    chunks: Iterable[CleanedChunk],
    finders: Finders,
    median: RatioMedian,
    workdir: Path,
    number: int,
) -> PassedCorpus:
    paths = [workdir / f"{number}.{what}" for what in ("source", "target", "characters")]
    pairs_in = num_pairs = 0
    counts: collections.Counter[str] = collections.Counter()
    examples: Examples = {}
    overlaps: Overlaps = collections.Counter()
    patterns: PatternCounts = {}
    with paths[2].open("wb") as characters:
        for chunk in chunks:
            characters.write(np.stack(chunk.characters, axis=1).tobytes())
            median.add(*chunk.characters)
            finders.add(chunk.fingerprints, second=corpus.tag is not None)
            pairs_in += chunk.pairs_in
            num_pairs += chunk.num_pairs
            counts += chunk.counts
            add_examples(examples, chunk.examples)
            overlaps += chunk.overlaps
            add_patterns(patterns, chunk.patterns)
    return PassedCorpus(
        corpus, clean, paths[0], paths[1], pairs_in, num_pairs, counts, paths[2], examples, overlaps, patterns
    )


def _chunks(pairs: Iterable[Pair], clean: Clean | Literal["none"]) -> Iterator[RawChunk]:
    iterator = iter(pairs)
    while chunk := list(itertools.islice(iterator, CHUNK_PAIRS)):
        yield RawChunk(chunk, clean)
