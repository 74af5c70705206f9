"""Filling of a knowledge cache: run the teacher over a data-bin and store its most probable tokens.

Shapes: B batch, M target tokens of a batch, C tokens of a chunk, V vocabulary, K best tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdmt.corpus.batching import ParallelData, collate
from kdmt.corpus.knowledge_cache import KnowledgeWriter, Shape, fill_records
from kdmt.cuda_options import configure_cuda
from kdmt.decode.engines.engine import length_batches
from kdmt.losses.cross_entropy import chunk_size
from kdmt.losses.word_kd import WholeDistribution
from kdmt.models.transformer import Transformer
from kdmt.runtime import use_threads
from kdmt.workers.tasks import Worker, WorkerSpec

Encoded = tuple[NDArray[np.int64], NDArray[np.floating[Any]]]


def fill_cache(
    writer: KnowledgeWriter,
    teachers: Sequence[Transformer],
    data: ParallelData,
    *,
    device: torch.device | str,
    max_tokens: int,
    progress: Callable[[int], None],
) -> None:
    """Write all blocks that do not exist yet, and the header; a killed run loses only the block in progress.

    The batches of a block contain sentences of this block only. The probabilities of several teachers are averaged.

    Args:
        teachers: models in evaluation mode; they are moved to the device.
        data: sources and targets, one pair for each size of the writer.
        max_tokens: maximum number of padded tokens on the longer side of a batch.
        progress: function that is called with the number of sentences done.
    """
    if torch.device(device).type == "cuda":
        configure_cuda()
    for teacher in teachers:
        teacher.to(device)
    for block in range(len(writer)):
        if not writer.is_complete(block):
            _write_block(writer, block, teachers, data, device, max_tokens)
        progress(len(writer.sentences(block)))
    writer.finish()


@dataclass(frozen=True)
class CacheTask:
    """A block of a cache, as a task for executors."""

    number: int
    count: int  # number of sentences


@dataclass(frozen=True)
class CacheFiller:
    """Opener of a worker that writes blocks of a cache, for several GPUs.

    Attributes:
        writer: writer of the cache; the driver calls its `finish`.
        load_teacher: function that returns the teacher.
        open_data: function that returns sources and targets, one pair for each size of the writer.
        max_tokens: see `fill_cache`.
    """

    writer: KnowledgeWriter
    load_teacher: Callable[[], Transformer]
    open_data: Callable[[], ParallelData]
    max_tokens: int

    def __call__(self, spec: WorkerSpec) -> Worker:
        use_threads(spec.threads)
        if torch.device(spec.device).type == "cuda":
            configure_cuda()
        return partial(self._fill, self.load_teacher().to(spec.device), self.open_data(), spec.device)

    def _fill(
        self, teacher: Transformer, data: ParallelData, device: str, task: CacheTask, progress: Callable[[int], None]
    ) -> None:
        _write_block(self.writer, task.number, [teacher], data, device, self.max_tokens)
        progress(task.count)


def missing_blocks(writer: KnowledgeWriter) -> list[CacheTask]:
    """Return a task for each block that does not exist yet."""
    return [
        CacheTask(block, len(writer.sentences(block))) for block in range(len(writer)) if not writer.is_complete(block)
    ]


def _write_block(
    writer: KnowledgeWriter,
    block: int,
    teachers: Sequence[Transformer],
    data: ParallelData,
    device: torch.device | str,
    max_tokens: int,
) -> None:
    records, total_V = _read_block(teachers, data, writer.sentences(block), writer.shape, device, max_tokens)
    writer.write(block, records, total_V)


@torch.inference_mode()
def _read_block(
    teachers: Sequence[Transformer],
    data: ParallelData,
    indices: range,
    shape: Shape,
    device: torch.device | str,
    max_tokens: int,
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the records of a block, and the sum of the distributions at temperature 1."""
    assert data.tgt_sizes is not None
    sizes = data.tgt_sizes[indices.start : indices.stop]
    ends = np.cumsum(sizes, dtype=np.int64)
    records = np.zeros(int(ends[-1]), dtype=shape.record)
    total_V = torch.zeros(shape.vocab_size, dtype=torch.float64, device=device)
    readable = [index for index in indices if _is_readable(teachers, data, index)]
    lengths = [max(int(data.src_sizes[index]), int(data.tgt_sizes[index])) for index in readable]
    for chosen in length_batches(lengths, max_tokens=max_tokens, batch_size=max_tokens):
        batch = [readable[place] for place in chosen]
        found = _read_batch(teachers, data, batch, shape, device, total_V)
        start = 0
        for index in batch:
            place = index - indices.start
            size = int(sizes[place])
            records[ends[place] - size : ends[place]] = found[start : start + size]
            start += size
    return records, total_V.cpu().numpy()


def _is_readable(teachers: Sequence[Transformer], data: ParallelData, index: int) -> bool:
    assert data.tgt_sizes is not None
    return all(
        data.src_sizes[index] <= teacher.config.max_source_positions
        and data.tgt_sizes[index] <= teacher.config.max_target_positions
        for teacher in teachers
    )


def _read_batch(
    teachers: Sequence[Transformer],
    data: ParallelData,
    indices: list[int],
    shape: Shape,
    device: torch.device | str,
    total_V: Tensor,
) -> NDArray[Any]:
    """Return the records of the target tokens of a batch, sentence after sentence."""
    batch = collate(indices, data).to(device)
    assert batch.prev_tokens_BT is not None
    assert batch.tgt_tokens_BT is not None
    real_BT = batch.tgt_tokens_BT.ne(teachers[0].pad)
    features = tuple(
        teacher.decode(batch.prev_tokens_BT, teacher.encode(batch.src_tokens_BS))[real_BT] for teacher in teachers
    )
    whole = WholeDistribution(features, tuple(teacher.output_weight_VD for teacher in teachers))
    chunk = chunk_size(torch.device(device))
    parts = [
        _best_of(whole, slice(start, start + chunk), shape, total_V) for start in range(0, batch.num_tgt_tokens, chunk)
    ]
    ids_MK = torch.cat([ids for ids, _ in parts]).cpu().numpy()
    log_probs_TMG = torch.cat([log_probs for _, log_probs in parts], dim=1).cpu().numpy()
    return fill_records(shape, ids_MK, log_probs_TMG)


def _best_of(teacher: WholeDistribution, rows: slice, shape: Shape, total_V: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ids of the best tokens [C, K], and log-probabilities with the rest last [temperatures, C, K + 1]."""
    total_V += teacher.distribution(rows, temperature=1.0).probs.sum(0)
    found, ids_CK = [], None
    for temperature in shape.temperatures:
        distribution = teacher.distribution(rows, temperature=temperature)
        if ids_CK is None:
            ids_CK = distribution.logs.topk(shape.k, dim=1).indices
        # summed, since 1 minus the sum of the best would be mostly rounding error
        rest_C1 = distribution.probs.scatter_(1, ids_CK, 0.0).sum(1, keepdim=True)
        found.append(torch.cat([distribution.logs.gather(1, ids_CK), rest_C1.log()], dim=1))
    assert ids_CK is not None
    return ids_CK, torch.stack(found)
