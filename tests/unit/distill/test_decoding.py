"""Decoding in blocks, with an engine that writes down what it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tiny_pipeline import hash_tree

from kdmt.config import Decode
from kdmt.distill.blocks import Decoded, plan_blocks, read_block
from kdmt.distill.decoding import decode_blocks, source_sha
from kdmt.types import EOS, Hypothesis

KEY = "k" * 64
SETTINGS = Decode(beam=2, nbest=2, max_len_a=1.0, max_len_b=2)
# lengths with </s>; 1 is an empty line, and 12 more than the engine reads
LENGTHS = [3, 5, 1, 4, 12, 2, 6, 3, 3, 7, 2]
SOURCES = [np.array([*range(10 + i, 10 + i + n - 1), EOS]) for i, n in enumerate(LENGTHS)]


@dataclass
class EchoEngine:
    """Gives the source back, and as second best its beginning; dies when asked for the sentence `deadly`."""

    deadly: int | None = None
    asked: list[int] = field(default_factory=list)  # sentences, by the number that they begin with

    def decode(
        self, sources: list[np.ndarray], indices: list[int], progress: Callable[[int], None]
    ) -> list[list[Hypothesis]]:
        assert indices == [int(source[0]) - 10 for source in sources]
        found = []
        for index, source in zip(indices, sources, strict=True):
            self.asked.append(index)
            if self.asked[-1] == self.deadly:
                raise InterruptedError
            tokens = tuple(int(token) for token in source[:-1])
            found.append([Hypothesis(tokens, -0.5), Hypothesis(tokens[:1], -0.75)])
        progress(len(sources))
        return found


def run(folder: Path, engine: EchoEngine, *, block_size: int = 3, key: str = KEY, max_target: int = 9) -> list[int]:
    """Decode into `folder`; returns what was told of the progress."""
    told: list[int] = []
    blocks = decode_blocks(
        engine.decode,
        SOURCES,
        SETTINGS,
        folder=folder,
        block_size=block_size,
        key=key,
        max_source_tokens=10,
        max_target_tokens=max_target,
        progress=told.append,
    )
    assert blocks == plan_blocks(len(SOURCES), block_size)
    return told


def read(folder: Path, block_size: int = 3) -> list[Decoded]:
    return [line for block in plan_blocks(len(SOURCES), block_size) for line in read_block(folder, block, KEY)]


@pytest.mark.parametrize("block_size", [1, 3, 4, 11, 100])
def test_every_sentence_is_decoded_in_its_place(tmp_path: Path, block_size: int) -> None:
    told = run(tmp_path, EchoEngine(), block_size=block_size)
    assert sum(told) == len(SOURCES)
    for i, sentence in enumerate(read(tmp_path, block_size)):
        assert sentence.index == i
        assert sentence.source_sha == source_sha(SOURCES[i])
        tokens = tuple(SOURCES[i][:-1].tolist())
        expected = () if LENGTHS[i] in (1, 12) else (tokens, tokens[:1])
        assert sentence.tokens == expected
        assert sentence.scores == (-0.5, -0.75)[: len(expected)]


def test_a_sentence_at_its_own_limit_is_marked(tmp_path: Path) -> None:
    """The limit is a·S+b with S the sentence's own length with </s>, and never more than the model's positions."""
    run(tmp_path, EchoEngine(), max_target=6)
    for i, sentence in enumerate(read(tmp_path)):
        limit = min(LENGTHS[i] + 2, 5)
        assert sentence.at_limit == tuple(len(tokens) >= limit for tokens in sentence.tokens)
    assert any(sentence.at_limit[:1] == (True,) for sentence in read(tmp_path))


def test_a_closing_symbol_is_not_kept(tmp_path: Path) -> None:
    class Closing(EchoEngine):
        def decode(self, sources: list[np.ndarray], *_: object) -> list[list[Hypothesis]]:
            return [[Hypothesis((4, EOS), -1.0), Hypothesis((EOS,), -2.0)] for _ in sources]

    run(tmp_path, Closing())
    assert read(tmp_path)[0].tokens == ((4,), ())


def test_a_resumed_run_decodes_only_what_is_missing(tmp_path: Path) -> None:
    run(tmp_path / "undisturbed", EchoEngine())
    with pytest.raises(InterruptedError):
        run(tmp_path / "resumed", EchoEngine(deadly=7))
    assert sorted(path.name for path in (tmp_path / "resumed").iterdir()) == ["000000.jsonl.gz", "000001.jsonl.gz"]
    engine = EchoEngine()
    assert sum(run(tmp_path / "resumed", engine)) == len(SOURCES)  # what was there counts as done
    assert engine.asked == [6, 7, 8, 9, 10]
    assert hash_tree(tmp_path / "resumed") == hash_tree(tmp_path / "undisturbed")


def test_only_damaged_missing_or_foreign_blocks_are_decoded_again(tmp_path: Path) -> None:
    run(tmp_path, EchoEngine())
    expected = hash_tree(tmp_path)
    (tmp_path / "000003.jsonl.gz").unlink()
    damaged = tmp_path / "000001.jsonl.gz"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    (tmp_path / ".partial-000002.jsonl.gz").write_bytes(b"half")
    engine = EchoEngine()
    run(tmp_path, engine)
    assert engine.asked == [3, 5, 9, 10]
    assert hash_tree(tmp_path) == expected
    engine = EchoEngine()
    run(tmp_path, engine)
    assert not engine.asked
    run(tmp_path, engine, key="x" * 64)
    assert len(engine.asked) == sum(LENGTHS[i] not in (1, 12) for i in range(len(SOURCES)))


def test_sources_are_told_apart_by_content_not_by_type() -> None:
    assert source_sha(SOURCES[0].astype(np.uint16)) == source_sha(SOURCES[0].astype(np.int64))
    assert len({source_sha(source) for source in SOURCES}) == len(SOURCES)
