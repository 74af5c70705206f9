"""Forced-decoding scores of given sentence pairs, as tasks for executors: one task per piece of the files.

Each task writes a file of float64 [lines, 2]: the natural logarithm of the target's probability given the source, and
the number of target tokens, including </s>. The logarithm is NaN for a pair that is longer than the model allows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.codec import TEXT_FILE, TextCodec, insert_prefix, load_text_processor
from kdmt.corpus.lines import Piece, cut_lines
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.engine import EngineOptions, ScoringEngine
from kdmt.distill.teachers import CheckpointModel
from kdmt.errors import UserError
from kdmt.files import atomic_file
from kdmt.interop.ctranslate2_folder import is_model_folder
from kdmt.languages import Direction
from kdmt.models.checkpoint_folder import log_opened, resolve_checkpoint
from kdmt.workers.tasks import Worker, WorkerSpec

LINES_A_TASK = 2000
_LINES_AT_ONCE = 500  # between two reports of progress
_NAMED_BY = 16  # hexadecimal digits


@dataclass(frozen=True)
class PairTask:
    """A piece of the files, and the path of the file for its scores."""

    number: int
    source: Piece
    target: Piece
    out: Path

    @property
    def count(self) -> int:
        return self.source.count


@dataclass(frozen=True)
class PairScorer:
    """Opener of a worker that scores pairs.

    Attributes:
        folder: folder of a model in CTranslate2's format, or of a checkpoint, which PyTorch runs; with its tokenizer.
        compute_type: compute type of CTranslate2.
        raw: True if lines are raw text, False if they are processed text for the model's tokenizer.
        direction: one of several directions of the model; None for a model with one.
    """

    folder: Path
    compute_type: str
    raw: bool
    direction: Direction | None = None

    def __call__(self, spec: WorkerSpec) -> Worker:
        engine = self._open(spec)
        codec, direction = TextCodec.load(self.folder), self.direction
        if direction is None:
            return partial(self._score, codec, (), engine)
        return partial(self._score, codec.for_direction(direction), codec.prefix_ids(direction), engine)

    def _open(self, spec: WorkerSpec) -> ScoringEngine:
        if is_model_folder(self.folder):
            return CTranslate2Engine(
                self.folder, device=spec.device, compute_type=self.compute_type, threads=spec.threads
            )
        from kdmt.decode.engines.pytorch import open_folder  # loads torch
        from kdmt.runtime import use_threads

        use_threads(spec.threads)
        return open_folder(self.folder, EngineOptions(device=spec.device, threads=spec.threads))

    def _score(
        self,
        codec: TextCodec,
        prefix: Sequence[int],
        engine: ScoringEngine,
        task: PairTask,
        progress: Callable[[int], None],
    ) -> None:
        sources, targets = task.source.read(), task.target.read()
        scores = np.full((task.count, 2), np.nan)
        for start in range(0, task.count, _LINES_AT_ONCE):
            stop = min(start + _LINES_AT_ONCE, task.count)
            scores[start:stop] = self._score_lines(codec, prefix, engine, sources[start:stop], targets[start:stop])
            progress(stop - start)
        with atomic_file(task.out) as aside:
            np.save(aside, scores)

    def _score_lines(
        self,
        codec: TextCodec,
        prefix: Sequence[int],
        engine: ScoringEngine,
        sources: list[str],
        targets: list[str],
    ) -> NDArray[np.float64]:
        if self.raw:
            sources = [codec.text.preprocess_source(line) for line in sources]
            targets = [codec.text.preprocess_target(line) for line in targets]
        src, tgt = insert_prefix(codec.encode_source(sources), prefix), codec.encode_target(targets)
        scores = np.full((len(src), 2), np.nan)
        scores[:, 1] = [len(tokens) for tokens in tgt]
        max_source, max_target = engine.max_source_positions, engine.max_target_positions
        fitting = [i for i in range(len(src)) if len(src[i]) <= max_source and len(tgt[i]) <= max_target]
        found = engine.score_pairs([src[i] for i in fitting], [tgt[i] for i in fitting])
        scores[fitting, 0] = [log_probs.sum(dtype=np.float64) for log_probs in found]
        return scores


def pair_tasks(source: Path, target: Path, folder: Path, *, key: Mapping[str, object]) -> list[PairTask]:
    """Return a task for each piece of the files.

    The name of a task's file contains a hash of the key and of the text of the piece, so that a file that exists has
    the correct scores.

    Raises:
        UserError: if one file has more lines than the other.
    """
    tasks = []
    for number, (src, tgt) in enumerate(cut_lines([source, target], LINES_A_TASK)):
        name = hashlib.sha256(json.dumps([key, src.read(), tgt.read()], sort_keys=True).encode()).hexdigest()
        tasks.append(PairTask(number, src, tgt, folder / f"{number:06d}-{name[:_NAMED_BY]}.npy"))
    return tasks


def read_pair_scores(tasks: Sequence[PairTask]) -> NDArray[np.float64]:
    """Return the scores of all pairs in order: [lines, 2]."""
    return np.concatenate([np.load(task.out) for task in tasks]) if tasks else np.empty((0, 2))


def open_scorer(
    checkpoint: Path,
    engine: Path,
    *,
    compute_type: str,
    raw: bool,
    source_lang: str | None = None,
    target_lang: str | None = None,
) -> PairScorer:
    """Return the opener of a worker that scores pairs, with CTranslate2 if it can run the model, else with PyTorch.

    Args:
        checkpoint: path of a checkpoint, a run, or a model in CTranslate2's format.
        engine: folder to which a checkpoint is written in CTranslate2's format, unless it exists.
        compute_type: compute type of CTranslate2; PyTorch has float32 alone.
        raw: True if lines are raw text, False if they are processed text for the model's tokenizer.
        source_lang, target_lang: languages that choose a direction of the model (default: any).

    Raises:
        UserError: if there is no such model, it is non-autoregressive, the languages do not choose a direction, or only
            PyTorch runs the model and `compute_type` is another one.
    """
    if is_model_folder(checkpoint):
        return PairScorer(checkpoint, compute_type, raw, _direction(checkpoint, source_lang, target_lang))
    folder = resolve_checkpoint(checkpoint)
    log_opened(checkpoint, folder)
    model = CheckpointModel.read(folder)
    if model.is_nonautoregressive:
        raise UserError(f"{checkpoint}: is non-autoregressive and has no probability for a given target")
    direction = _direction(folder, source_lang, target_lang)
    if reason := model.why_not_ctranslate2:
        if compute_type != "float32":
            raise UserError(f"{checkpoint}: {reason}: PyTorch scores it in float32, not in {compute_type}")
        return PairScorer(folder, compute_type, raw, direction)
    if not engine.exists():
        from kdmt.interop.ctranslate2_export import export_checkpoint  # loads torch

        export_checkpoint(folder, engine)
    return PairScorer(engine, compute_type, raw, direction)


def _direction(folder: Path, source_lang: str | None, target_lang: str | None) -> Direction | None:
    """Return the direction of a model in which pairs are scored; None if it has one, and it has the languages."""
    text = load_text_processor(folder / TEXT_FILE)
    direction = text.find_direction(source_lang, target_lang)
    return direction if text.directions else None
