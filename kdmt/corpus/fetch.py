"""Raw text from local files, a mirror folder or the network: verified, then streamed line by line."""

from __future__ import annotations

import gzip
import http.client
import io
import itertools
import logging
import re
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, cast

import numpy as np

from kdmt.checksum import file_sha256
from kdmt.config import ParallelText, Source
from kdmt.corpus.indexed import IndexedDataset, checked_chunks, idx_path
from kdmt.corpus.subwords import join_subwords
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.outputs import writing
from kdmt.types import PAD

_logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 60.0
_BLOCK_BYTES = 1 << 20
_PART = ".part"  # ends the name of a download that is not whole
_BOM = b"\xef\xbb\xbf"

# Told the bytes that are there and how many there will be, None while that is unknown.
Progress = Callable[[int, int | None], None]


# ---------------------------------------------------------------------------------------------------------- fetching


def fetch_corpus(
    corpus: ParallelText, *, downloads: Path, mirror: Path | None, base: Path, progress: Progress | None = None
) -> tuple[Path, ...]:
    """The local files of a corpus, for `read_pairs`: (source, target), or (tsv,). See `fetch`."""
    return tuple(
        fetch(source, downloads=downloads, mirror=mirror, base=base, progress=progress) for source in _sources(corpus)
    )


def fetch(
    source: Source, *, downloads: Path, mirror: Path | None, base: Path, progress: Progress | None = None
) -> Path:
    """A local file with the content of `source`, verified against its sha256.

    Args:
        source: a path, or a URL with its sha256.
        downloads: where files from the network are kept, under names that begin with their sha256.
        mirror: a folder that answers for URLs before the network is tried.
        base: what relative paths are relative to.
        progress: called while bytes come from the network.

    Raises:
        UserError: no such file, another sha256, or a download that failed or ended too early.
    """
    if source.path is not None:
        return _local_file(source, base)
    url, sha256 = cast(str, source.url), cast(str, source.sha256)  # `Source` is valid only with both
    downloaded = _download_path(url, sha256, downloads)
    if downloaded.is_file() and file_sha256(downloaded) == sha256:
        return downloaded
    if mirror is not None:
        found = _find_in_mirror(url, sha256, mirror)
        if found is not None:
            return found
        _logger.warning("%s: not in the mirror %s, trying the network", url, mirror)
    with writing(downloaded, wait=lambda: _logger.warning("%s: another process downloads it, waiting", url)):
        if not (downloaded.is_file() and file_sha256(downloaded) == sha256):
            _download(url, sha256, downloaded, progress)
    return downloaded


def _download_path(url: str, sha256: str, downloads: Path) -> Path:
    return downloads / f"{sha256[:16]}-{_url_path(url).name or 'download'}"


def partial_download(source: Source, downloads: Path) -> Path | None:
    """Where the beginning of a download is kept; None for a source without a URL."""
    if source.url is None or source.sha256 is None:
        return None
    return _part_of(_download_path(source.url, source.sha256, downloads))


def _part_of(destination: Path) -> Path:
    return destination.with_name(f"{destination.name}{_PART}")


def _local_file(source: Source, base: Path) -> Path:
    path = base / cast(str, source.path)
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'there is no such file'}")
    if source.sha256 is not None:
        found = file_sha256(path)
        if found != source.sha256:
            raise UserError(f"{path}: the sha256 is {found}, expected {source.sha256}")
    return path


def _url_path(url: str) -> PurePosixPath:
    return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path).lstrip("/"))


def _find_in_mirror(url: str, sha256: str, mirror: Path) -> Path | None:
    """The first candidate with this sha256, None where there is no candidate at all.

    Raises:
        UserError: there are candidates, and all of them have another content; or the mirror is no folder.
    """
    if not mirror.is_dir():
        raise UserError(f"{mirror}: the mirror is not a folder")
    refused: dict[Path, str] = {}
    for candidate in _mirror_candidates(url, mirror):
        if candidate in refused or not candidate.is_file():
            continue
        found = file_sha256(candidate)
        if found == sha256:
            return candidate
        refused[candidate] = found
    if refused:
        path, found = next(iter(refused.items()))
        raise UserError(f"{path}: the sha256 is {found}, expected {sha256} for {url}")
    return None


