"""Tests of decoding in blocks, with a teacher that records the sentences it decodes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_pipeline import hash_tree

from kdmt.config import Decode
from kdmt.corpus.indexed import IndexedWriter
from kdmt.distill.blocks import Block, Decoded, ForeignBlock, read_block
from kdmt.distill.decoding import BlockDecoder, BlockTask, SourceIds, Translate, missing_tasks, plan_tasks
from kdmt.distill.sources import SourceText, find_sources
from kdmt.types import EOS, Hypothesis
from kdmt.workers.processes import WorkerSpec

MADE_FROM = {"teacher": "t" * 64}
SETTINGS = Decode(beam=2, nbest=2, max_len_a=1.0, max_len_b=2)
# lengths with </s>; 1 is an empty line, and 12 exceeds the teacher's limit
LENGTHS = [3, 5, 1, 4, 12, 2, 6, 3, 3, 7, 2]
UNTRANSLATED = (2, 4)
SOURCES = [np.array([*range(10 + i, 10 + i + n - 1), EOS]) for i, n in enumerate(LENGTHS)]
TWICE = [0, 1, 0, 2, 3, 1, 4, 5, 6, 7, 8, 9, 10, 4, 10]  # the sentence on each line


@dataclass
class EchoTeacher:
    """Teacher that returns the source, and its first token as second hypothesis; it fails on the sentence `deadly`."""

    deadly: int | None = None
    max_target_tokens: int = 9
    max_source_tokens: int = 10
    limits_lengths: bool = True
    vocab_size: int = 100
    decoded_numbers: list[int] = field(default_factory=list)

    def open(self, spec: WorkerSpec, made_with: dict[str, object]) -> Translate:
        assert spec.number == 5

        def translate(
            sources: SourceIds, numbers: list[int], block: Block, progress: Callable[[int], None]
        ) -> list[list[Hypothesis]]:
            made_with["batch"] = len(sources)
            found = []
            for number, source in zip(numbers, sources, strict=True):
                assert source.tolist() == SOURCES[number].tolist()
                assert block.first <= number < block.first + block.count
                self.decoded_numbers.append(number)
                if number == self.deadly:
                    raise InterruptedError
                tokens = tuple(source[:-1].tolist())
                found.append([Hypothesis(tokens, -0.5), Hypothesis(tokens[:1], -0.75)])
            progress(len(sources))
            return found

        return translate

    def made_with(self, spec: WorkerSpec) -> dict[str, Any]:
        return {"threads": spec.threads}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("text") / "train"
    with IndexedWriter(prefix, 100) as writer:
        for number in TWICE:
            writer.add(SOURCES[number])
    return prefix


def tasks_of(prefix: Path, block_size: int = 3) -> list[BlockTask]:
    with tempfile.TemporaryDirectory() as scratch:
        return plan_tasks(find_sources(SourceText([prefix]), once=True, workdir=Path(scratch)), block_size)


def run(prefix: Path, folder: Path, teacher: EchoTeacher, tasks: list[BlockTask]) -> int:
    """Decode into `folder` and return the number of sentences that were reported as done."""
    folder.mkdir(exist_ok=True)
    progress: list[int] = []
    decoder = BlockDecoder(teacher, SETTINGS, partial(SourceText, (prefix,)), folder, MADE_FROM)
    work = decoder(WorkerSpec(5, 2, "cpu", folder / "log"))
    for task in tasks:
        work(task, progress.append)
    return sum(progress)


def read(folder: Path, tasks: list[BlockTask]) -> list[Decoded]:
    return [read_block(folder, task.block, made_from=MADE_FROM, hashes_N=task.hashes_N)[1] for task in tasks]


@pytest.mark.parametrize("block_size", [1, 3, 4, 11, 100])
def test_every_sentence_is_decoded_once_in_order(prefix: Path, tmp_path: Path, block_size: int) -> None:
    teacher, tasks = EchoTeacher(), tasks_of(prefix, block_size)
    assert [task.number for task in tasks] == list(range(-(-len(SOURCES) // block_size)))
    assert run(prefix, tmp_path, teacher, tasks) == sum(task.count for task in tasks) == len(SOURCES)
    assert teacher.decoded_numbers == [number for number in range(len(SOURCES)) if number not in UNTRANSLATED]
    found = [nbest for decoded in read(tmp_path, tasks) for nbest in decoded.hypotheses()]
    expected = []
    for number, source in enumerate(SOURCES):
        tokens = tuple(source[:-1].tolist())
        expected.append([] if number in UNTRANSLATED else [tokens, tokens[:1]])
    assert found == expected
    scores = np.concatenate([decoded.scores_H for decoded in read(tmp_path, tasks)])
    assert scores.tolist() == [-0.5, -0.75] * (len(SOURCES) - 2)


@pytest.mark.parametrize(("max_target", "limit"), [(6, 5), (9, 8), (1000, 999)])
def test_hypotheses_at_the_length_limit_are_marked(prefix: Path, tmp_path: Path, max_target: int, limit: int) -> None:
    """The limit is a·S+b, S being the sentence's length with </s>, and at most the model's number of positions."""
    tasks = tasks_of(prefix, 4)
    run(prefix, tmp_path, EchoTeacher(max_target_tokens=max_target), tasks)
    found = [flag for decoded in read(tmp_path, tasks) for flag in decoded.at_limit_H.tolist()]
    expected = []
    for number, length in enumerate(LENGTHS):
        if number not in UNTRANSLATED:
            expected += [each >= min(length + 2, limit) for each in (length - 1, min(length - 1, 1))]
    assert found == expected
    assert any(found) == (max_target == 6)


def test_header_contains_made_with(prefix: Path, tmp_path: Path) -> None:
    (task, *_) = tasks_of(prefix)
    run(prefix, tmp_path, EchoTeacher(), [task])
    header, _ = read_block(tmp_path, task.block, made_from=MADE_FROM, hashes_N=task.hashes_N)
    # what the translation has added too: two of the three sentences are translated
    assert header["made_with"] == {"threads": 2, "batch": 2}


def test_resumed_run_decodes_only_missing_blocks(prefix: Path, tmp_path: Path) -> None:
    tasks, messages = tasks_of(prefix), list[str]()
    run(prefix, tmp_path / "undisturbed", EchoTeacher(), tasks)
    with pytest.raises(InterruptedError):
        run(prefix, tmp_path / "resumed", EchoTeacher(deadly=7), tasks)
    assert sorted(path.name for path in (tmp_path / "resumed").iterdir()) == ["000000.gz", "000001.gz"]
    missing = missing_tasks(tasks, tmp_path / "resumed", MADE_FROM, say=messages.append)
    assert [task.number for task in missing] == [2, 3]
    run(prefix, tmp_path / "resumed", EchoTeacher(), missing)
    assert hash_tree(tmp_path / "resumed") == hash_tree(tmp_path / "undisturbed")
    assert not messages


def test_damaged_and_deleted_blocks_are_missing(prefix: Path, tmp_path: Path) -> None:
    tasks, messages = tasks_of(prefix), list[str]()
    run(prefix, tmp_path, EchoTeacher(), tasks)
    expected = hash_tree(tmp_path)
    (tmp_path / "000003.gz").unlink()
    (tmp_path / "000000.gz").write_bytes(b"")
    damaged = tmp_path / "000001.gz"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    (tmp_path / ".partial-17-000002.gz").write_bytes(b"half")
    missing = missing_tasks(tasks, tmp_path, MADE_FROM, say=messages.append)
    assert [task.number for task in missing] == [0, 1, 3]
    assert [text.startswith(f"{tmp_path}/00000{i}.gz: damaged") for i, text in enumerate(messages)] == [True, True]
    assert all(text.endswith("; it is decoded again") for text in messages)
    run(prefix, tmp_path, EchoTeacher(), missing)
    (tmp_path / ".partial-17-000002.gz").unlink()
    assert hash_tree(tmp_path) == expected


def test_foreign_block_is_refused_and_kept(prefix: Path, tmp_path: Path) -> None:
    tasks = tasks_of(prefix)
    run(prefix, tmp_path, EchoTeacher(), tasks)
    (tmp_path / "000000.gz").unlink()
    before = hash_tree(tmp_path)
    with pytest.raises(ForeignBlock, match=r"000001\.gz: made with another teacher"):
        missing_tasks(tasks, tmp_path, {"teacher": "u" * 64}, say=lambda _: None)
    assert hash_tree(tmp_path) == before


def test_empty_text_has_no_tasks(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "none", 100):
        pass
    assert tasks_of(tmp_path / "none") == []
