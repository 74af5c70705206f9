"""Timeouts of a connection, with a socket pair in place of the network."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace

import pytest
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from kdmt.serve.limits import Limits
from kdmt.serve.protocol import limited_protocol

LIMITS = Limits(read_seconds=300, write_seconds=0.05, keep_alive_seconds=300)
TIMEOUT = 30  # seconds, far more than needed


async def connect(limits: Limits, state: ServerState) -> tuple[asyncio.Transport, asyncio.Event, socket.socket]:
    """Return the transport of a connection, an event that is set when it is lost, and the client's socket."""

    async def app(_scope: object, _receive: object, _send: object) -> None:
        raise AssertionError("there is no request")

    protocol: H11Protocol = limited_protocol(limits)(Config(app, lifespan="off"), state, {})
    lost = asyncio.Event()
    connection_lost = protocol.connection_lost

    def note(error: Exception | None) -> None:
        connection_lost(error)
        lost.set()

    protocol.connection_lost = note  # type: ignore[method-assign]
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=ours)
    return transport, lost, theirs


@pytest.mark.parametrize("is_closing", [False, True])
def test_a_single_unread_byte_ends_the_connection(is_closing: bool) -> None:
    async def check() -> None:
        transport, lost, client = await connect(LIMITS, ServerState())
        while not transport.get_write_buffer_size():
            transport.write(b"x")
        if is_closing:
            transport.close()
        await asyncio.wait_for(lost.wait(), TIMEOUT)
        client.close()

    asyncio.run(check())


def test_a_client_that_reads_everything_stays_connected() -> None:
    async def check() -> None:
        transport, lost, client = await connect(replace(LIMITS, write_seconds=TIMEOUT), ServerState())
        client.setblocking(False)
        while not transport.get_write_buffer_size():
            transport.write(b"x" * 100)
        while transport.get_write_buffer_size():
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1 << 20), TIMEOUT)
        protocol = transport.get_protocol()
        assert protocol._write_timer.cancelled()  # type: ignore[attr-defined]
        assert not lost.is_set()
        transport.abort()
        client.close()

    asyncio.run(check())


def test_a_connection_too_many_gets_an_error_as_json() -> None:
    async def check() -> bytes:
        state = ServerState()
        first, _, kept = await connect(replace(LIMITS, connections=1), state)
        _, lost, client = await connect(replace(LIMITS, connections=1), state)
        await asyncio.wait_for(lost.wait(), TIMEOUT)
        first.abort()
        with kept, client:
            return b"".join(iter(lambda: client.recv(65536), b""))

    head, _, body = asyncio.run(check()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert f"content-length: {len(body)}".encode() in head.split(b"\r\n")
    assert json.loads(body) == {"error": "The server has too many connections: try again later"}
