"""Files of corpora: local, from mirrors or from the network, verified by their SHA-256."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType
from typing import cast

from kdmt.checksum import file_sha256, known_sha256
from kdmt.config import ParallelText, Source
from kdmt.corpus.connection import Address
from kdmt.corpus.download import Download, Origin, Progress, Stopped, download, record_of
from kdmt.corpus.mirror import addresses, check_mirrors, find_by_path, find_verified, is_server, url_path
from kdmt.errors import UserError
from kdmt.files import JsonType, check_file, read_optional_json, write_json
from kdmt.outputs import Locked, writing

_logger = logging.getLogger(__name__)

_MAX_NAME = 60  # characters
_MAX_NAME_BYTES = 180  # so that the names of part files and locks stay below the limit of file systems
_POLL_SECONDS = 0.2  # time between two looks at a lock
_VERSION_KEYS: Mapping[str, JsonType] = {
    **{"sha256": str, "url": str},
    **{"validator": (str, NoneType), "total": (int, NoneType)},
}
_PART = ".part"  # suffix of an incomplete download


@dataclass(frozen=True)
class Places:
    """The places of the content of sources.

    Attributes:
        downloads: folder for files from the network; their names begin with their SHA-256.
        mirrors: folders and bases of URLs (`kdmt.corpus.mirror`) that are searched before the server of a URL.
        base: folder to which relative paths are relative.
        alternatives: mapping from URLs to other URLs of the same file, which are tried if a server fails.
    """

    downloads: Path
    mirrors: tuple[str, ...] = ()
    base: Path = Path()
    alternatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fetched:
    """A local file with the content of a source.

    Attributes:
        path: path of the file.
        sha256: SHA-256 of the file.
        num_bytes: number of its bytes.
        num_received: number of bytes that came from the network for it.
        origin: host from which it was downloaded, or mirror folder in which it is; None for local files and earlier
            downloads.
    """

    path: Path
    sha256: str
    num_bytes: int
    num_received: int = 0
    origin: str | None = None


def fetch_corpus(corpus: ParallelText, places: Places, *, progress: Progress | None = None) -> tuple[Path, ...]:
    """Return the local files of a corpus for `read_pairs`: (source, target), or (tsv,). See `fetch`."""
    return tuple(fetch(source, places, progress=progress).path for source in corpus.files)


def fetch(
    source: Source, places: Places, *, progress: Progress | None = None, stop: threading.Event | None = None
) -> Fetched:
    """Return a local file with the content of `source`, downloaded if needed and verified against its SHA-256.

    Args:
        source: path, or URL with its SHA-256.
        places: places of the file.
        progress: callback during a download.
        stop: signal that stops a download.

    Raises:
        UserError: if the file does not exist, its checksum does not match, or a download fails or is incomplete.
        Stopped: if the signal is set.
    """
    if source.path is not None:
        return _local_file(source, places.base)
    url, sha256 = cast(str, source.url), source.sha256
    stop = stop or threading.Event()
    if sha256 is None:
        return fetch_unverified(url, places, login=source.login, progress=progress, stop=stop)
    downloaded = _download_path(url, sha256, places.downloads)
    if _is_complete(downloaded, sha256):
        return _fetched(downloaded)
    check_mirrors(places.mirrors)
    if (found := find_verified(url, sha256, places.mirrors)) is not None:
        return _fetched(found[0], origin=found[1])
    _warn_of_mirrors(url, places)
    job = Download(url, _addresses(url, source.login, places), _part_of(downloaded), sha256, progress, stop)
    with _locked(downloaded, url, stop):
        if _is_complete(downloaded, sha256):
            return _fetched(downloaded)
        arrived = download(job)
        job.part.replace(downloaded)
    assert arrived is not None  # no version is known
    return _fetched(downloaded, num_received=job.num_bytes, origin=arrived[0].host)


def fetch_unverified(
    url: str,
    places: Places,
    *,
    login: str | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Fetched:
    """Return a local file with the content of a URL whose SHA-256 is not known yet, downloaded if needed.

    The file is kept under the name by which `fetch` finds it once the SHA-256 is known, so that a verified fetch does
    not download it again. A later call asks the server whether the file has changed, and downloads it again only then.

    Args:
        url: URL of the file, without a login.
        places: places of the file; a mirror folder is used only if it has the file at host and path of the URL.
        login: `user:password` for the server of the URL.
        progress: callback during a download.
        stop: signal that stops a download.

    Returns:
        The file with `path`, `sha256` and `num_bytes`.

    Raises:
        UserError: if no server sends the file.
        Stopped: if the signal is set.
    """
    check_mirrors(places.mirrors)
    if (found := find_by_path(url, places.mirrors)) is not None:
        return _fetched(found[0], origin=found[1])
    _warn_of_mirrors(url, places)
    unnamed = _unnamed_path(url, places.downloads)
    stop = stop or threading.Event()
    job = Download(url, _addresses(url, login, places), _part_of(unnamed), None, progress, stop)
    with _locked(unnamed, url, stop):
        return _fetch_version(job, places)


@contextmanager
def _locked(path: Path, url: str, stop: threading.Event) -> Iterator[None]:
    """Hold the lock of a download; wait for another process that has it."""
    is_waiting = False
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(writing(path))
                break
            except Locked:
                if not is_waiting:
                    _logger.warning("%s: another process downloads it, waiting", url)
                is_waiting = True
                if stop.wait(_POLL_SECONDS):
                    raise Stopped from None
        yield


def _addresses(url: str, login: str | None, places: Places) -> list[Address]:
    return addresses(url, login, places.mirrors, places.alternatives)


def _warn_of_mirrors(url: str, places: Places) -> None:
    folders = [mirror for mirror in places.mirrors if not is_server(mirror)]
    if folders:
        _logger.warning("%s: not in the mirror %s, trying the network", url, ", ".join(folders))


def _fetch_version(job: Download, places: Places) -> Fetched:
    """Download a file without a known SHA-256, unless the version that was downloaded last is still on the server."""
    version = _Version.load(job, places)
    if version is not None:
        job.known = version.origin
    try:
        arrived = download(job)
    except UserError as error:
        if version is None:
            raise
        _logger.warning("%s; the earlier download %s is used", error, version.path)
        return _fetched(version.path)
    if arrived is None:
        assert version is not None
        return _fetched(version.path)
    sha256 = file_sha256(job.part)
    path = _download_path(job.url, sha256, places.downloads)
    job.part.replace(path)
    write_json(_version_record(job.part), asdict(arrived[1]) | {"sha256": sha256})
    return _fetched(path, num_received=job.num_bytes, origin=arrived[0].host)


@dataclass(frozen=True)
class _Version:
    """The version of a file that an earlier call has downloaded without knowing its SHA-256."""

    path: Path
    origin: Origin

    @classmethod
    def load(cls, job: Download, places: Places) -> _Version | None:
        """Return the recorded version of a file; None if there is none, or if its file is missing or has changed."""
        try:
            values = read_optional_json(_version_record(job.part), required=_VERSION_KEYS)
        except UserError:
            return None
        if values is None:
            return None
        path = _download_path(job.url, values["sha256"], places.downloads)
        if not _is_complete(path, values["sha256"]):
            return None
        return cls(path, Origin(values["url"], values["validator"], values["total"]))


def _version_record(part: Path) -> Path:
    return part.with_suffix(".json")


def _fetched(path: Path, *, num_received: int = 0, origin: str | None = None) -> Fetched:
    return Fetched(path, known_sha256(path), path.stat().st_size, num_received, origin)


def _is_complete(path: Path, sha256: str) -> bool:
    return path.is_file() and known_sha256(path) == sha256


def _download_path(url: str, sha256: str, downloads: Path) -> Path:
    return downloads / f"{sha256[:16]}-{_file_name(url)}"


def _unnamed_path(url: str, downloads: Path) -> Path:
    return downloads / f"url-{hashlib.sha256(url.encode()).hexdigest()[:16]}-{_file_name(url)}"


def partial_download(source: Source, downloads: Path) -> dict[Path, Path]:
    """Return the existing files of incomplete downloads, parts and the records of their origins, with the downloads.

    The path of a download is the one whose lock is held while it is written.

    A download without a known SHA-256, by `kdmt lock`, may be incomplete after the SHA-256 has become known elsewhere.
    """
    if source.url is None:
        return {}
    found = [_unnamed_path(source.url, downloads)]
    if source.sha256 is not None:
        found.append(_download_path(source.url, source.sha256, downloads))
    files = {path: each for each in found for path in (_part_of(each), record_of(_part_of(each)))}
    return {path: each for path, each in files.items() if path.is_file()}


def _part_of(destination: Path) -> Path:
    return destination.with_name(f"{destination.name}{_PART}")


def _local_file(source: Source, base: Path) -> Fetched:
    path = base / cast(str, source.path)
    check_file(path)
    if source.sha256 is not None:
        found = known_sha256(path)
        if found != source.sha256:
            raise UserError(f"{path}: the sha256 is {found}, expected {source.sha256}")
    return _fetched(path)


def _file_name(url: str) -> str:
    """Return the file name in a URL, without characters that are not allowed in file names, and not too long."""
    name = re.sub(r"[\x00-\x1f\x7f-\x9f/]", "_", url_path(url).name)[-_MAX_NAME:]
    return name.encode()[-_MAX_NAME_BYTES:].decode(errors="ignore") or "download"