def _mirror_candidates(url: str, mirror: Path) -> Iterator[Path]:
    """From the most to the least specific: host and path, every end of the path, then the file's name anywhere."""
    parts = _url_path(url).parts
    if not parts or ".." in parts:
        return
    yield mirror.joinpath(urllib.parse.urlsplit(url).hostname or "", *parts)
    for start in range(len(parts)):
        yield mirror.joinpath(*parts[start:])
    yield from sorted(path for path in mirror.rglob("*") if path.name == parts[-1])


def _download(url: str, sha256: str, destination: Path, progress: Progress | None) -> None:
    """Download to `destination`, through a `.part` beside it that a later call goes on from."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url}: only http and https can be downloaded")
    part = _part_of(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _download_rest(url, part, progress)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        kept = f"; {part.stat().st_size} bytes are kept, a rerun resumes" if part.is_file() else ""
        raise UserError(f"{url}: download failed: {reason}{kept}") from None
    found = file_sha256(part)
    if found != sha256:
        other = part.replace(_download_path(url, found, destination.parent))
        raise UserError(
            f"{url}: the sha256 of what came is {found}, expected {sha256}; it is kept as {other}, "
            "where a sha256 that is put right finds it"
        )
    part.replace(destination)


def _download_rest(url: str, part: Path, progress: Progress | None) -> None:
    """Append to `part` what it lacks, or write it anew where the server cannot resume.

    Raises:
        UserError: the connection was closed before all bytes came.
    """
    done = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "kdmt", **({"Range": f"bytes={done}-"} if done else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            return  # nothing lies beyond the part: it is whole, or its sha256 will tell
        raise
    with response:
        if not _resumes_at(response, done):
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        with part.open("ab" if done else "wb") as file:
            done = _copy(response, file, done, total, progress)
    if total is not None and done < total:
        raise UserError(f"{url}: truncated, {done} of {total} bytes came; they are kept, a rerun resumes")


def _resumes_at(response: http.client.HTTPResponse, start: int) -> bool:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == http.HTTPStatus.PARTIAL_CONTENT and found is not None and int(found[1]) == start


def _copy(
    response: http.client.HTTPResponse, file: IO[bytes], done: int, total: int | None, progress: Progress | None
) -> int:
    """Bytes of the file after copying, `done` of which were there before."""
    while True:
        try:
            block = response.read(_BLOCK_BYTES)
        except http.client.IncompleteRead as error:
            file.write(error.partial)
            if total is None:  # sent in chunks: nobody knows how many bytes are missing
                raise
            return done + len(error.partial)
        if not block:
            return done
        file.write(block)
        done += len(block)
        if progress is not None:
            progress(done, total)


# ----------------------------------------------------------------------------------------------------------- reading


def open_lines(path: Path, *, member: str | None = None, name: str | None = None) -> Iterator[str]:
    r"""The lines of a UTF-8 text file, without their ends.

    Only `\n` ends a line, carriage returns before it belonging to the end: `str.splitlines` would also cut at U+2028,
    U+0085 and others that occur inside sentences. A byte order mark at the start is dropped.

    Args:
        path: a text file, gzipped where the name ends in `.gz`, or a zip archive.
        member: the file to read inside the zip archive.
        name: what to call the file in messages.

    Raises:
        UserError: no such file or member, a broken archive, or a line that is not UTF-8 (with its number).
    """
    name = name or (f"{path}:{member}" if member else str(path))
    number = 0
    try:
        with ExitStack() as opened:
            for number, line in enumerate(_open_bytes(path, member, name, opened), start=1):
                if number == 1:
                    line = line.removeprefix(_BOM)
                yield line.rstrip(b"\r\n").decode()
    except UnicodeDecodeError:
        raise UserError(f"{name} line {number}: not UTF-8") from None
    except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{name}: truncated or damaged after line {number}: {error}") from None
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}") from None


def source_lines(source: Source, path: Path) -> Iterator[str]:
    """The lines of a source's local file: its text, or what the tokens of a data-bin spell.

    Raises:
        UserError: see `open_lines`; an index or a dictionary that is missing or damaged, an id beyond it.
    """
    if not source.is_tokens:
        return open_lines(path, member=source.member, name=source.name)
    return _spelled(path, source.remove_bpe)


def token_companions(path: Path) -> list[Path]:
    """What gives the tokens of a `.bin` their meaning: its index and its language's dictionary."""
    prefix = path.with_suffix("")
    return [idx_path(prefix), path.with_name(f"dict{prefix.suffix}.txt")]


