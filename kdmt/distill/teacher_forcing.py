"""Filling of a knowledge cache: run the teacher over a data-bin and store its most probable tokens.

Pairs of different directions can have different teachers (`PairTeacher`), which may read other sources than those of
the data-bin: the text in their own vocabulary, or its translation to a pivot language.

Shapes: P pairs of a data-bin, B batch, M target tokens of a batch, C tokens of a chunk, V vocabulary,
K best tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdmt.corpus.batching import ParallelData, collate, join_side
from kdmt.corpus.codec import cut_source
from kdmt.corpus.knowledge_cache import KnowledgeWriter, Shape, fill_records
from kdmt.cuda_options import configure_cuda
from kdmt.decode.engines.engine import length_batches
from kdmt.distill.sources import Text
from kdmt.losses.cross_entropy import chunk_size
from kdmt.losses.word_kd import WholeDistribution
from kdmt.models.transformer import Transformer
from kdmt.runtime import use_threads
from kdmt.workers.tasks import Worker, WorkerSpec

Encoded = tuple[NDArray[np.int64], NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class PairTeacher:
    """The teacher of some pairs of a data-bin. It can be sent to another process.

    A pair whose teacher has no models, or whose source in `open_sources` has no words, has no distribution of a
    teacher: the target token has the probability 1, so that the Kullback-Leibler divergence is the cross entropy.

    Attributes:
        load: function that returns models in evaluation mode, whose probabilities are averaged; none for no teacher.
        is_own_P: mask of the pairs, bool [P]; None for all pairs.
        open_sources: function that opens the sources of all pairs in the vocabulary of the models, of which one that is
            too long is truncated; None for the sources of the data-bin.
    """

    load: Callable[[], Sequence[Transformer]]
    is_own_P: NDArray[np.bool_] | None = None
    open_sources: Callable[[], Text] | None = None


def fill_cache(
    writer: KnowledgeWriter,
    teachers: Sequence[Transformer] | Sequence[PairTeacher],
    data: ParallelData,
    *,
    device: torch.device | str,
    max_tokens: int,
    progress: Callable[[int], None],
) -> None:
    """Write all blocks that do not exist yet, and the header; a killed run loses only the block in progress.

    The batches of a block contain sentences of this block and of one teacher only. The probabilities of several models
    are averaged.

    Args:
        teachers: models in evaluation mode, which are moved to the device; or the teachers of different pairs, of which
            each pair must have one, and which are loaded when they are needed.
        data: sources and targets, one pair for each size of the writer.
        max_tokens: maximum number of padded tokens on the longer side of a batch.
        progress: function that is called with the number of sentences done.
    """
    if torch.device(device).type == "cuda":
        configure_cuda()
    readers = _open_readers(teachers, device)
    for block in range(len(writer)):
        if not writer.is_complete(block):
            _write_block(writer, block, readers, data, max_tokens)
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
        teachers: see `fill_cache`.
        open_data: function that returns sources and targets, one pair for each size of the writer.
        max_tokens: see `fill_cache`.
    """

    writer: KnowledgeWriter
    teachers: Sequence[PairTeacher]
    open_data: Callable[[], ParallelData]
    max_tokens: int

    def __call__(self, spec: WorkerSpec) -> Worker:
        use_threads(spec.threads)
        if torch.device(spec.device).type == "cuda":
            configure_cuda()
        return partial(self._fill, _open_readers(self.teachers, spec.device), self.open_data())

    def _fill(
        self, readers: Sequence[_Reader], data: ParallelData, task: CacheTask, progress: Callable[[int], None]
    ) -> None:
        _write_block(self.writer, task.number, readers, data, self.max_tokens)
        progress(task.count)


def missing_blocks(writer: KnowledgeWriter) -> list[CacheTask]:
    """Return a task for each block that does not exist yet."""
    return [
        CacheTask(block, len(writer.sentences(block))) for block in range(len(writer)) if not writer.is_complete(block)
    ]


@dataclass(frozen=True)
class _Reader:
    """The teacher of some pairs on a device. The models and the text are opened when they are needed."""

    teacher: PairTeacher
    device: torch.device | str

    @cached_property
    def models(self) -> list[Transformer]:
        return [model.to(self.device) for model in self.teacher.load()]

    @cached_property
    def _text(self) -> Text | None:
        return None if self.teacher.open_sources is None else self.teacher.open_sources()

    def own(self, indices: range) -> list[int]:
        """Return the pairs of a block that the teacher reads."""
        if self.teacher.is_own_P is None:
            return list(indices)
        return (np.flatnonzero(self.teacher.is_own_P[indices.start : indices.stop]) + indices.start).tolist()

    def sources(self, own: Sequence[int]) -> dict[int, NDArray[np.integer]] | None:
        """Return the sources of pairs that have words, by their index; None for those of the data-bin."""
        if self._text is None:
            return None
        found = self._text.sentences(np.array(own, dtype=np.int64))
        limit = min((model.config.max_source_positions for model in self.models), default=0)
        cut = {index: cut_source(np.asarray(ids), limit) for index, ids in zip(own, found, strict=True) if len(ids) > 1}
        return cut if limit else {}


