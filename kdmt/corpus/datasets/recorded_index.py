"""The recorded index of data sets: which releases exist, in which languages, and their sizes.

The files in `recorded/` are written by `data/datasets/record_index.py` from mtdata 0.5.1 and the database of opustools
1.9.0. A user who needs newer releases runs that script with newer versions of these packages and gives its folder.
"""

from __future__ import annotations

import functools
import json
import lzma
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.errors import UserError, describe_error

RECORDED = Path(__file__).with_name("recorded")


@dataclass(frozen=True)
class OpusRelease:
    """A release of a corpus in OPUS.

    Attributes:
        corpus: name of the corpus, such as `ParaCrawl`.
        version: version, such as `v9`.
        folder: name of the corpus in URLs, without `OPUS-`.
        has_tmx: whether the release is also published as TMX.
    """

    corpus: str
    version: str
    folder: str
    has_tmx: bool

    @property
    def name(self) -> str:
        """Name of the release in a pipeline, for example `ParaCrawl/v9`."""
        return f"{self.corpus}/{self.version}"


@dataclass(frozen=True)
class OpusPair:
    """A language pair of a release in OPUS, with the codes and the order of its file name.

    Attributes:
        release: release of the corpus.
        source: first code of the file name.
        target: second code of the file name.
        num_pairs: number of sentence pairs, None if unknown.
        size_bytes: size of the Moses archive, None if unknown.
    """

    release: OpusRelease
    source: str
    target: str
    num_pairs: int | None
    size_bytes: int | None

    @property
    def codes(self) -> tuple[str, str]:
        """Codes in the order of the file name."""
        return self.source, self.target


class DatasetIndex:
    """Lists of data sets, read from a folder when they are first needed.

    Args:
        folder: folder with the files that `data/datasets/record_index.py` writes.
    """

    def __init__(self, folder: Path = RECORDED) -> None:
        self._folder = folder

    @functools.cached_property
    def _opus(self) -> Mapping[tuple[str, str], tuple[OpusRelease, str]]:
        """The releases of OPUS, each with the text that lists its language pairs."""
        releases = {}
        for block in self._text("opus.txt.xz").removeprefix("#").split("\n#"):
            head, _, pairs = block.partition("\n")
            corpus, version, folder, tmx = head.split("\t")
            release = OpusRelease(corpus, version, folder or corpus, bool(tmx))
            releases[corpus, version] = (release, pairs)
        return releases

    def opus_releases(self) -> list[OpusRelease]:
        """Return all releases of OPUS, by corpus and version."""
        return [release for release, _ in self._opus.values()]

    def opus_pairs(self, release: OpusRelease) -> Iterator[OpusPair]:
        """Yield the language pairs of a release."""
        _, text = self._opus[release.corpus, release.version]
        for line in text.splitlines():
            source, target, pairs, kilobytes, *_ = (*line.split("\t"), "", "")
            size = 1000 * int(kilobytes) if kilobytes else None
            yield OpusPair(release, source, target, int(pairs) if pairs else None, size)

    @functools.cached_property
    def mtdata_records(self) -> Mapping[str, Mapping[str, Any]]:
        """Entries of mtdata's index by identifier, without those derived from OPUS's list."""
        records = (json.loads(line) for line in self._text("mtdata.jsonl.xz").splitlines())
        return {record["id"]: record for record in records}

    @functools.cached_property
    def mtdata_codes(self) -> Mapping[str, str]:
        """For each code of OPUS, the code in mtdata's identifiers."""
        return json.loads((self._folder / "mtdata-codes.json").read_text(encoding="utf-8"))

    @functools.cached_property
    def citations(self) -> Mapping[str, str]:
        """Publications by key, as BibTeX."""
        return json.loads(self._text("citations.json.xz"))

    def _text(self, name: str) -> str:
        path = self._folder / name
        try:
            return lzma.decompress(path.read_bytes()).decode()
        except (lzma.LZMAError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: the index of data sets cannot be read: {describe_error(error)}") from None


@functools.cache
def recorded_index() -> DatasetIndex:
    """Return the index that comes with the package."""
    return DatasetIndex()
