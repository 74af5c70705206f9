"""Decoding with a teacher, as tasks for executors: one task per block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Decode
from kdmt.decode.search.lengths import max_lengths
from kdmt.distill.blocks import Block, DamagedBlock, Decoded, plan_blocks, read_block, write_block
from kdmt.distill.sources import Sources, Text
from kdmt.types import Hypothesis
from kdmt.workers.tasks import Worker, WorkerSpec

SourceIds = list[NDArray[np.integer]]
# (sources, their indices among all sources, their block, progress in sentences) -> hypotheses, best first, per source
Translate = Callable[[SourceIds, list[int], Block, Callable[[int], None]], list[list[Hypothesis]]]


class Teacher(Protocol):
    """The values from which a worker loads a teacher. They are small and can be sent to another process or machine."""

    @property
    def max_source_tokens(self) -> int:
        """Maximum source length, with </s>; longer sources are not decoded and have no hypotheses."""
        ...

    @property
    def max_target_tokens(self) -> int:
        """Maximum target length, with </s>."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def limits_lengths(self) -> bool:
        """Whether its hypotheses end at the maximum length of the decoding settings."""
        ...

    def open(self, spec: WorkerSpec, made_with: dict[str, object]) -> Translate:
        """Load the model and return a function that translates with it.

        Args:
            made_with: result of `made_with`; the function adds what changes while it translates.
        """
        ...

    def made_with(self, spec: WorkerSpec) -> dict[str, object]:
        """Return the libraries, processor and number of threads, on which the last digits of a score depend."""
        ...


@dataclass(frozen=True)
class BlockTask:
    """One block, with the lines and hashes of its sources."""

    block: Block
    lines_N: NDArray[np.int64]
    hashes_N: NDArray[np.uint64]

    @property
    def number(self) -> int:
        return self.block.number

    @property
    def count(self) -> int:
        return self.block.count


@dataclass(frozen=True)
class BlockDecoder:
    """Opener of a worker that decodes blocks.

    Each batch has sentences of one block only, so that the file of a block does not depend on other blocks.

    Attributes:
        teacher: teacher that translates.
        settings: decoding settings, whose maximum lengths the teacher uses too.
        open_text: function that opens the source text; it can be sent to another process.
        folder: folder of the block files.
        made_from: values of teacher, vocabulary and settings for the headers of blocks.
        is_pool: whether the hypotheses are a pool of candidates, which are stored with the number of their draws.
    """

    teacher: Teacher
    settings: Decode
    open_text: Callable[[], Text]
    folder: Path
    made_from: Mapping[str, object]
    is_pool: bool = False

    def __call__(self, spec: WorkerSpec) -> Worker:
        made_with = self.teacher.made_with(spec)
        translate = self.teacher.open(spec, made_with)
        return partial(self._decode, translate, self.open_text(), made_with)

    def _decode(
        self,
        translate: Translate,
        text: Text,
        made_with: Mapping[str, object],
        task: BlockTask,
        progress: Callable[[int], None],
    ) -> None:
        sources = text.sentences(task.lines_N)
        decoded = Decoded.of(
            self._translate(translate, sources, task.block, progress),
            hashes_N=task.hashes_N,
            max_len_N=length_limits(self.teacher, self.settings, sources),
            vocab_size=self.teacher.vocab_size,
            is_pool=self.is_pool,
        )
        write_block(self.folder, task.block, decoded, made_from=self.made_from, made_with=made_with)

    def _translate(
        self,
        translate: Translate,
        sources: SourceIds,
        block: Block,
        progress: Callable[[int], None],
    ) -> list[list[Hypothesis]]:
        longest = self.teacher.max_source_tokens
        fitting = [place for place, source in enumerate(sources) if 1 < len(source) <= longest]
        progress(len(sources) - len(fitting))
        hypotheses: list[list[Hypothesis]] = [[] for _ in sources]
        numbers = [block.first + place for place in fitting]
        found = translate([sources[place] for place in fitting], numbers, block, progress)
        for place, nbest in zip(fitting, found, strict=True):
            hypotheses[place] = nbest
        return hypotheses


def length_limits(teacher: Teacher, settings: Decode, sources: SourceIds) -> list[int]:
    """Return the maximum number of tokens before </s> of the hypotheses of each source."""
    limit = teacher.max_target_tokens - 1  # </s> takes the last position
    if not teacher.limits_lengths:
        return [limit] * len(sources)
    return max_lengths([len(source) for source in sources], settings.max_len_a, settings.max_len_b, limit=limit)


def plan_tasks(sources: Sources, block_size: int) -> list[BlockTask]:
    """Return a task for each block."""
    tasks = []
    for block in plan_blocks(len(sources), block_size):
        own = slice(block.first, block.first + block.count)
        tasks.append(BlockTask(block, sources.lines_U[own], sources.hashes_U[own]))
    return tasks


def missing_tasks(
    tasks: Iterable[BlockTask], folder: Path, made_from: Mapping[str, object], *, say: Callable[[str], None]
) -> list[BlockTask]:
    """Return the tasks whose file is missing or damaged; pass a message about each damaged one to `say`.

    Raises:
        ForeignBlock: if an intact file was made from something else; no file is changed.
    """
    missing = []
    for task in tasks:
        if not task.block.path(folder).exists():
            missing.append(task)
            continue
        try:
            read_block(folder, task.block, made_from=made_from, hashes_N=task.hashes_N)
        except DamagedBlock as error:
            say(f"{error}; it is decoded again")
            missing.append(task)
    return missing
