"""HTTP connections of downloads: redirections to http and https only, and an end of connections that stall."""

from __future__ import annotations

import base64
import http.client
import socket
import string
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from kdmt.config import SCHEMES, split_login
from kdmt.errors import UserError

STALL_BYTES = 10_000  # a download with fewer bytes in `STALL_SECONDS` has stalled
STALL_SECONDS = 120.0
_HANDLERS = (urllib.request.HTTPHandler, urllib.request.HTTPSHandler)
_TIMEOUT_SECONDS = 60.0  # maximum time without any data
_POLL_SECONDS = 0.5  # time between two looks at the signal to stop


@dataclass(frozen=True)
class Address:
    """A URL from which a file is downloaded, and the login of its server as `user:password`."""

    url: str
    login: str | None = None

    @property
    def host(self) -> str:
        """Return the name of the server."""
        return urllib.parse.urlsplit(self.url).hostname or ""

    def request(self, headers: Mapping[str, str]) -> urllib.request.Request:
        """Return a request for the file; the login is not sent to servers of redirections."""
        quoted = urllib.parse.quote(self.url, safe=string.punctuation)
        request = urllib.request.Request(quoted, headers={"User-Agent": "kdmt", **headers})
        if self.login is not None:
            encoded = base64.b64encode(self.login.encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {encoded}")
        return request


class RedirectRefused(UserError):
    """Error raised if a server redirects to a scheme other than http and https."""


class Connection:
    """Opens connections, and closes those that receive almost no data or are no longer needed.

    The timeout of a socket applies only while no data arrives: a server that sends single bytes or endless headers
    could keep the connection open forever.

    Args:
        stop: signal after which the connections are closed.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.num_bytes = 0  # received so far
        self.has_stalled = False
        self._stop = stop
        self._sockets: list[socket.socket] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Connection:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def has_connected(self) -> bool:
        """Return whether a server has accepted a connection."""
        return bool(self._sockets)

    def open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Send a request and return the response; redirections are followed to http and https only."""
        opener = urllib.request.build_opener(_Redirects, *(self._handler(kind) for kind in _HANDLERS))
        return cast(http.client.HTTPResponse, opener.open(request, timeout=_TIMEOUT_SECONDS))

    def _handler(self, kind: type[urllib.request.AbstractHTTPHandler]) -> type[urllib.request.AbstractHTTPHandler]:
        """Return a subclass of a urllib handler whose sockets are added to the watched ones."""
        sockets = self._sockets

        class Handler(kind):  # type: ignore[valid-type, misc]
            def do_open(self, http_class: Any, req: urllib.request.Request, **arguments: object) -> Any:
                class Watched(http_class):
                    def connect(self) -> None:
                        super().connect()
                        sockets.append(self.sock)

                return super().do_open(Watched, req, **arguments)

        return Handler

    def _watch(self) -> None:
        before, since = 0, time.monotonic()
        while not self._ended.wait(min(_POLL_SECONDS, STALL_SECONDS)):
            if time.monotonic() - since >= STALL_SECONDS:
                self.has_stalled |= self.num_bytes - before < STALL_BYTES
                before, since = self.num_bytes, time.monotonic()
            if self.has_stalled or self._stop.is_set():
                self._close()

    def _close(self) -> None:
        for opened in self._sockets:
            with suppress(OSError):  # closed already
                socket.socket.shutdown(opened, socket.SHUT_RDWR)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirect handler that follows to http and https only; that of urllib follows to ftp too."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in SCHEMES:
            raise RedirectRefused(f"{req.full_url}: redirected to {newurl}: only http and https can be downloaded")
        return super().redirect_request(req, fp, code, msg, headers, split_login(newurl)[0])