def _open_readers(teachers: Sequence[Transformer] | Sequence[PairTeacher], device: torch.device | str) -> list[_Reader]:
    given = [each for each in teachers if isinstance(each, PairTeacher)]
    if not given:
        models = [each for each in teachers if isinstance(each, Transformer)]
        given = [PairTeacher(lambda: models)]
    return [_Reader(each, device) for each in given]


def _write_block(
    writer: KnowledgeWriter, block: int, readers: Sequence[_Reader], data: ParallelData, max_tokens: int
) -> None:
    records, total_V = _read_block(readers, data, writer.sentences(block), writer.shape, max_tokens)
    writer.write(block, records, total_V)


@torch.inference_mode()
def _read_block(
    readers: Sequence[_Reader], data: ParallelData, indices: range, shape: Shape, max_tokens: int
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the records of a block, and the sum of the distributions at temperature 1."""
    assert data.tgt_sizes is not None
    sizes = data.tgt_sizes[indices.start : indices.stop]
    ends = np.cumsum(sizes, dtype=np.int64)
    records = np.zeros(int(ends[-1]), dtype=shape.record)
    total_V = np.zeros(shape.vocab_size)

    def put(batch: Sequence[int], found: NDArray[Any]) -> None:
        start = 0
        for index in batch:
            place = index - indices.start
            size = int(sizes[place])
            records[ends[place] - size : ends[place]] = found[start : start + size]
            start += size

    for reader in readers:
        own = reader.own(indices)
        if not own:
            continue
        sources = reader.sources(own)
        taught = own if sources is None and reader.models else [index for index in own if index in (sources or {})]
        readable = [index for index in taught if _is_readable(reader.models, data, index, sources)]
        of_device_V = torch.zeros(shape.vocab_size, dtype=torch.float64, device=reader.device)
        lengths = [max(_source_size(data, index, sources), int(data.tgt_sizes[index])) for index in readable]
        for chosen in length_batches(lengths, max_tokens=max_tokens, batch_size=max_tokens):
            batch = [readable[place] for place in chosen]
            put(batch, _read_batch(reader, data, batch, sources, shape, of_device_V))
        total_V += of_device_V.cpu().numpy()
        if untaught := sorted(set(own).difference(readable)):
            tokens_M, _ = join_side(np.array(untaught, dtype=np.int64), data, 1)
            put(untaught, _certain_records(tokens_M, shape))
            total_V += np.bincount(tokens_M, minlength=shape.vocab_size)
    return records, total_V


def _source_size(data: ParallelData, index: int, sources: dict[int, NDArray[np.integer]] | None) -> int:
    return int(data.src_sizes[index]) if sources is None else len(sources[index])


def _is_readable(
    teachers: Sequence[Transformer],
    data: ParallelData,
    index: int,
    sources: dict[int, NDArray[np.integer]] | None,
) -> bool:
    assert data.tgt_sizes is not None
    return all(
        _source_size(data, index, sources) <= teacher.config.max_source_positions
        and data.tgt_sizes[index] <= teacher.config.max_target_positions
        for teacher in teachers
    )


def _certain_records(tokens_M: NDArray[np.int64], shape: Shape) -> NDArray[Any]:
    """Return the records of target tokens [M] that have the probability 1, at all temperatures."""
    others_K = np.arange(shape.k)
    ids_MK = np.where(others_K >= tokens_M[:, None], others_K + 1, others_K)  # the smallest ids without the target's
    ids_MK = np.concatenate([tokens_M[:, None], ids_MK[:, : shape.k - 1]], axis=1)
    log_probs_TMG = np.full((len(shape.temperatures), len(tokens_M), shape.k + 1), -np.inf)
    log_probs_TMG[:, :, 0] = 0.0
    return fill_records(shape, ids_MK, log_probs_TMG)


def _read_batch(
    reader: _Reader,
    data: ParallelData,
    indices: list[int],
    sources: dict[int, NDArray[np.integer]] | None,
    shape: Shape,
    total_V: Tensor,
) -> NDArray[Any]:
    """Return the records of the target tokens of a batch, sentence after sentence."""
    teachers, device, sides = reader.models, torch.device(reader.device), None
    if sources is not None:
        own = [sources[index] for index in indices]
        joined = (np.concatenate(own).astype(np.int64), np.array(list(map(len, own)), dtype=np.int64))
        sides = (joined, join_side(np.array(indices, dtype=np.int64), data, 1))
    batch = collate(indices, data, sides=sides).to(device)
    assert batch.prev_tokens_BT is not None
    assert batch.tgt_tokens_BT is not None
    real_BT = batch.tgt_tokens_BT.ne(teachers[0].pad)
    features = tuple(
        teacher.decode(batch.prev_tokens_BT, teacher.encode(batch.src_tokens_BS))[real_BT] for teacher in teachers
    )
    whole = WholeDistribution(features, tuple(teacher.output_weight_VD for teacher in teachers))
    chunk = chunk_size(device)
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