def _spelled(path: Path, joiner: str | None) -> Iterator[str]:
    dictionary = Dictionary.load(token_companions(path)[1])
    for tokens, sizes in checked_chunks(IndexedDataset(path.with_suffix("")), len(dictionary)):
        ends = np.cumsum(sizes, dtype=np.int64)
        for end, size in zip(ends.tolist(), sizes.tolist(), strict=True):
            kept = [token for token in tokens[end - size : end].tolist() if token != PAD]
            yield join_subwords(dictionary.string(kept), joiner)


def _open_bytes(path: Path, member: str | None, name: str, opened: ExitStack) -> IO[bytes]:
    if member is None:
        file: IO[bytes] = opened.enter_context(path.open("rb"))
    else:
        archive = opened.enter_context(zipfile.ZipFile(path))
        if member not in archive.namelist():
            raise UserError(f"{name}: no such member; the archive holds {', '.join(archive.namelist()[:10])}")
        try:
            file = opened.enter_context(archive.open(member))
        except RuntimeError as error:  # encrypted, or a compression that Python lacks
            raise UserError(f"{name}: {error}") from None
    if (member or path.name).endswith(".gz"):
        file = cast(IO[bytes], opened.enter_context(gzip.GzipFile(fileobj=file)))
    return io.BufferedReader(cast(io.RawIOBase, file), _BLOCK_BYTES)  # its line iteration is C for archives too


def read_pairs(corpus: ParallelText, paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """The (source, target) lines of a corpus.

    Args:
        corpus: two files, or a TSV whose columns are counted from 0.
        paths: what `fetch_corpus` gave for it.

    Raises:
        UserError: see `open_lines`; two files of different length, a TSV line with too few columns, no line at all.
    """
    names = [source.name for source in _sources(corpus)]
    pairs = _read_tsv(corpus, paths[0], names[0]) if corpus.tsv is not None else _read_two_files(corpus, paths, names)
    empty = True
    for pair in pairs:
        empty = False
        yield pair
    if empty:
        raise UserError(f"{' and '.join(names)}: the corpus is empty")


def _sources(corpus: ParallelText) -> list[Source]:
    return [source for source in (corpus.source, corpus.target, corpus.tsv) if source is not None]


def _read_two_files(corpus: ParallelText, paths: Sequence[Path], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    lines = [source_lines(source, path) for path, source in zip(paths, _sources(corpus), strict=True)]
    for num_pairs, (source_line, target_line) in enumerate(itertools.zip_longest(*lines)):
        if source_line is None or target_line is None:
            longer = num_pairs + 1 + sum(1 for _ in lines[source_line is None])
            num_source, num_target = (num_pairs, longer) if source_line is None else (longer, num_pairs)
            raise UserError(f"{names[0]} has {num_source} lines, {names[1]} has {num_target}: they are no pairs")
        yield source_line, target_line


def _read_tsv(corpus: ParallelText, path: Path, name: str) -> Iterator[tuple[str, str]]:
    needed = max(corpus.source_column, corpus.target_column) + 1
    for number, line in enumerate(open_lines(path, member=cast(Source, corpus.tsv).member, name=name), start=1):
        columns = line.split("\t")
        if len(columns) < needed:
            raise UserError(f"{name} line {number}: {len(columns)} columns, at least {needed} expected")
        yield columns[corpus.source_column], columns[corpus.target_column]
