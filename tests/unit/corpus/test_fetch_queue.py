"""Tests of several downloads at once: limits, errors, interruption, and the line at the end."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from fault_server import Fault, FaultServer

from kdmt.config import Source
from kdmt.corpus import download
from kdmt.corpus.fetch import Fetched, Places
from kdmt.corpus.fetch_queue import describe_fetched, fetch_all
from kdmt.errors import UserError

FILES = {f"/{number}": random.Random(number).randbytes(400_000) for number in range(12)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "_WAITS_SECONDS", (0.01, 0.02, 0.03))
    with FaultServer(dict(FILES)).serving() as server:
        yield server


def sources(server: FaultServer, host: str = "127.0.0.1") -> list[Source]:
    url = server.url.replace("127.0.0.1", host)
    return [Source(url=f"{url}{path}", sha256=hashlib.sha256(data).hexdigest()) for path, data in FILES.items()]


def named(wanted: Sequence[Source]) -> list[tuple[str, Source]]:
    """Return sources with the places where they are given."""
    return [(f"train.{number}", source) for number, source in enumerate(wanted)]


def test_files_are_returned_in_the_order_of_the_sources(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"x")
    wanted = [*sources(server)[::-1], Source(path="local"), sources(server)[3]]
    seen: dict[str, tuple[int, int | None]] = {}
    fetched = fetch_all(
        named(wanted),
        Places(tmp_path / "d", base=tmp_path),
        at_once=4,
        progress=lambda name, done, total: seen.update({name: (done, total)}),
    )
    assert [each.path.read_bytes() for each in fetched] == [*list(FILES.values())[::-1], b"x", FILES["/3"]]
    assert seen == {f"{server.url}{path}": (400_000, 400_000) for path in FILES}
    assert len(server.requests) == len(FILES)  # also of the file that two sources name
    assert (
        describe_fetched(fetched)
        == "4,800,000 bytes downloaded: 4,800,000 bytes (12 files) from 127.0.0.1, 1 file present"
    )
    again = fetch_all(named(wanted), Places(tmp_path / "d", base=tmp_path), at_once=4)
    assert describe_fetched(again) == "0 bytes downloaded: 13 files present"


def test_at_most_two_downloads_are_from_one_host(server: FaultServer, tmp_path: Path) -> None:
    server.always = lambda _: Fault(seconds=0.01)
    fetch_all(named(sources(server)), Places(tmp_path / "d"), at_once=8)
    assert server.most_at_once == 2


def test_files_of_another_host_do_not_wait(server: FaultServer, tmp_path: Path) -> None:
    server.always = lambda _: Fault(seconds=0.02)
    fetch_all(named([*sources(server)[:6], *sources(server, "localhost")[6:]]), Places(tmp_path / "d"), at_once=8)
    assert server.most_at_once == 4


def test_an_error_stops_the_other_downloads_and_is_raised(server: FaultServer, tmp_path: Path) -> None:
    server.faults["/0"] = [Fault(404)]
    server.always = lambda path: Fault(seconds=2.0) if path == "/1" else None
    before = time.monotonic()
    with pytest.raises(UserError, match=f"^train.0: {server.url}/0: the server answers 404"):
        fetch_all(named(sources(server)), Places(tmp_path / "d"), at_once=2)
    assert time.monotonic() - before < 10.0
    assert {path for path, _ in server.requests} <= {"/0", "/1", "/2"}
    server.always = lambda _: None
    fetched = fetch_all(named(sources(server)), Places(tmp_path / "d"), at_once=2)
    assert [each.path.read_bytes() for each in fetched] == list(FILES.values())


def test_mirrors_and_downloads_are_counted_apart(tmp_path: Path) -> None:
    def fetched(name: str, received: int, origin: str | None) -> Fetched:
        return Fetched(tmp_path / name, "0" * 64, 1000, received, origin)

    files = [
        fetched("a", 1000, "h"),
        fetched("b", 600, "h"),
        fetched("c", 5, "g"),
        fetched("d", 0, "/m"),
        fetched("e", 0, None),
    ]
    assert describe_fetched(files) == (
        "1,605 bytes downloaded: 1,600 bytes (2 files) from h, 5 bytes (1 file) from g, 1 file in the mirror /m, "
        "1 file present"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_downloads_go_on(server: FaultServer, tmp_path: Path, number: signal.Signals) -> None:
    """Interrupt the process twenty times at random moments; the last one finishes with every file."""
    server.block_bytes = 20_000
    server.always = lambda _: Fault(seconds=0.02)
    drawn, wanted = random.Random(number), sources(server)
    context = multiprocessing.get_context("fork")
    for attempt in range(21):
        process = context.Process(target=_fetch_quietly, args=(wanted, tmp_path / "d"))
        process.start()
        process.join(drawn.uniform(0.05, 0.3) if attempt < 20 else 60)
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, number)
        process.join()
    assert process.exitcode == 0
    fetched = fetch_all(named(wanted), Places(tmp_path / "d"), at_once=2)
    assert [each.path.read_bytes() for each in fetched] == list(FILES.values())
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == sorted(each.path.name for each in fetched)
    assert sum(server.num_bytes.values()) < 2 * sum(map(len, FILES.values()))  # most bytes were sent once


def _fetch_quietly(wanted: list[Source], downloads: Path) -> None:
    with suppress(KeyboardInterrupt):
        fetch_all(named(wanted), Places(downloads), at_once=4)
