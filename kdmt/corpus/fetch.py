"""Files of corpora: local, from a mirror folder or from the network, verified by their SHA-256."""

from __future__ import annotations

import base64
import errno
import http.client
import logging
import re
import shutil
import socket
import string
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeGuard, cast

from kdmt.checksum import file_sha256
from kdmt.config import ParallelText, Source, split_login
from kdmt.errors import UserError
from kdmt.files import check_file
from kdmt.outputs import writing

_logger = logging.getLogger(__name__)

_SCHEMES = ("http", "https")
_HANDLERS = (urllib.request.HTTPHandler, urllib.request.HTTPSHandler)
_TIMEOUT_SECONDS = 60.0  # maximum time without any data
_STALL_SECONDS, _STALL_BYTES = 120.0, 10_000  # a download with fewer bytes in this time has stalled
_MAX_BYTES = 64 * 10**9  # limit of a download whose size the server does not send
_MAX_NAME = 60  # maximum number of characters, each of at most four bytes
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BLOCK_BYTES = 1 << 20
_PART = ".part"  # suffix of an incomplete download

# Callback with the number of bytes so far and the total number, None if unknown.
Progress = Callable[[int, int | None], None]


# ---------------------------------------------------------------------------------------------------------- fetching


def fetch_corpus(
    corpus: ParallelText, *, downloads: Path, mirror: Path | None, base: Path, progress: Progress | None = None
) -> tuple[Path, ...]:
    """Return the local files of a corpus for `read_pairs`: (source, target), or one with both sides. See `fetch`."""
    return tuple(
        fetch(source, downloads=downloads, mirror=mirror, base=base, progress=progress) for source in corpus.files
    )


def fetch(
    source: Source, *, downloads: Path, mirror: Path | None, base: Path, progress: Progress | None = None
) -> Path:
    """Return a local file with the content of `source`, downloaded if needed and verified against its SHA-256.

    Args:
        source: path, or URL with its SHA-256.
        downloads: folder for files from the network; their names begin with their SHA-256.
        mirror: folder in which files of URLs are searched before the network is used.
        base: folder to which relative paths are relative.
        progress: callback during a download.

    Raises:
        UserError: if the file does not exist, its checksum does not match, or a download fails or is incomplete.
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
            _download(source, downloaded, progress)
    return downloaded


def _download_path(url: str, sha256: str, downloads: Path) -> Path:
    return downloads / f"{sha256[:16]}-{_file_name(url)}"


def partial_download(source: Source, downloads: Path) -> Path | None:
    """Return the path of an incomplete download; None for a source without a URL."""
    if source.url is None or source.sha256 is None:
        return None
    return _part_of(_download_path(source.url, source.sha256, downloads))


def _part_of(destination: Path) -> Path:
    return destination.with_name(f"{destination.name}{_PART}")


def _local_file(source: Source, base: Path) -> Path:
    path = base / cast(str, source.path)
    check_file(path)
    if source.sha256 is not None:
        found = file_sha256(path)
        if found != source.sha256:
            raise UserError(f"{path}: the sha256 is {found}, expected {source.sha256}")
    return path


def _url_path(url: str) -> PurePosixPath:
    return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path).lstrip("/"))


def _file_name(url: str) -> str:
    """Return the file name in a URL, without characters that are not allowed in file names, and not too long."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f/]", "_", _url_path(url).name)[-_MAX_NAME:] or "download"


