"""Scores of candidates by a model of the opposite direction: the log-probability of the source given the candidate."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
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
from kdmt.languages import Direction
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
        of_directions: whether the tags of the lines are their directions, in each of which the model scores.
    """

    checkpoint: Path
    settings: Distill
    texts: Sequence[TrainingText]
    nbest: Path
    sentences: Path
    folder: Path
    of_directions: bool = False

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
        if self.of_directions:
            self._write_directions(out, key)
            return out
        self._write_pairs({"": self._pairs()})
        tasks = self._score(key)
        lowest = _lowest(tasks)
        with atomic_file(out) as aside, aside.open("w") as file:
            file.writelines(f"{max(score, lowest):.7g}\n" for score in _scores(tasks))
        for path in (*self._pairs(), *(task.out for task in tasks)):
            path.unlink(missing_ok=True)
        return out

    def _write_directions(self, out: Path, key: dict[str, str]) -> None:
        """Write the scores of text with several directions, each by the model's translation to the source language.

        It needs 2 bytes of memory for each candidate.
        """
        names = list(dict.fromkeys(tag for text in self.texts for tag in iterate_lines(_tags(text))))
        numbers = self._write_pairs({name: self._pairs(name) for name in names})
        found = set(numbers)
        tasks = [self._score(key, Direction.parse(name)) if place in found else [] for place, name in enumerate(names)]
        written = [task for own in tasks for task in own]
        lowest, scores = _lowest(written), [_scores(own) for own in tasks]
        with atomic_file(out) as aside, aside.open("w") as file:
            file.writelines(f"{max(next(scores[number]), lowest):.7g}\n" for number in numbers)
        for path in (*(task.out for task in written), *(path for name in names for path in self._pairs(name))):
            path.unlink(missing_ok=True)

    def _pairs(self, name: str = "") -> tuple[Path, Path]:
        """Return the files of the candidates and of their sources, those of one direction if it is named."""
        end = f".{name}" if name else ""
        return self.folder / f"candidates{end}", self.folder / f"sources{end}"

    def _score(self, key: dict[str, str], direction: Direction | None = None) -> list[PairTask]:
        """Score all pairs in the missing files, and return the tasks of all files.

        Args:
            direction: direction of the pairs, if there are several.
        """
        engine = self.folder / f"engine-{key['checkpoint'][:_NAMED_BY]}"
        languages: dict[str, str] = {}
        if direction is not None:
            key = key | {"direction": str(direction)}
            languages = {"source_lang": direction.target, "target_lang": direction.source}
        scorer = open_scorer(self.checkpoint, engine, compute_type="float32", raw=False, **languages)
        candidates, sources = self._pairs("" if direction is None else str(direction))
        tasks = pair_tasks(candidates, sources, self.folder, key=key)
        missing = [task for task in tasks if not task.out.exists()]
        done = sum(task.count for task in tasks) - sum(task.count for task in missing)
        stage = self.folder.parent
        with block_progress(f"{stage.name}: backward scores", before=done) as advance:
            failed = open_executor(self.settings, stage).run(scorer, missing, advance)
        if failed:
            raise UserError(f"{stage.name}: the model of the feature 'backward': {failed[0].error}")
        return tasks

    def _write_pairs(self, paths: Mapping[str, tuple[Path, Path]]) -> array[int]:
        """Write the words and the source of each candidate, in the order of `nbest`.

        Args:
            paths: direction -> files of its candidates and their sources; one entry without a name for all text.

        Returns:
            The index in `paths` of the direction of each candidate, int16; empty if there is one direction.
        """
        distinct, owners = self._distinct_sources(), array("h")
        places = {name: place for place, name in enumerate(paths)}
        number, source, tag = -1, "", ""
        with ExitStack() as stack:
            files = {
                name: [stack.enter_context(path.open("w", newline="\n")) for path in own] for name, own in paths.items()
            }
            for line in iterate_lines(self.nbest):
                own, *_, words = line.split("\t")
                while number < int(own):  # a sentence may have no candidates
                    number, (source, tag) = number + 1, next(distinct)
                for file, text in zip(files[tag], (words, source), strict=True):
                    file.write(f"{text}\n")
                if self.of_directions:
                    owners.append(places[tag])
        return owners

    def _distinct_sources(self) -> Iterator[tuple[str, str]]:
        """Yield the distinct sentences, which are numbered in the order of their first lines, with their directions."""
        lines = (line for text in self.texts for line in iterate_lines(text.source))
        tags: Iterator[str] = itertools.repeat("")
        if self.of_directions:
            tags = (tag for text in self.texts for tag in iterate_lines(_tags(text)))
        following, pairs = 0, zip(lines, tags, strict=self.of_directions)
        for number, (line, tag) in zip(np.load(self.sentences, mmap_mode="r"), pairs, strict=True):
            if number == following:
                following += 1
                yield line, tag


def _tags(text: TrainingText) -> Path:
    assert text.tags is not None, "lines of several directions have tags"
    return text.tags


def _lowest(tasks: Sequence[PairTask]) -> float:
    """Return the lowest score of a pair that is not too long; 0 if there is none."""
    return min((float(scores[scores > -math.inf].min(initial=0)) for scores in map(_read, tasks)), default=0.0)


def _scores(tasks: Sequence[PairTask]) -> Iterator[float]:
    """Yield the scores of all pairs, with those of one task in memory."""
    for scores in map(_read, tasks):
        yield from scores.tolist()


def _read(task: PairTask) -> NDArray[np.float64]:
    """Return the mean log-probability of each pair of a task, -inf for a pair that is too long."""
    log_probs, counts = np.load(task.out).T
    mean: NDArray[np.float64] = np.where(np.isnan(log_probs), -np.inf, log_probs / counts)
    return mean
