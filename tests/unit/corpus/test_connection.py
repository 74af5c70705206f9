"""Tests of connections: headers of requests, refused redirections, stalls and the signal to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from fault_server import Fault, FaultServer

from kdmt.corpus import connection
from kdmt.corpus.connection import Address, Connection, RedirectRefused


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setenv("no_proxy", "*")
    with FaultServer({"/a b": b"x" * 100_000, "/a%20b": b"x" * 100_000}, block_bytes=1000).serving() as server:
        yield server


def test_a_request_has_the_quoted_url_the_login_and_the_headers(server: FaultServer) -> None:
    address = Address(f"{server.url}/a b", "user:word")
    assert address.host == "127.0.0.1"
    with Connection(threading.Event()) as connected:
        assert not connected.has_connected
        assert connected.open(address.request({"Range": "bytes=99999-"})).read() == b"x"
        assert connected.has_connected
    ((path, headers),) = server.requests
    assert path == "/a%20b"
    assert headers["authorization"] == "Basic dXNlcjp3b3Jk"  # RFC 7617: base64 of user:word
    assert (headers["range"], headers["user-agent"]) == ("bytes=99999-", "kdmt")


def test_a_redirection_to_another_scheme_is_refused(server: FaultServer) -> None:
    server.faults["/a%20b"] = [Fault(302, {"Location": "ftp://example.org/x"})]
    with Connection(threading.Event()) as connected, pytest.raises(RedirectRefused, match=r"to ftp://example\.org/x: "):
        connected.open(Address(f"{server.url}/a b").request({}))


@pytest.mark.parametrize("cause", ["stop", "stall"])
def test_a_connection_is_closed_while_it_is_read(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    """Let each of 100 blocks take 0.1 s, and end the connection after 0.2 s by the signal or as stalled."""
    server.faults["/a%20b"] = [Fault(seconds=0.1)]
    stop = threading.Event()
    if cause == "stall":
        monkeypatch.setattr(connection, "STALL_SECONDS", 0.2)
    else:
        threading.Timer(0.2, stop.set).start()
    before = time.monotonic()
    with Connection(stop) as connected:
        response = connected.open(Address(f"{server.url}/a b").request({}))
        while response.read1(1000):
            pass
        assert connected.has_stalled == (cause == "stall")
    assert time.monotonic() - before < 8.0  # the whole file would take 10 s
