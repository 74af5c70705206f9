"""Downloads of files: resumed, retried, and from the first of several servers that has the file.

A download is written to a part file. Next to it, `<part>.json` records where its bytes came from, so that a later call
resumes it only if the file on the server is still the same.
"""

from __future__ import annotations

import errno
import http.client
import logging
import re
import shutil
import threading
import urllib.error
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from email.message import Message
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import IO, TypeGuard

from kdmt.checksum import file_sha256
from kdmt.config import SCHEMES
from kdmt.corpus import connection
from kdmt.corpus.connection import Address, Connection, RedirectRefused
from kdmt.errors import UserError
from kdmt.files import read_optional_json, write_json

_logger = logging.getLogger(__name__)

_WAITS_SECONDS = (1.0, 5.0, 25.0)  # before the first, second and third retry
_LONGEST_WAIT_SECONDS = 300.0  # a server that asks for a longer wait has failed
_MAX_BYTES = 64 * 10**9  # limit of a download whose size the server does not send
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BLOCK_BYTES = 1 << 20
_PASSING = (
    *(HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR),
    *(HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT),
)
_REDIRECTIONS = (301, 302, 303, 307, 308)

# Callback with the URL of a file, the number of its bytes so far and the total number, None if unknown.
Progress = Callable[[str, int, int | None], None]


class Stopped(Exception):
    """Exception raised if a download is stopped by its signal."""


class _Failed(UserError):
    """Error raised if a server does not send a file.

    Attributes:
        is_passing: whether a retry may succeed.
        retry_after: seconds that the server asks to wait.
    """

    def __init__(self, message: str, *, is_passing: bool, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.is_passing, self.retry_after = is_passing, retry_after


@dataclass(frozen=True)
class Origin:
    """The version of a file on a server.

    Attributes:
        url: URL of the file; '' if the bytes came from several servers.
        validator: strong ETag or date of the last change, for `If-Range`; None if the server sends neither.
        total: number of bytes of the file; None if unknown.
    """

    url: str
    validator: str | None
    total: int | None

    def condition(self) -> dict[str, str]:
        """Return the headers of a request that is answered only if the file has changed; none without a validator."""
        if self.validator is None:
            return {}
        name = "If-None-Match" if self.validator.startswith('"') else "If-Modified-Since"
        return {name: self.validator}


@dataclass
class Download:
    """A file to download.

    Attributes:
        url: URL by which the file is known, for `progress`.
        addresses: where it may be downloaded, in the order in which the servers are tried.
        part: file to write; the part of an earlier call is resumed.
        sha256: checksum of the file; None if it is unknown.
        progress: callback while bytes arrive.
        stop: signal that stops the download.
        known: version of the file that is in the part file; only another version is downloaded.
        num_bytes: number of bytes that came from servers.
        reached: addresses whose server could be reached.
    """

    url: str
    addresses: Sequence[Address]
    part: Path
    sha256: str | None = None
    progress: Progress | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    known: Origin | None = None
    num_bytes: int = 0
    reached: set[Address] = field(default_factory=set)

    @property
    def record(self) -> Path:
        """Return the path of the record of the part's origin."""
        return record_of(self.part)


def record_of(part: Path) -> Path:
    """Return the path of the record of the origin of a part file."""
    return part.with_name(f"{part.name}.json")


def download(job: Download) -> tuple[Address, Origin] | None:
    """Download a file to its part file, and return where it came from; None if the part file has this version already.

    The servers are tried in order. If a failure may be temporary, the server is tried again after the others, after a
    wait that grows or that the server asks for. A server that has sent a part of the file is asked for the rest first.

    Raises:
        UserError: if no server sends the file, the file has another SHA-256, the disk has too little space, or the file
            is too large.
        Stopped: if the signal is set.
    """
    for address in job.addresses:
        if urllib.parse.urlsplit(address.url).scheme not in SCHEMES:
            raise UserError(f"{address.url}: only http and https can be downloaded")
    failures: dict[Address, _Failed] = {}
    left = list(job.addresses)
    for wait in (*_WAITS_SECONDS, None):
        for number, address in enumerate(left):
            try:
                return _download_from(address, job)
            except _Failed as failure:
                failures[address] = failure
                if left[number + 1 :]:
                    _logger.warning("%s; trying %s", failure, left[number + 1].url)
        left = [address for address in left if failures[address].is_passing]
        if not left or wait is None:
            break
        wait = max(wait, min(failures[address].retry_after for address in left))
        _logger.warning("%s; trying again in %.0f seconds", failures[left[0]], wait)
        _pause(job, wait)
    raise UserError("; ".join(str(failures[address]) for address in job.addresses))


def _pause(job: Download, seconds: float) -> None:
    if job.stop.wait(seconds):
        raise Stopped


def _download_from(address: Address, job: Download) -> tuple[Address, Origin] | None:
    """Download a file from one server, again as long as the server sends more of it, and check its SHA-256."""
    is_fresh = False
    while True:
        kept = _size(job.part)
        try:
            origin = _transfer(address, job)
        except _Failed as failure:
            if failure.is_passing and _size(job.part) >= kept + connection.STALL_BYTES and _WAITS_SECONDS:
                _logger.warning("%s; going on with the rest", failure)
                _pause(job, max(_WAITS_SECONDS[0], failure.retry_after))
                continue
            raise
        if origin is None:
            return None
        found = None if job.sha256 is None else file_sha256(job.part)
        if found == job.sha256:
            job.record.unlink(missing_ok=True)
            return address, origin
        if not kept or is_fresh:
            raise _mismatch(address, job, found)
        _logger.warning("%s: the resumed download has another sha256, downloading the whole file again", address.url)
        is_fresh = True
        job.part.unlink()


def _mismatch(address: Address, job: Download, found: str | None) -> _Failed:
    """Rename a part with another SHA-256 than expected, and return the error."""
    assert found is not None
    assert job.sha256 is not None
    name = job.part.name.removeprefix(job.sha256[:16]).removesuffix(job.part.suffix)
    kept_at = job.part.replace(job.part.with_name(f"{found[:16]}{name}"))
    job.record.unlink(missing_ok=True)
    return _Failed(
        f"{address.url}: the sha256 of what came is {found}, expected {job.sha256}; it is kept as {kept_at}, "
        "where it is found if you correct the sha256",
        is_passing=False,
    )


def _transfer(address: Address, job: Download) -> Origin | None:
    """Request the missing bytes of a file once; errors of the server and the connection become `_Failed`."""
    url, part = address.url, job.part
    if job.stop.is_set():
        raise Stopped
    with Connection(job.stop) as connected:
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            return _request(address, job, connected)
        except urllib.error.HTTPError as error:
            raise _refused(url, error) from None
        except RedirectRefused as error:
            raise _Failed(str(error), is_passing=False) from None
        except (http.client.HTTPException, OSError, ValueError) as error:  # OSError: also URLError; ValueError: bad URL
            if job.stop.is_set():
                raise Stopped from None
            if _is_of_disk(error):
                raise OSError(error.errno, error.strerror, error.filename or str(part)) from None
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if connected.has_stalled:
                reason = f"fewer than {connection.STALL_BYTES:,} bytes came in {connection.STALL_SECONDS:g} seconds"
            kept = f"; {_size(part)} bytes are kept, a rerun resumes" if _size(part) else ""
            if connected.has_connected:
                job.reached.add(address)
            # a server that could never be reached may not exist
            is_passing = address in job.reached or isinstance(reason, TimeoutError)
            raise _Failed(f"{url}: download failed: {reason}{kept}", is_passing=is_passing) from None


def _is_of_disk(error: Exception) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK_ERRORS)


