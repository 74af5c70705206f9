"""Knowledge caches of several directions, each with the distributions of the teacher of its direction.

    knowledge/<data>/pivots/<direction>     for a direction with a pivot language: the translation of the source of each
                                            pair to it, an empty line for pairs of other directions

The distributions of a direction with a pivot language are those of the second model, p(y_t | y_<t, z), for the target y
of the pair. z is the intermediate text by which the distill stage got the candidate y. For another target, such as a
reference, it is that of the best candidate of the source.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from kdmt.config import setting_path
from kdmt.corpus.direction_codecs import read_directions
from kdmt.corpus.lines import iterate_lines
from kdmt.distill.direction_checkpoint import DirectionCheckpoint, choose_direction_checkpoint
from kdmt.distill.direction_counts import PIVOTS
from kdmt.distill.direction_teachers import DirectionInputs
from kdmt.distill.imported import hash_line
from kdmt.distill.sources import SourceLines
from kdmt.distill.teacher_forcing import PairTeacher
from kdmt.distill.training_text import NBEST, OFFSETS, SENTENCES
from kdmt.errors import UserError
from kdmt.files import atomic_file
from kdmt.languages import Direction
from kdmt.models.architecture import architecture
from kdmt.models.checkpoint import load_model
from kdmt.models.description import is_right_to_left
from kdmt.models.transformer import Transformer
from kdmt.objectives.model_checks import learns_from_cache, token_limits
from kdmt.stages.cache_teachers import CacheTeacher, cache_teachers
from kdmt.stages.distill import inputs_of
from kdmt.stages.training_inputs import tags_file, teacher_checkpoint, text_file
from kdmt.stages.workspace import Workspace

_FOLDER = "pivots"


def pivot_files(folder: Path) -> list[Path]:
    """Return the files of intermediate text in the folder of a cache."""
    return sorted(path for path in (folder / _FOLDER).glob("*") if not path.name.startswith("."))


def check_cache_teachers(workspace: Workspace, data: str) -> dict[Direction, DirectionCheckpoint]:
    """Return the checked teachers of the directions that have models of their own.

    Raises:
        UserError: if one is no autoregressive checkpoint from left to right, does not translate its direction, has
            another target vocabulary than the data, or cannot read the targets that a student learns from.
    """
    config = workspace.config
    settings = config.distill.model_copy(update={"engine": "torch", "compute_type": "auto"})
    inputs, found = inputs_of(workspace), {}
    for teacher in cache_teachers(config):
        if not teacher.checkpoints:
            continue
        own = settings.model_copy(update={"teachers": list(teacher.checkpoints)})
        text = DirectionInputs.of(inputs, teacher.reads)
        model = choose_direction_checkpoint(own, text, setting=teacher.setting)
        _check_models(workspace, data, teacher, model)
        found[teacher.direction] = model
    return found


def _check_models(workspace: Workspace, data: str, teacher: CacheTeacher, model: DirectionCheckpoint) -> None:
    for name, folder, description in zip(model.names, model.folders, model.models, strict=True):
        if description.is_nonautoregressive:
            raise UserError(f"{teacher.setting}: {name} is non-autoregressive: it predicts no next token")
        if is_right_to_left(folder):
            raise UserError(f"{teacher.setting}: {name} predicts targets from right to left")
        for path, student in workspace.config.trainings():
            shape = architecture(student.model.arch, student.model.overrides())
            (_, tokens), limit = token_limits(student.train, shape), description.max_target_positions
            if learns_from_cache(student) and data in student.data_names and tokens > limit:
                raise UserError(
                    f"{setting_path(path, 'train.max_target_tokens')} ({tokens}) is more than the max_target_positions "
                    f"({limit}) of {name} ({teacher.setting})"
                )
    wanted = workspace.prepare / f"dict.{workspace.direction.target}.txt"
    ours, theirs = model.target_symbols, inputs_of(workspace).corpus.codec().tgt_dictionary.symbols
    if ours != theirs:
        first = next((i for i, (x, y) in enumerate(zip_longest(ours, theirs)) if x != y), 0)
        raise UserError(
            f"{teacher.setting}: the target vocabulary of {model.names[0]} is not that of {wanted}, as a cache needs: "
            f"{len(ours)} symbols against {len(theirs)}, different from symbol {first} on"
        )


def pair_teachers(
    workspace: Workspace, data: str, models: Mapping[Direction, DirectionCheckpoint], folder: Path
) -> list[PairTeacher]:
    """Return the teachers of the pairs of a training set; each pair has one.

    Args:
        models: result of `check_cache_teachers`.
        folder: folder of the cache, in which `write_pivots` writes the intermediate text.
    """
    config = workspace.config
    if not cache_teachers(config):
        return [PairTeacher(partial(_load, (teacher_checkpoint(workspace),)))]
    source = text_file(workspace, data, workspace.direction.source)
    names = [str(each) for each in config.trained_directions]
    number_P = read_directions([tags_file(workspace, data)], names)
    found, is_named_P = [], np.zeros(len(number_P), dtype=bool)
    for teacher in cache_teachers(config):
        is_own_P = number_P == names.index(str(teacher.direction))
        is_named_P |= is_own_P
        model = models.get(teacher.direction)
        if model is None:
            found.append(PairTeacher(list, is_own_P))
            continue
        path = _pivots(folder, teacher) if teacher.has_pivot else source
        opens = partial(SourceLines, (path,), model.encode)
        found.append(PairTeacher(partial(_load, model.folders), is_own_P, opens))
    if config.teacher_fills_caches:
        found.append(PairTeacher(partial(_load, (teacher_checkpoint(workspace),)), ~is_named_P))
    return found


def _load(folders: Sequence[Path]) -> list[Transformer]:
    return [load_model(folder) for folder in folders]


# ---------------------------------------------------------------------------------------------------- intermediate text


@dataclass(frozen=True)
class _Candidates:
    """The candidates of the sources of a direction, which stay in their files.

    Attributes:
        hashes_N, numbers_N: hash of each source, in ascending order, and the number of its sentence.
        nbest, pivots: `nbest` and `pivots.tsv` of the distill stage.
        of_nbest_U, of_pivots_U: byte offset of the first line of each sentence in these files, int64 [U + 1].
    """

    hashes_N: NDArray[np.uint64]
    numbers_N: NDArray[np.int64]
    nbest: BinaryIO
    pivots: BinaryIO
    of_nbest_U: NDArray[np.int64]
    of_pivots_U: NDArray[np.int64]

    def pivot_of(self, source: str, target: str) -> str:
        """Return the intermediate text of the candidate that is the target, or else of the best candidate.

        It is empty if the source was not translated.
        """
        wanted = hash_line(source)
        place = int(np.searchsorted(self.hashes_N, np.uint64(wanted)))
        if place == len(self.hashes_N) or int(self.hashes_N[place]) != wanted:
            return ""
        number = int(self.numbers_N[place])
        pivots = {int(row[1]): row[2] for row in _rows(self.pivots, self.of_pivots_U, number)}
        candidates = enumerate(_rows(self.nbest, self.of_nbest_U, number), start=1)
        same = (rank for rank, row in candidates if row[-1] == target)
        rank = next((rank for rank in same if rank in pivots), 1)
        return pivots.get(rank, "")


def _rows(file: BinaryIO, offsets_U: NDArray[np.int64], number: int) -> Iterator[list[str]]:
    """Yield the columns of the lines of a sentence."""
    start, end = map(int, offsets_U[number : number + 2])
    for line in os.pread(file.fileno(), end - start, start).decode("utf-8").split("\n")[:-1]:
        yield line.split("\t")


def write_pivots(workspace: Workspace, data: str, folder: Path) -> None:
    """Write the intermediate text of each pair of a training set, unless it is there.

    Args:
        folder: folder of the cache.

    Raises:
        UserError: if no source of a direction was translated to the pivot language.
    """
    for teacher in cache_teachers(workspace.config):
        path = _pivots(folder, teacher)
        if teacher.has_pivot and not path.exists():
            _write_pivots(workspace, data, teacher, path)


def _pivots(folder: Path, teacher: CacheTeacher) -> Path:
    return folder / _FOLDER / str(teacher.direction)


def _write_pivots(workspace: Workspace, data: str, teacher: CacheTeacher, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    num_pairs = num_found = 0
    files = [text_file(workspace, data, lang) for lang in workspace.direction.sides]
    lines = zip(*map(iterate_lines, (*files, tags_file(workspace, data))), strict=True)
    with (
        _open_candidates(workspace, str(teacher.direction)) as candidates,
        atomic_file(path) as aside,
        aside.open("w", encoding="utf-8", newline="\n") as out,
    ):
        for source, target, tag in lines:
            text = ""
            if tag == str(teacher.direction):
                text = candidates.pivot_of(source, target)
                num_pairs, num_found = num_pairs + 1, num_found + bool(text)
            out.write(f"{text}\n")
        if num_pairs and not num_found:
            raise UserError(
                f"{workspace.training_set('distilled') / PIVOTS}: has no translation to {teacher.source!r} of a source "
                f"of {teacher.direction} in {files[0]}"
            )
    workspace.say(
        f"knowledge of {data}: {num_found:,} of {num_pairs:,} pairs of {teacher.direction} have an intermediate text "
        f"in {teacher.source!r}; the others are trained by the cross entropy alone"
    )


@contextmanager
def _open_candidates(workspace: Workspace, direction: str) -> Iterator[_Candidates]:
    """Open the candidates of the sources of a direction, as the distill stage found them.

    They need 16 bytes of memory for each source and 8 for each sentence of any direction.
    """
    distilled = workspace.training_set("distilled")
    numbers_L = np.load(distilled / SENTENCES, mmap_mode="r")
    hashes, numbers, line = array("Q"), array("q"), 0
    for text in inputs_of(workspace).texts():
        assert text.tags is not None
        for source, tag in zip(iterate_lines(text.source), iterate_lines(text.tags), strict=True):
            if tag == direction:
                hashes.append(hash_line(source))
                numbers.append(int(numbers_L[line]))
            line += 1
    hashes_N = np.frombuffer(hashes, dtype=np.uint64)
    order_N = np.argsort(hashes_N)
    offsets_U = np.load(distilled / OFFSETS, mmap_mode="r")
    with (distilled / NBEST).open("rb") as nbest, (distilled / PIVOTS).open("rb") as pivots:
        yield _Candidates(
            hashes_N[order_N],
            np.frombuffer(numbers, dtype=np.int64)[order_N],
            *(nbest, pivots),
            offsets_U,
            _offsets(distilled / PIVOTS, len(offsets_U) - 1),
        )


def _offsets(path: Path, num_sentences: int) -> NDArray[np.int64]:
    """Return the byte offset of the first line of each sentence, int64 [U + 1]; lines are in the order of sentences."""
    sizes_U = np.zeros(num_sentences + 1, dtype=np.int64)
    with path.open("rb") as file:
        for line in file:
            sizes_U[int(line.partition(b"\t")[0]) + 1] += len(line)
    return np.cumsum(sizes_U)
