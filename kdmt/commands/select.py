"""`kdmt select`: choose lines of a large monolingual text.

OUT           chosen lines in the order of the text
OUT.indices   index of each chosen line in the text, from 0
OUT.json      settings, SHA-256 of the text, and numbers of lines

OUT is written last, so that it exists only if all three files are complete.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.checksum import file_sha256
from kdmt.choices import SelectionMethod
from kdmt.corpus.clusters import KMeans, choose_by_clusters
from kdmt.corpus.embeddings import EmbeddingCommand, open_embeddings
from kdmt.corpus.lines import write_lines
from kdmt.corpus.ngram_diversity import NgramGain, choose_diverse
from kdmt.corpus.text_files import open_lines
from kdmt.errors import UserError
from kdmt.files import atomic_file, check_file, write_json
from kdmt.log import get_logger
from kdmt.outputs import writing

_logger = get_logger(__name__)
_OF_METHOD: dict[SelectionMethod, tuple[str, ...]] = {
    "ngrams": ("order", "decay", "characters", "like"),
    "clusters": ("embeddings", "command", "clusters", "seed"),
}
_LOGGED_LINES = 100_000


@dataclass(frozen=True)
class Selection:
    """Settings of the choice."""

    method: SelectionMethod
    count: int
    order: int = 3
    decay: float = 0.5
    characters: bool = False
    like: Path | None = None
    embeddings: Path | None = None
    command: str | None = None
    clusters: int = 5000
    seed: int = 1

    @classmethod
    def of_options(cls, method: SelectionMethod, count: int, given: Mapping[str, Any]) -> Selection:
        """Return the settings of a command line.

        Args:
            given: options that were given, without `method` and `count`.

        Raises:
            UserError: if an option has no effect with the method, or the embeddings are missing.
        """
        for name in given:
            if name not in _OF_METHOD[method]:
                raise UserError(f"--{name} has no effect with --method {method}")
        made = cls(method, count, **given)
        if method == "clusters" and made.embeddings is None:
            raise UserError("--method clusters: give --embeddings FILE.npy, which --command can write")
        return made

    def record(self) -> dict[str, Any]:
        """Return the settings of the method as JSON values."""
        names = ("method", "count", *_OF_METHOD[self.method])
        values = {name: value for name, value in asdict(self).items() if name in names}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def select_lines(text: Path, out: Path, selection: Selection) -> Iterator[str]:
    """Choose lines and write them; yield messages about the result.

    Raises:
        UserError: if an input cannot be read, one of the files exists, or the text has fewer lines than are to be
            chosen.
    """
    check_file(text)
    for path in (out, _beside(out, "indices"), _beside(out, "json")):
        if path.exists():
            raise UserError(f"{path}: exists already")
    with writing(out):
        sha256 = file_sha256(text)
        choose = _choose_diverse if selection.method == "ngrams" else _choose_by_clusters
        chosen, num_lines = choose(text, out, selection, sha256)
        write_json(_beside(out, "json"), {**selection.record(), "text_sha256": sha256, "lines": num_lines})
        with atomic_file(_beside(out, "indices")) as aside:
            write_lines(aside, map(str, chosen.tolist()))
        with atomic_file(out) as aside:
            write_lines(aside, _lines_at(text, chosen))
    yield f"{out}: {len(chosen):,} of {num_lines:,} lines"


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name}.{ending}")


def _lines_at(text: Path, chosen: NDArray[np.int64]) -> Iterator[str]:
    wanted = iter(chosen.tolist())
    following = next(wanted, None)
    for index, line in enumerate(open_lines(text)):
        if index == following:
            yield line
            following = next(wanted, None)


def _choose_diverse(text: Path, out: Path, selection: Selection, _sha256: str) -> tuple[NDArray[np.int64], int]:
    gain = NgramGain(selection.order, selection.decay, selection.characters)
    like = None if selection.like is None else open_lines(selection.like)
    with tempfile.TemporaryFile(dir=out.parent) as slots_file:
        chosen, num_lines = choose_diverse(open_lines(text), selection.count, gain, slots_file, like=like)
    if len(chosen) < selection.count:
        raise UserError(f"{text}: {len(chosen):,} lines with words, fewer than --count {selection.count:,}")
    return chosen, num_lines


def _choose_by_clusters(text: Path, _out: Path, selection: Selection, sha256: str) -> tuple[NDArray[np.int64], int]:
    path = selection.embeddings
    assert path is not None, "checked with the options"
    num_lines = sum(1 for _ in open_lines(text))
    if num_lines < selection.count:
        raise UserError(f"{text}: {num_lines:,} lines, fewer than --count {selection.count:,}")
    if num_lines < selection.clusters:
        raise UserError(f"{text}: {num_lines:,} lines, fewer than --clusters {selection.clusters:,}")
    if selection.command is not None:
        command = EmbeddingCommand(selection.command)
        if path.exists():
            command.check(path, sha256)
        else:
            with writing(path):
                command.write(path, lambda: open_lines(text), num_lines, sha256, _log_progress)
    embeddings_ND = open_embeddings(path, num_lines)
    return choose_by_clusters(embeddings_ND, selection.count, KMeans(selection.clusters, selection.seed)), num_lines


def _log_progress(done: int) -> None:
    if done % _LOGGED_LINES == 0:
        _logger.info(f"select: {done:,} embeddings")