def _refused(url: str, error: urllib.error.HTTPError) -> _Failed:
    if error.code in _REDIRECTIONS:
        return _Failed(f"{url}: the server answers {error.code}: too many redirections", is_passing=False)
    retry_after = retry_after_seconds(error.headers.get("Retry-After"), error.headers.get("Date"))
    asks = f" and asks to wait {retry_after:,.0f} seconds" if retry_after else ""
    return _Failed(
        f"{url}: the server answers {error.code} {error.reason}{asks}",
        is_passing=error.code in _PASSING and retry_after <= _LONGEST_WAIT_SECONDS,
        retry_after=retry_after,
    )


def retry_after_seconds(value: str | None, date: str | None) -> float:
    """Return the seconds of a Retry-After header, which may be a date, in relation to the date of the response."""
    if value is None:
        return 0.0
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - parsedate_to_datetime(date or "")).total_seconds())
    except (ValueError, TypeError):
        return 0.0


# ------------------------------------------------------------------------------------------------------------ resuming


def _request(address: Address, job: Download, connected: Connection) -> Origin | None:
    """Append the missing bytes to the part, or write it from the beginning if the server cannot resume.

    Raises:
        UserError: if the connection is closed early, the disk has too little space, or the download is over the limit.
        ConnectionError: if the download has stalled.
    """
    before = _origin_of(job.part)
    done = _size(job.part) if _may_resume(address, job, before) else 0
    try:
        response = connected.open(address.request(_headers(address, job, before, done)))
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.NOT_MODIFIED and job.known is not None:
            return None
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            return _complete_part(address, job, connected, before, error.headers)
        raise
    with response:
        if response.status == HTTPStatus.PARTIAL_CONTENT and not _continues(response, done, address, before):
            if not done:
                raise _Failed(f"{address.url}: the server sends a part that was not requested", is_passing=False)
            return _again_from_start(address, job, connected)
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            done = 0
        return _receive(response, done, address, job, connected)


