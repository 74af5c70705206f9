"""Candidates of other systems for a pool, from files of the user.

Each line of a file has the form `index<TAB>translation`, where `index` is the index of a line of the training text, as
for `distill.imported` (`kdmt.distill.imported`). An index may occur several times, in any order, or not at all.
Translations are raw text, in the target language of the direction of their line if there are several. Their lengths are
counted in tokens of the data, which are those of a teacher of kdmt, and the failures that they show are found.
Candidates are sorted by sentence in bounded memory: they are divided into files, each with the candidates of a range of
sentences, which is sorted in memory.

Shapes: L lines of the text, U distinct sentences, N sentences of a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Failures
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.direction_codecs import LineCodecs
from kdmt.distill.indexed_lines import indexed_lines
from kdmt.distill.text_ids import find_system_failures
from kdmt.errors import UserError
from kdmt.files import naming

_SENTENCES = 16_384  # of a range
_AT_ONCE = 1000  # lines that are tokenised together
_MAX_RANGES = 256  # files that are open at the same time
SystemCandidate = tuple[int, int, str]  # number of tokens with </s>, code of the failure (0 for none), words


@dataclass(frozen=True)
class SystemCandidates:
    """The candidates of one system, sorted by sentence.

    Attributes:
        name: name of the system.
        text: file with one candidate on each line, in the order of sentences: its number of tokens with </s>, the code
            of its failure and its words, with tabs between them.
        offsets: `.npy` file with the byte offset of each sentence's first candidate: int64 [U + 1].
        num_candidates: number of candidates.
        num_sentences: number of sentences that have candidates.
    """

    name: str
    text: Path
    offsets: Path
    num_candidates: int
    num_sentences: int

    def read(self, first: int, count: int) -> list[list[SystemCandidate]]:
        """Return the candidates of the sentences first, ..., first + count - 1."""
        offsets_U = np.load(self.offsets, mmap_mode="r")
        starts = offsets_U[first : first + count + 1].tolist()
        with self.text.open("rb") as file:
            file.seek(starts[0])
            data = file.read(starts[-1] - starts[0])
        bounds = pairwise(starts)
        texts = [data[start - starts[0] : stop - starts[0]].decode().split("\n")[:-1] for start, stop in bounds]
        return [[_parse(line) for line in own] for own in texts]


def _parse(line: str) -> SystemCandidate:
    length, code, words = line.split("\t", maxsplit=2)
    return int(length), int(code), words


def read_systems(
    systems: Mapping[str, str],
    codec: TextCodec,
    numbers_L: NDArray[np.int64],
    *,
    num_sentences: int,
    workdir: Path,
    settings: Failures,
    tags: Sequence[Path] = (),
) -> list[SystemCandidates]:
    """Sort the candidates of each system by sentence.

    Args:
        systems: name of each system -> path of its file.
        numbers_L: index of the sentence on each line of the text.
        workdir: folder for the sorted files.
        settings: checks of the candidates.
        tags: files with the direction of each line of the text, if there are several.

    Raises:
        UserError: if a line has no index, or one out of range, or a file has no candidate; the message names the line.
    """
    codecs = LineCodecs(codec, tags if systems else ())
    return [
        _read_system(name, Path(path), codecs, numbers_L, num_sentences, settings, workdir / f"system_{number}")
        for number, (name, path) in enumerate(systems.items(), start=1)
    ]


def _read_system(
    name: str,
    path: Path,
    codecs: LineCodecs,
    numbers_L: NDArray[np.int64],
    num_sentences: int,
    settings: Failures,
    out: Path,
) -> SystemCandidates:
    width = max(_SENTENCES, -(-num_sentences // _MAX_RANGES))
    sizes_U = np.zeros(num_sentences + 1, dtype="<i8")
    num_candidates = 0
    with TemporaryDirectory(dir=out.parent) as scratch, naming(out), out.open("wb") as file:
        ranges = [Path(scratch) / str(first) for first in range(0, max(num_sentences, 1), width)]
        with ExitStack() as files:
            opened = [files.enter_context(part.open("wb")) for part in ranges]
            given = indexed_lines(path, len(numbers_L))
            while batch := list(islice(given, _AT_ONCE)):
                words = [codecs.of(index).text.target_words(text) for _, index, text in batch]
                encoded = codecs.of(batch[0][1]).encode_target(words)  # all directions have one vocabulary
                codes = find_system_failures(words, encoded, settings).tolist()
                for (_, index, _), own, ids, code in zip(batch, words, encoded, codes, strict=True):
                    sentence = int(numbers_L[index])
                    opened[sentence // width].write(f"{sentence}\t{len(ids)}\t{code}\t{own}\n".encode())
                num_candidates += len(batch)
        for part in ranges:
            lines = [line.partition(b"\t") for line in part.read_bytes().splitlines(keepends=True)]
            for number, _, line in sorted(lines, key=lambda each: int(each[0])):  # a stable sort
                file.write(line)
                sizes_U[int(number) + 1] += len(line)
    if not num_candidates:
        raise UserError(f"{path}: has no candidate")
    offsets = out.with_name(f"{out.name}.npy")
    with naming(offsets):
        np.save(offsets, np.cumsum(sizes_U))
    return SystemCandidates(name, out, offsets, num_candidates, int((sizes_U > 0).sum()))


def candidates_of(systems: Sequence[SystemCandidates], first: int, count: int) -> list[list[list[SystemCandidate]]]:
    """Return for each of `count` sentences, beginning with `first`, the candidates of each system."""
    of_each = [system.read(first, count) for system in systems]
    return [[own[place] for own in of_each] for place in range(count)]
