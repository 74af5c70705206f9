"""Tests of single downloads from a server with faults: retries, resuming, validators, other servers, stopping."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import Fault, FaultServer, etag

from kdmt.corpus import connection, download
from kdmt.corpus.connection import Address
from kdmt.corpus.download import Download, Stopped, record_of
from kdmt.errors import UserError

CONTENT = random.Random(1).randbytes(1 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(2).randbytes(1 << 20)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "_WAITS_SECONDS", (0.01, 0.02, 0.03))
    with FaultServer({"/a": CONTENT}).serving() as server:
        yield server


def job(server: FaultServer, folder: Path, *paths: str, sha256: str | None = SHA256) -> Download:
    addresses = [Address(f"{server.url}{path}") for path in paths or ("/a",)]
    return Download(addresses[0].url, addresses, folder / "a.part", sha256)


# ----------------------------------------------------------------------------------------------------------- retrying


@pytest.mark.parametrize(
    "fault",
    [Fault(503), Fault(500), Fault(502), Fault(504), Fault(408), Fault(429), Fault(cut=-1), Fault(cut=5_000)],
    ids=lambda fault: f"{fault.status} {fault.cut}",
)
def test_a_passing_failure_is_retried_three_times(server: FaultServer, tmp_path: Path, fault: Fault) -> None:
    server.faults["/a"] = [fault] * 3
    assert download.download(job(server, tmp_path)) is not None
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert len(server.requests) == 4
    server.faults["/a"] = [fault] * 4
    with pytest.raises(UserError, match=f"{server.url}/a: (the server answers|download failed|truncated)"):
        download.download(job(server, tmp_path / "other"))
    assert len(server.requests) == 8


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_lasting_failure_is_not_retried(server: FaultServer, tmp_path: Path, status: int) -> None:
    server.faults["/a"] = [Fault(status)]
    with pytest.raises(UserError, match=f"the server answers {status}"):
        download.download(job(server, tmp_path))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "1"},
        {"Retry-After": "Sun, 06 Nov 1994 08:49:38 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"},
    ],
    ids=["seconds", "date"],
)
def test_a_retry_waits_as_long_as_the_server_asks(
    server: FaultServer, tmp_path: Path, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    server.faults["/a"] = [Fault(429, headers)]
    started = time.monotonic()
    download.download(job(server, tmp_path))
    assert 1.0 <= time.monotonic() - started < 10.0
    assert "429 Too Many Requests and asks to wait 1 seconds; trying again in 1 seconds" in caplog.text


def test_a_server_that_asks_for_a_long_wait_has_failed(server: FaultServer, tmp_path: Path) -> None:
    server.faults["/a"] = [Fault(429, {"Retry-After": "86400"})]
    with pytest.raises(UserError, match=r"429 Too Many Requests and asks to wait 86,400 seconds$"):
        download.download(job(server, tmp_path))
    assert len(server.requests) == 1


def test_a_download_goes_on_through_twenty_interruptions(server: FaultServer, tmp_path: Path) -> None:
    """Close the connection after 50,000 bytes each time; every byte is sent once."""
    server.faults["/a"] = [Fault(cut=50_000)] * 20
    part = tmp_path / "a.part"
    download.download(job(server, tmp_path))
    assert part.read_bytes() == CONTENT
    assert server.ranges("/a") == [None, *(f"bytes={50_000 * number}-" for number in range(1, 21))]
    assert server.num_bytes["/a"] == len(CONTENT)
    assert not record_of(part).exists()


def test_a_content_length_that_is_too_large_does_not_spoil_the_file(server: FaultServer, tmp_path: Path) -> None:
    server.always = lambda _: Fault(headers={"Content-Length": str(len(CONTENT) + 1000)})
    download.download(job(server, tmp_path))
    assert (tmp_path / "a.part").read_bytes() == CONTENT


def test_a_content_length_that_is_too_small_is_refused(server: FaultServer, tmp_path: Path) -> None:
    server.faults["/a"] = [Fault(headers={"Content-Length": "1000"})]
    with pytest.raises(UserError, match=rf"the sha256 of what came is {hashlib.sha256(CONTENT[:1000]).hexdigest()}"):
        download.download(job(server, tmp_path))


def test_a_loop_of_redirections_ends(server: FaultServer, tmp_path: Path) -> None:
    server.always = lambda _: Fault(302, {"Location": "/a", "Content-Length": "0"})
    with pytest.raises(UserError, match="/a: the server answers 302: too many redirections"):
        download.download(job(server, tmp_path))


# ----------------------------------------------------------------------------------------------------------- resuming


def cut_download(server: FaultServer, folder: Path, **arguments: object) -> Path:
    """Download the first 300,000 bytes in a way that a later call resumes, and return the part file."""
    server.faults["/a"] = [Fault(cut=300_000), Fault(404)]
    with pytest.raises(UserError, match="404"):
        download.download(job(server, folder, **arguments))  # type: ignore[arg-type]
    part = folder / "a.part"
    assert part.stat().st_size == 300_000
    server.requests.clear()
    return part


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_a_later_call_resumes_the_same_version(server: FaultServer, tmp_path: Path, sha256: str | None) -> None:
    part = cut_download(server, tmp_path, sha256=sha256)
    assert json.loads(record_of(part).read_text()) == {
        "url": f"{server.url}/a",
        "validator": etag(CONTENT),
        "total": len(CONTENT),
    }
    download.download(job(server, tmp_path, sha256=sha256))
    assert part.read_bytes() == CONTENT
    assert [headers.get("if-range") for _, headers in server.requests] == [etag(CONTENT)]
    assert server.ranges("/a") == ["bytes=300000-"]


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("has_checksum", [True, False])
def test_versions_of_a_changed_file_are_never_mixed(
    server: FaultServer, tmp_path: Path, etags: bool, has_checksum: bool
) -> None:
    server.etags = etags
    part = cut_download(server, tmp_path, sha256=SHA256 if has_checksum else None)
    server.files["/a"] = OTHER
    download.download(job(server, tmp_path, sha256=hashlib.sha256(OTHER).hexdigest() if has_checksum else None))
    assert part.read_bytes() == OTHER


def test_a_server_that_ignores_if_range_does_not_mix_versions(server: FaultServer, tmp_path: Path) -> None:
    part = cut_download(server, tmp_path, sha256=None)
    server.files["/a"] = OTHER
    rest = {"Content-Range": f"bytes 300000-{len(OTHER) - 1}/{len(OTHER)}", "Content-Length": "748576"}
    server.faults["/a"] = [Fault(206, rest | {"ETag": etag(OTHER)})]
    download.download(job(server, tmp_path, sha256=None))
    assert part.read_bytes() == OTHER
    assert server.ranges("/a") == ["bytes=300000-", None]


@pytest.mark.parametrize("content_range", ["bytes 0-9/10", f"bytes 300000-1/{len(CONTENT) + 1}", "bytes */5", "rows 1"])
def test_another_range_than_requested_is_not_appended(server: FaultServer, tmp_path: Path, content_range: str) -> None:
    part = cut_download(server, tmp_path)
    server.faults["/a"] = [Fault(206, {"Content-Range": content_range, "Content-Length": "0"})]
    download.download(job(server, tmp_path))
    assert part.read_bytes() == CONTENT
    assert server.ranges("/a") == ["bytes=300000-", None]


def test_a_server_that_always_sends_a_wrong_part_has_failed(server: FaultServer, tmp_path: Path) -> None:
    server.always = lambda _: Fault(206, {"Content-Range": "bytes 7-9/10", "Content-Length": "0"})
    with pytest.raises(UserError, match="the server sends a part that was not requested"):
        download.download(job(server, tmp_path))


def test_a_damaged_part_is_downloaded_again_once(server: FaultServer, tmp_path: Path) -> None:
    """Damage the part as a crash of the machine may do; the record still matches the server."""
    part = cut_download(server, tmp_path)
    part.write_bytes(bytes(300_000))
    download.download(job(server, tmp_path))
    assert part.read_bytes() == CONTENT
    assert server.ranges("/a") == ["bytes=300000-", None]


def test_a_part_that_is_longer_than_the_file_is_replaced(server: FaultServer, tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    part.write_bytes(CONTENT + b"more")
    download.download(job(server, tmp_path))
    assert part.read_bytes() == CONTENT


# ------------------------------------------------------------------------------------------------------- other servers


@pytest.mark.parametrize(
    "fault",
    [Fault(404), Fault(500), Fault(cut=-1), Fault(302, {"Location": "/a"}), Fault(302, {"Location": "file:///etc/x"})],
    ids=["404", "500", "drop", "loop", "scheme"],
)
def test_the_next_server_is_tried_at_once(server: FaultServer, tmp_path: Path, fault: Fault) -> None:
    server.files["/b"] = CONTENT
    server.always = lambda path: fault if path == "/a" else None
    arrived = download.download(job(server, tmp_path, "/a", "/b"))
    assert arrived is not None
    assert arrived[0].url == f"{server.url}/b"
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert server.ranges("/b") == [None]


def test_a_server_that_cannot_be_reached_is_not_retried(server: FaultServer, tmp_path: Path) -> None:
    addresses = [Address("http://127.0.0.1:1/a"), Address(f"{server.url}/missing")]
    started = Download("x", addresses, tmp_path / "a.part", SHA256)
    with pytest.raises(
        UserError, match=r"127.0.0.1:1/a: download failed: .*refused; .*/missing: the server answers 404"
    ):
        download.download(started)
    assert len(server.requests) == 1


def test_a_stalled_server_is_left_for_the_next(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.2)
    server.files["/b"], server.block_bytes = CONTENT, 1000
    server.always = lambda path: Fault(seconds=0.1) if path == "/a" else None
    arrived = download.download(job(server, tmp_path, "/a", "/b"))
    assert arrived is not None
    assert arrived[0].url == f"{server.url}/b"
    assert (tmp_path / "a.part").read_bytes() == CONTENT


def test_another_server_sends_the_rest(server: FaultServer, tmp_path: Path) -> None:
    server.files["/b"] = CONTENT
    server.faults["/a"] = [Fault(cut=300_000), Fault(404)]
    download.download(job(server, tmp_path, "/a", "/b"))
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert server.ranges("/b") == ["bytes=300000-"]


def test_the_rest_of_another_file_is_not_kept(server: FaultServer, tmp_path: Path) -> None:
    """Let the second server have a file of the same size with other bytes, and the third one the right file."""
    server.files |= {"/b": OTHER, "/c": CONTENT}
    server.faults["/a"] = [Fault(cut=300_000), Fault(404)]
    arrived = download.download(job(server, tmp_path, "/a", "/b", "/c"))
    assert arrived is not None
    assert arrived[0].url == f"{server.url}/c"
    assert (tmp_path / "a.part").read_bytes() == CONTENT


def test_without_a_checksum_another_server_begins_anew(server: FaultServer, tmp_path: Path) -> None:
    server.files["/b"] = OTHER
    server.faults["/a"] = [Fault(cut=300_000), Fault(404)]
    download.download(job(server, tmp_path, "/a", "/b", sha256=None))
    assert (tmp_path / "a.part").read_bytes() == OTHER
    assert server.ranges("/b") == [None]


def test_all_failures_are_named(server: FaultServer, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        download.download(job(server, tmp_path, "/x", "/y"))
    assert str(caught.value) == (
        f"{server.url}/x: the server answers 404 Not Found; {server.url}/y: the server answers 404 Not Found"
    )


# ----------------------------------------------------------------------------------------------------------- stopping


def test_a_stopped_download_ends_soon_and_is_resumed(server: FaultServer, tmp_path: Path) -> None:
    server.always = lambda _: Fault(seconds=0.1)
    started = job(server, tmp_path)
    started.progress = lambda *_: started.stop.set()
    with pytest.raises(Stopped):
        download.download(started)
    kept = (tmp_path / "a.part").stat().st_size
    assert 0 < kept < len(CONTENT)
    server.always = lambda _: None
    download.download(job(server, tmp_path))
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert server.ranges("/a") == [None, f"bytes={kept}-"]


def test_a_silent_server_does_not_delay_the_stop(server: FaultServer, tmp_path: Path) -> None:
    server.faults["/a"] = [Fault(seconds=30.0)]
    started = job(server, tmp_path)
    timer = threading.Timer(0.2, started.stop.set)
    timer.start()
    before = time.monotonic()
    with pytest.raises(Stopped):
        download.download(started)
    assert time.monotonic() - before < 10.0