def _may_resume(address: Address, job: Download, before: Origin | None) -> bool:
    """Return whether a part may be resumed: a wrong rest must be noticed, by a validator or by the SHA-256."""
    return job.sha256 is not None or _is_validated(address, before)


def _is_validated(address: Address, before: Origin | None) -> bool:
    return before is not None and before.url == address.url and before.validator is not None


def _headers(address: Address, job: Download, before: Origin | None, done: int) -> Mapping[str, str]:
    if not done:
        return job.known.condition() if job.known is not None and job.known.url == address.url else {}
    headers = {"Range": f"bytes={done}-"}
    if before is not None and before.validator is not None and before.url == address.url:
        headers["If-Range"] = before.validator
    return headers


def _complete_part(
    address: Address, job: Download, connected: Connection, before: Origin | None, headers: Message
) -> Origin | None:
    """Take a part after which the server has nothing as the file, unless its size differs."""
    total = re.fullmatch(r"bytes \*/([0-9]{1,20})", headers.get("Content-Range", ""))
    if total is not None and int(total[1]) != _size(job.part):
        return _again_from_start(address, job, connected)
    return before or Origin(address.url, None, _size(job.part))


def _again_from_start(address: Address, job: Download, connected: Connection) -> Origin | None:
    job.part.unlink(missing_ok=True)
    return _request(address, job, connected)


def _continues(response: http.client.HTTPResponse, done: int, address: Address, before: Origin | None) -> bool:
    """Return whether a partial response is the rest of the same version of the file."""
    found = re.match(r"bytes ([0-9]{1,20})-[0-9]*/([0-9]{1,20}|\*)", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != done:
        return False
    if before is None:
        return True
    if found[2] != "*" and before.total is not None and int(found[2]) != before.total:
        return False
    validator = _validator(response)
    return before.url != address.url or None in (validator, before.validator) or validator == before.validator


def _validator(response: http.client.HTTPResponse) -> str | None:
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _origin_of(part: Path) -> Origin | None:
    """Return the recorded origin of a part; None for no or an empty part, and if the record is damaged."""
    if not _size(part):
        return None
    try:
        values = read_optional_json(record_of(part))
        return None if values is None else Origin(values["url"], values["validator"], values["total"])
    except (UserError, KeyError):
        return None


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


# ----------------------------------------------------------------------------------------------------------- receiving


def _receive(
    response: http.client.HTTPResponse, done: int, address: Address, job: Download, connected: Connection
) -> Origin:
    """Write a response to the part, which has `done` bytes of the file."""
    url, part = address.url, job.part
    total = None if response.length is None else done + response.length
    _check_space(url, part, response.length)
    origin = Origin(url, _validator(response), total)
    with part.open("ab" if done else "wb") as file:
        _record(job, origin, done)
        done = _copy(response, file, done, total, job, connected)
    if job.stop.is_set() and done != total:
        raise Stopped
    if connected.has_stalled and done != total:
        raise ConnectionError
    if done > _MAX_BYTES and total is None:
        part.unlink()
        raise UserError(f"{url}: more than {_MAX_BYTES / 1e9:g} GB came, and the server does not tell how many follow")
    if total is not None and done < total:
        message = f"{url}: truncated, {done} of {total} bytes came; they are kept, a rerun resumes"
        raise _Failed(message, is_passing=True)
    return origin


def _record(job: Download, origin: Origin, done: int) -> None:
    """Record the origin of the part before its first bytes; that of bytes from several servers has no validator."""
    before = _origin_of(job.part) if done else None
    if before is not None and before.url == origin.url and before.validator == origin.validator:
        return
    write_json(job.record, asdict(Origin("", None, origin.total) if done else origin))


def _check_space(url: str, part: Path, wanted: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if wanted is not None and wanted > free:
        raise UserError(f"{url}: {wanted:,} bytes are to come, and the disk of {part.parent} has {free:,} free")


def _copy(
    response: http.client.HTTPResponse,
    file: IO[bytes],
    done: int,
    total: int | None,
    job: Download,
    connected: Connection,
) -> int:
    """Copy a response to a file that has `done` bytes, and return its new number of bytes."""
    while (total is not None or done <= _MAX_BYTES) and not job.stop.is_set():
        block = response.read1(_BLOCK_BYTES)  # returns what has arrived; `read` would wait for the whole block
        if not block:
            break
        file.write(block)
        done += len(block)
        connected.num_bytes += len(block)
        job.num_bytes += len(block)
        if job.progress is not None:
            job.progress(job.url, done, total)
    return done
