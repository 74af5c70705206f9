"""First pass of cleaning over training corpora: the rules that look at one pair at a time.

The pairs are streamed in chunks through worker processes, and those that remain are written to a temporary folder with
the values that the second pass needs (`second_pass.py`): fingerprints of the pairs and their lengths in characters.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kdmt.config import Clean
from kdmt.corpus.dropped import Examples, add_examples
from kdmt.corpus.fingerprints import Finders, Fingerprints
from kdmt.corpus.pool import mapping_in_order
from kdmt.corpus.sentence_lengths import Lengths, RatioMedian

Pair = tuple[str, str]  # (source line, target line)

CHUNK_PAIRS = 10_000


@dataclass(frozen=True)
class TrainingCorpus:
    """Pairs of lines, and their weight and tag in the training text."""

    name: str
    pairs: Iterable[Pair]
    weight: int = 1  # number of times that the corpus is in the output
    tag: str | None = None
    clean: Clean | None = None  # settings of the rules for this corpus, instead of those for all


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


def run_first_pass(
    workdir: Path,
    corpora: Iterable[TrainingCorpus],
    clean: Clean | Literal["none"],
    apply_rules: Callable[[RawChunk], CleanedChunk],
    finders: Finders,
    median: RatioMedian,
    workers: int,
) -> list[PassedCorpus]:
    """Run the first pass over all corpora.

    Args:
        clean: settings of the rules for corpora without settings of their own.
    """
    passed = []
    with mapping_in_order(apply_rules, workers) as map_in_order:
        for number, corpus in enumerate(corpora):
            own = corpus.clean or clean
            chunks = map_in_order(_chunks(corpus.pairs, own))
            passed.append(_clean_one(corpus, own, chunks, finders, median, workdir, number))
    return passed


def _clean_one(
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
    with paths[0].open("wb") as source, paths[1].open("wb") as target, paths[2].open("wb") as characters:
        for chunk in chunks:
            source.write(chunk.source)
            target.write(chunk.target)
            characters.write(np.stack(chunk.characters, axis=1).tobytes())
            median.add(*chunk.characters)
            finders.add(chunk.fingerprints, second=corpus.tag is not None)
            pairs_in += chunk.pairs_in
            num_pairs += chunk.num_pairs
            counts += chunk.counts
            add_examples(examples, chunk.examples)
    return PassedCorpus(corpus, clean, paths[0], paths[1], pairs_in, num_pairs, counts, paths[2], examples)


def _chunks(pairs: Iterable[Pair], clean: Clean | Literal["none"]) -> Iterator[RawChunk]:
    iterator = iter(pairs)
    while chunk := list(itertools.islice(iterator, CHUNK_PAIRS)):
        yield RawChunk(chunk, clean)
