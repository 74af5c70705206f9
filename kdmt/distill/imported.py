"""Import of translations of the training set by another system, as candidates for a training set.

Each line of the file has the form `index<TAB>translation`. `index` is the index of a line of `prepare/train.<source>`,
from 0; each index occurs once, in any order. If monolingual text is distilled too, the indices of its lines follow.
Translations are raw text: they are processed like the target side of a corpus. With several directions, the lines of
`prepare/train.src` have all of them, and a translation is in the target language of the direction of its line.

A complete set of indices does not prove that the file belongs to this training set: another preparation of the same
corpus may have the same number of lines. With `imported_sources` each line has the form
`index<TAB>source<TAB>translation`, and the source must be that line of the training set: either the same words, or raw
text that becomes the same words when it is processed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Failures
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.direction_codecs import LineCodecs
from kdmt.corpus.lines import iterate_lines
from kdmt.distill.candidates import format_candidate
from kdmt.distill.indexed_lines import indexed_lines
from kdmt.distill.text_ids import find_system_failures
from kdmt.errors import UserError
from kdmt.files import naming

IMPORTING = ".imported-"  # prefix of the name of the temporary folder, next to the stage's folder
_AT_ONCE = 1000  # lines that are tokenised together
_SHOWN = 5
_SHOWN_TEXT = 40


def write_imported(
    path: Path,
    codec: TextCodec,
    nbest: Path,
    offsets: Path,
    sentences: Path,
    *,
    count: int,
    settings: Failures,
    sources: Sequence[Path] | None = None,
    tags: Sequence[Path] = (),
) -> None:
    """Write the translations as candidates, one for each line of the source text.

    Args:
        count: number of lines of the source text.
        settings: checks of the translations.
        sources: files of the source text, if the file has the sources too.
        tags: files with the direction of each line of the source text, if there are several.

    Raises:
        UserError: if a line has no index, an index out of range, the index of another line or another source; or if
            indices are missing. The message names the line or the indices.
    """
    codecs = LineCodecs(codec, tags)
    check = None if sources is None else _SourceCheck(path, codecs, sources)
    spans_L = np.zeros((count, 2), dtype=np.int64)  # byte offset and number of bytes of each candidate in the file
    unordered = nbest.with_name(f"{nbest.name}.unordered")
    try:
        _write_unordered(path, codecs, unordered, spans_L, settings, check)
        _write_in_order(unordered, spans_L, nbest)
    finally:
        unordered.unlink(missing_ok=True)
    with naming(offsets):
        np.save(offsets, np.concatenate([[0], np.cumsum(spans_L[:, 1])]).astype("<i8"))
    with naming(sentences):
        np.save(sentences, np.arange(count, dtype=np.int64))


def _write_unordered(
    path: Path,
    codecs: LineCodecs,
    out: Path,
    spans_L: NDArray[np.int64],
    settings: Failures,
    check: _SourceCheck | None,
) -> None:
    lines_L = np.zeros(len(spans_L), dtype=np.int64)  # number of the line with each index, from 1; 0 for none
    start = 0
    with naming(out), out.open("wb") as file:
        given = indexed_lines(path, len(spans_L))
        while batch := list(islice(given, _AT_ONCE)):
            indices, words = [index for _, index, _ in batch], []
            for number, index, text in batch:
                if lines_L[index]:
                    raise UserError(f"{path}:{number}: index {index} is already in line {lines_L[index]}")
                lines_L[index] = number
                own = text if check is None else check(number, index, text)
                words.append(codecs.of(index).text.target_words(own))
            encoded = codecs.of(indices[0]).encode_target(words)  # all directions have one vocabulary
            codes = find_system_failures(words, encoded, settings).tolist()
            for index, own, code in zip(indices, words, codes, strict=True):
                data = format_candidate(index, 0.0, len(own.split()) + 1, code, own)
                file.write(data)
                spans_L[index] = start, len(data)
                start += len(data)
    missing = np.flatnonzero(lines_L == 0)
    if len(missing):
        shown = ", ".join(map(str, missing[:_SHOWN].tolist()))
        more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
        raise UserError(f"{path}: no line has the index {shown}{more} of {len(spans_L):,}")


class _SourceCheck:
    """Check of sources against those of the training set. It needs 8 bytes of memory per line.

    Args:
        path: path of the file, for messages.
        sources: files of the source text.
    """

    def __init__(self, path: Path, codecs: LineCodecs, sources: Sequence[Path]) -> None:
        self._path, self._codecs, self._sources = path, codecs, sources
        hashes = (hash_line(line) for line in self._lines())
        self._hashes_L = np.fromiter(hashes, dtype=np.uint64)

    def __call__(self, number: int, index: int, text: str) -> str:
        """Return the translation of `source<TAB>translation`, after a check that the source has this index."""
        source, tab, translation = text.partition("\t")
        if not tab:
            raise UserError(f"{self._path}:{number}: expected index<TAB>source<TAB>translation, found two columns")
        forms = (" ".join(source.split()), self._codecs.of(index).text.preprocess_source(source))
        if all(hash_line(form) != self._hashes_L[index] for form in forms):
            wanted = next(islice(self._lines(), index, None))
            raise UserError(
                f"{self._path}:{number}: not the source of line {index} of the training set: "
                f"{source[:_SHOWN_TEXT]!r}, not {wanted[:_SHOWN_TEXT]!r}"
            )
        return translation

    def _lines(self) -> Iterator[str]:
        return chain.from_iterable(map(iterate_lines, self._sources))


def hash_line(line: str) -> int:
    """Return a hash of a line, 64 bits."""
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest(), "little")


def _write_in_order(unordered: Path, spans_L: NDArray[np.int64], out: Path) -> None:
    if (np.diff(spans_L[:, 0]) > 0).all():
        unordered.replace(out)
        return
    with naming(out), unordered.open("rb") as source, out.open("wb") as target:
        for start, size in spans_L.tolist():
            target.write(os.pread(source.fileno(), size, start))
