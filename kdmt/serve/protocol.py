"""HTTP connections with timeouts for slow clients, which uvicorn's own protocol does not have."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from kdmt.serve.limits import Limits

_BODY_GRACE_SECONDS = 2.0  # the application answers a slow body before the connection is closed
_BUSY_BODY = b'{"error":"The server has too many connections: try again later"}'
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nretry-after: 5\r\n\r\n%b"
) % (len(_BUSY_BODY), _BUSY_BODY)


def limited_protocol(limits: Limits) -> type[H11Protocol]:
    """Return the protocol class with these limits."""

    class LimitedProtocol(_LimitedProtocol):
        limits_of_server = limits

    return LimitedProtocol


class _LimitedProtocol(H11Protocol):
    """A connection that is closed if the client sends a request or reads an answer too slowly."""

    limits_of_server = Limits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._phase: Literal["head", "body"] | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # `pause_writing` is called as soon as a byte cannot be sent
        if len(self.connections) > self.limits_of_server.connections:
            transport.write(_BUSY)
            transport.close()
            return
        self._watch_reading()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in (self._read_timer, self._write_timer):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """Start the timer of an answer that the client does not read; it runs on if the connection is to be closed."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits_of_server.write_seconds, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def _watch_reading(self) -> None:
        """Start a timer when the head, or the body, of a request begins to arrive, and cancel that of the phase before.

        Between requests no timer of this class runs, but uvicorn's for idle connections.
        """
        phases: dict[object, Literal["head", "body"]] = {h11.IDLE: "head", h11.SEND_BODY: "body"}
        phase = phases.get(self.conn.their_state)
        if phase == self._phase:
            return
        self._phase = phase
        if self._read_timer is not None:
            self._read_timer.cancel()
        if phase is not None:
            seconds = self.limits_of_server.read_seconds + (_BODY_GRACE_SECONDS if phase == "body" else 0)
            self._read_timer = self.loop.call_later(seconds, self._abort)

    def _abort(self) -> None:
        self.transport.abort()
