"""Scores of candidates by a model of the opposite direction: the log-probability of the source given the candidate."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.checksum import known_sha256
from kdmt.config import Distill
from kdmt.corpus.lines import iterate_lines
from kdmt.distill.merge import TrainingText
from kdmt.distill.pair_scores import PairTask, open_scorer, pair_tasks
from kdmt.errors import UserError
from kdmt.files import atomic_file
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint
from kdmt.workers.open import open_executor
from kdmt.workers.progress import block_progress

_NAMED_BY = 16  # hexadecimal digits


@dataclass(frozen=True)
class BackwardScores:
    """Scores of the candidates of one text.

    Attributes:
        checkpoint: model from the target to the source language.
        settings: section `distill`, for the workers.
        texts: texts whose lines are numbered consecutively.
        nbest: file of the candidates.
        sentences: file with the index of the distinct sentence on each line.
        folder: folder for the scores, inside that of a stage. It exists, or its parent does.
    """

    checkpoint: Path
    settings: Distill
    texts: Sequence[TrainingText]
    nbest: Path
    sentences: Path
    folder: Path

    def file(self) -> Path:
        """Return a file with a number for each line of `nbest`, after computing the scores if it does not exist.

        The number is the mean log-probability of the tokens of the source, with </s>. A pair that is longer than the
        model allows has the lowest number of all.

        Raises:
            UserError: if there is no such model, or it cannot score.
        """
        key = {"checkpoint": checkpoint_sha256(resolve_checkpoint(self.checkpoint)), "nbest": known_sha256(self.nbest)}
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:_NAMED_BY]
        out = self.folder / f"{name}.txt"
        if out.exists():
            return out
        self.folder.mkdir(exist_ok=True)
        tasks = self._score(key)
        with atomic_file(out) as aside, aside.open("w") as file:
            lowest = min((float(scores[scores > -math.inf].min(initial=0)) for scores in map(_read, tasks)), default=0)
            for scores in map(_read, tasks):
                file.writelines(f"{max(score, lowest):.7g}\n" for score in scores.tolist())
        for path in (*self._pairs(), *(task.out for task in tasks)):
            path.unlink(missing_ok=True)
        return out

    def _pairs(self) -> tuple[Path, Path]:
        return self.folder / "candidates", self.folder / "sources"

    def _score(self, key: dict[str, str]) -> list[PairTask]:
        """Score all pairs in the missing files, and return the tasks of all files."""
        engine = self.folder / f"engine-{key['checkpoint'][:_NAMED_BY]}"
        scorer = open_scorer(self.checkpoint, engine, compute_type="float32", raw=False)
        candidates, sources = self._pairs()
        self._write_pairs(candidates, sources)
        tasks = pair_tasks(candidates, sources, self.folder, key=key)
        missing = [task for task in tasks if not task.out.exists()]
        done = sum(task.count for task in tasks) - sum(task.count for task in missing)
        stage = self.folder.parent
        with block_progress(f"{stage.name}: backward scores", before=done) as advance:
            failed = open_executor(self.settings, stage).run(scorer, missing, advance)
        if failed:
            raise UserError(f"{stage.name}: the model of the feature 'backward': {failed[0].error}")
        return tasks

    def _write_pairs(self, candidates: Path, sources: Path) -> None:
        """Write the words and the source of each candidate, in the order of `nbest`."""
        distinct = self._distinct_sources()
        number, source = -1, ""
        with candidates.open("w", newline="\n") as words_file, sources.open("w", newline="\n") as file:
            for line in iterate_lines(self.nbest):
                own, *_, words = line.split("\t")
                while number < int(own):  # a sentence may have no candidates
                    number, source = number + 1, next(distinct)
                words_file.write(f"{words}\n")
                file.write(f"{source}\n")

    def _distinct_sources(self) -> Iterator[str]:
        """Yield the distinct sentences, which are numbered in the order of their first lines."""
        lines = (line for text in self.texts for line in iterate_lines(text.source))
        following = 0
        for number, line in zip(np.load(self.sentences, mmap_mode="r"), lines, strict=True):
            if number == following:
                following += 1
                yield line


def _read(task: PairTask) -> NDArray[np.float64]:
    """Return the mean log-probability of each pair of a task, -inf for a pair that is too long."""
    log_probs, counts = np.load(task.out).T
    mean: NDArray[np.float64] = np.where(np.isnan(log_probs), -np.inf, log_probs / counts)
    return mean
