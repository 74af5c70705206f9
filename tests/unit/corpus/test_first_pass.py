from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kdmt.config import Clean
from kdmt.corpus.chunk_shards import ChunkShards, FoundChunks
from kdmt.corpus.clean import clean_chunk
from kdmt.corpus.fingerprints import Finders
from kdmt.corpus.first_pass import (
    CleanedChunk,
    PassedCorpus,
    RawChunk,
    TrainingCorpus,
    run_first_pass,
    run_shard,
)
from kdmt.corpus.process_pool import mapping_in_order
from kdmt.corpus.rules.pair_text import LanguagePair
from kdmt.corpus.sentence_lengths import RatioMedian

IN_THIS_PROCESS = partial(mapping_in_order, workers=1)


def apply_rules(chunk: RawChunk) -> CleanedChunk:
    return clean_chunk(chunk, languages=LanguagePair(), forbidden=None)


@pytest.mark.parametrize("chunk_pairs", [1, 3, 100])
def test_text_lengths_and_counts_of_each_corpus_are_those_of_all_its_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_pairs: int
) -> None:
    monkeypatch.setattr("kdmt.corpus.first_pass.CHUNK_PAIRS", chunk_pairs)
    corpora = [
        TrainingCorpus("a", [("a  b", "été"), ("", "x"), ("c", "d"), ("c", "d")]),
        TrainingCorpus("b", [("e f g", "h i j")], clean=Clean(max_words=2)),
        TrainingCorpus("c", [("k", "l")], tag="<c>"),
    ]
    finders, median = Finders(tmp_path, Clean()), RatioMedian()
    passed = run_first_pass(tmp_path, corpora, Clean(), apply_rules, finders, median, IN_THIS_PROCESS)
    assert [one.source.read_text(encoding="utf-8") for one in passed] == ["a b\nc\nc\n", "", "k\n"]
    assert [one.target.read_text(encoding="utf-8") for one in passed] == ["été\nd\nd\n", "", "l\n"]
    assert [(one.pairs_in, one.num_pairs) for one in passed] == [(4, 3), (1, 0), (1, 1)]
    assert [one.counts for one in passed] == [Counter(empty=1, whitespace=1), Counter(max_words=1), Counter()]
    assert np.fromfile(passed[0].characters, dtype=np.uint32).tolist() == [3, 3, 1, 1, 1, 1]
    assert [one.examples for one in passed] == [{"empty": [("", "x")]}, {"max_words": [("e f g", "h i j")]}, {}]
    assert finders.exact["pair"].find().tolist() == [False, False, True, False]
    assert median.value() == 1.0


SIZES = (7, 0, 1, 12)  # of corpora, in chunks of two pairs: 4, 0, 1 and 6


def corpora() -> list[TrainingCorpus]:
    numbers = itertools.count()
    made = []
    for corpus, size in enumerate(SIZES):
        pairs = [
            (f"a  {number}", "" if number % 5 == 0 else f"b {number}") for number in itertools.islice(numbers, size)
        ]
        made.append(TrainingCorpus(str(corpus), pairs))
    return made


def run_whole(folder: Path, shards: ChunkShards | None, cleaned: list[RawChunk]) -> tuple[list[object], list[bool]]:
    """Run the first pass, and return everything in its results; append to `cleaned` the chunks that are cleaned."""

    def recorded(chunk: RawChunk) -> CleanedChunk:
        cleaned.append(chunk)
        return apply_rules(chunk)

    folder.mkdir(exist_ok=True)
    finders, median = Finders(folder, Clean()), RatioMedian()
    passed = run_first_pass(folder, corpora(), Clean(), recorded, finders, median, IN_THIS_PROCESS, shards)
    return [contents(one) for one in passed] + [median.value()], finders.exact["pair"].find().tolist()


def contents(one: PassedCorpus) -> tuple[object, ...]:
    texts = (one.source.read_bytes(), one.target.read_bytes(), one.characters.read_bytes())
    return (*texts, one.pairs_in, one.num_pairs, one.counts, one.examples, one.patterns)


@pytest.mark.parametrize("num_shards", [1, 3, 4, 20])
def test_shards_clean_each_chunk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_shards: int) -> None:
    monkeypatch.setattr("kdmt.corpus.first_pass.CHUNK_PAIRS", 2)
    all_chunks: list[RawChunk] = []
    expected = run_whole(tmp_path / "whole", None, all_chunks)
    shards = ChunkShards(tmp_path / "shards", num_shards)
    for shard in reversed(range(num_shards)):
        own: list[RawChunk] = []

        def recorded(chunk: RawChunk, own: list[RawChunk] = own) -> CleanedChunk:
            own.append(chunk)
            return apply_rules(chunk)

        num_chunks = run_shard(shards, shard, corpora(), Clean(), recorded, IN_THIS_PROCESS)
        assert own == all_chunks[shard::num_shards]
        assert num_chunks == len(own)
    cleaned: list[RawChunk] = []
    assert run_whole(tmp_path / "merged", shards, cleaned) == expected
    assert cleaned == []


@pytest.mark.parametrize("missing", range(3))
@pytest.mark.parametrize("num_done", [0, 1, 2])
def test_an_interrupted_shard_goes_on_and_missing_chunks_are_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int, num_done: int
) -> None:
    monkeypatch.setattr("kdmt.corpus.first_pass.CHUNK_PAIRS", 2)
    all_chunks: list[RawChunk] = []
    expected = run_whole(tmp_path / "whole", None, all_chunks)
    shards = ChunkShards(tmp_path / "shards", 3)
    cleaned: list[RawChunk] = []

    def interrupted(chunk: RawChunk) -> CleanedChunk:
        if len(cleaned) == num_done:
            raise KeyboardInterrupt
        cleaned.append(chunk)
        return apply_rules(chunk)

    with pytest.raises(KeyboardInterrupt):
        run_shard(shards, missing, corpora(), Clean(), interrupted, IN_THIS_PROCESS)
    assert cleaned == all_chunks[missing::3][:num_done]
    for shard in {0, 1, 2} - {missing}:
        run_shard(shards, shard, corpora(), Clean(), apply_rules, IN_THIS_PROCESS)
    rest: list[RawChunk] = []
    monkeypatch.setattr(FoundChunks, "read", interrupt_at(monkeypatch, 5))
    with pytest.raises(KeyboardInterrupt):  # while the shards are put together
        run_whole(tmp_path / "merged", shards, rest)
    assert run_whole(tmp_path / "merged", shards, rest) == expected
    assert rest == all_chunks[missing::3][num_done:]
    assert run_shard(shards, missing, corpora(), Clean(), apply_rules, IN_THIS_PROCESS) == len(all_chunks[missing::3])


def interrupt_at(monkeypatch: pytest.MonkeyPatch, call: int) -> Callable[[FoundChunks, int], object]:
    """Return `FoundChunks.read` with an interruption at a call, after which it is the original again."""
    original, num_calls = FoundChunks.read, 0

    def read(self: FoundChunks, index: int) -> object:
        nonlocal num_calls
        num_calls += 1
        if num_calls == call:
            monkeypatch.setattr(FoundChunks, "read", original)
            raise KeyboardInterrupt
        return original(self, index)

    return read