def _find_in_mirror(url: str, sha256: str, mirror: Path) -> Path | None:
    """Return the first candidate with this SHA-256, or None if there are no candidates.

    Raises:
        UserError: if there are candidates and none has this SHA-256, or the mirror is not a folder.
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
    """Yield candidates, the most specific first: host and path, each suffix of the path, the file name anywhere."""
    parts = _url_path(url).parts
    if not parts or ".." in parts:
        return
    yield mirror.joinpath(urllib.parse.urlsplit(url).hostname or "", *parts)
    for start in range(len(parts)):
        yield mirror.joinpath(*parts[start:])
    yield from sorted(path for path in mirror.rglob("*") if path.name == parts[-1])


def _download(source: Source, destination: Path, progress: Progress | None) -> None:
    """Download to `destination` through a `.part` file in the same folder, from which a later call resumes."""
    url, sha256 = cast(str, source.url), cast(str, source.sha256)
    if urllib.parse.urlsplit(url).scheme not in _SCHEMES:
        raise UserError(f"{url}: only http and https can be downloaded")
    part = _part_of(destination)
    with _StallWatch() as watch:
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            _download_rest(source, part, watch, progress)
        except urllib.error.HTTPError as error:
            raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
        except (http.client.HTTPException, OSError, ValueError) as error:  # OSError: also URLError; ValueError: bad URL
            if _is_of_disk(error):
                raise OSError(error.errno, error.strerror, error.filename or str(part)) from None
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if watch.has_stalled:
                reason = f"fewer than {_STALL_BYTES:,} bytes came in {_STALL_SECONDS:g} seconds"
            kept = f"; {part.stat().st_size} bytes are kept, a rerun resumes" if part.is_file() else ""
            raise UserError(f"{url}: download failed: {reason}{kept}") from None
    found = file_sha256(part)
    if found != sha256:
        kept_at = part.replace(_download_path(url, found, destination.parent))
        raise UserError(
            f"{url}: the sha256 of what came is {found}, expected {sha256}; it is kept as {kept_at}, "
            "where a sha256 that is put right finds it"
        )
    part.replace(destination)


def _is_of_disk(error: Exception) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK_ERRORS)


def _download_rest(source: Source, part: Path, watch: _StallWatch, progress: Progress | None) -> None:
    """Append the missing bytes to `part`, or write it from the beginning if the server cannot resume.

    Raises:
        UserError: if the connection is closed early, the disk has too little space, or the download is over the limit.
        ConnectionError: if the download has stalled.
    """
    url = cast(str, source.url)
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(urllib.parse.quote(url, safe=string.punctuation), headers={"User-Agent": "kdmt"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    if source.login is not None:
        encoded = base64.b64encode(source.login.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")  # not sent to servers of redirects
    try:
        response = watch.open(request)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            return  # there is nothing after the part: it is complete, or its checksum will not match
        raise
    with response:
        if not _resumes_at(response, done):
            done = 0
        total = None if response.length is None else done + response.length
        _check_space(url, part, response.length)
        with part.open("ab" if done else "wb") as file:
            done = _copy(response, file, done, total, watch, progress)
    if watch.has_stalled and done != total:
        raise ConnectionError
    if done > _MAX_BYTES and total is None:
        part.unlink()
        raise UserError(f"{url}: more than {_MAX_BYTES / 1e9:g} GB came, and the server does not tell how many follow")
    if total is not None and done < total:
        raise UserError(f"{url}: truncated, {done} of {total} bytes came; they are kept, a rerun resumes")


def _check_space(url: str, part: Path, wanted: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if wanted is not None and wanted > free:
        raise UserError(f"{url}: {wanted:,} bytes are to come, and the disk of {part.parent} has {free:,} free")


def _resumes_at(response: http.client.HTTPResponse, start: int) -> bool:
    found = re.match(r"bytes ([0-9]{1,20})-", response.headers.get("Content-Range", ""))
    return response.status == http.HTTPStatus.PARTIAL_CONTENT and found is not None and int(found[1]) == start


def _copy(
    response: http.client.HTTPResponse,
    file: IO[bytes],
    done: int,
    total: int | None,
    watch: _StallWatch,
    progress: Progress | None,
) -> int:
    """Copy a response to a file that has `done` bytes, and return its new number of bytes."""
    while total is not None or done <= _MAX_BYTES:
        block = response.read1(_BLOCK_BYTES)  # returns what has arrived; `read` would wait for the whole block
        if not block:
            break
        file.write(block)
        done += len(block)
        watch.num_bytes += len(block)
        if progress is not None:
            progress(done, total)
    return done


class _StallWatch:
    """Opens connections, and closes those that receive almost no data.

    The timeout of a socket applies only while no data arrives: a server that sends single bytes or endless headers
    could keep the connection open forever.
    """

    def __init__(self) -> None:
        self.num_bytes = 0  # received so far
        self.has_stalled = False
        self._sockets: list[socket.socket] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _StallWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Send a request and return the response; redirects are followed to http and https only."""
        opener = urllib.request.build_opener(_Redirects, *(self._handler(kind) for kind in _HANDLERS))
        return cast(http.client.HTTPResponse, opener.open(request, timeout=_TIMEOUT_SECONDS))

    def _handler(self, kind: type[urllib.request.AbstractHTTPHandler]) -> type[urllib.request.AbstractHTTPHandler]:
        """Return a subclass of a urllib handler whose sockets are added to the watched ones."""
        sockets = self._sockets

        class Handler(kind):  # type: ignore[valid-type, misc]
            def do_open(self, http_class: Any, req: urllib.request.Request, **arguments: object) -> Any:
                class Connection(http_class):
                    def connect(self) -> None:
                        super().connect()
                        sockets.append(self.sock)

                return super().do_open(Connection, req, **arguments)

        return Handler

    def _watch(self) -> None:
        before = 0
        while not self._ended.wait(_STALL_SECONDS):
            if self.num_bytes - before < _STALL_BYTES:
                self.has_stalled = True
                for opened in self._sockets:
                    with suppress(OSError):  # closed already
                        socket.socket.shutdown(opened, socket.SHUT_RDWR)
            before = self.num_bytes


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirect handler that follows to http and https only; that of urllib follows to ftp too."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in _SCHEMES:
            raise UserError(f"{req.full_url}: redirected to {newurl}: only http and https can be downloaded")
        return super().redirect_request(req, fp, code, msg, headers, split_login(newurl)[0])
