"""HTTP server on the loopback interface that serves files, with ranges, validators and faults that a test plans."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate

Handler = http.server.BaseHTTPRequestHandler


@dataclass
class Fault:
    """Deviation of one answer from a good one.

    Attributes:
        status: status code that is sent instead of the file.
        headers: further headers, which replace those of the same name.
        cut: number of bytes of the body after which the connection is closed; -1 to close it before the answer.
        seconds: time that passes before each block of the body.
        ignore_range: whether the whole file is sent although a part was requested.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    seconds: float = 0.0
    ignore_range: bool = False


@dataclass
class FaultServer:
    """Server whose answers are good, except for the planned faults, which are used up in order for each path."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    etags: bool = True
    always: Callable[[str], Fault | None] = lambda _: None
    block_bytes: int = 1 << 16
    url: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # path and headers
    num_bytes: Counter[str] = field(default_factory=Counter)  # path -> bytes of bodies sent
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ranges(self, path: str) -> list[str | None]:
        """Return the Range header of each request for a path, None for those without it."""
        return [headers.get("range") for requested, headers in self.requests if requested == path]

    @contextmanager
    def serving(self) -> Iterator[FaultServer]:
        """Serve while the body runs."""
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self)) as httpd:
            self.url = f"http://127.0.0.1:{httpd.server_port}"
            thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                httpd.shutdown()
                thread.join()


def etag(content: bytes) -> str:
    """Return the strong ETag that the server sends for a content."""
    return f'"{hashlib.md5(content).hexdigest()}"'


def _handler(server: FaultServer) -> type[Handler]:
    class FileHandler(Handler):
        def do_GET(self) -> None:
            with server.lock:
                server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                planned = server.faults.get(self.path, [])
                fault = planned.pop(0) if planned else server.always(self.path) or Fault()
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            self.is_counted = True
            try:
                self._answer(fault)
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                self._count_out()

        def _count_out(self) -> None:
            """Count the request as answered: before its last bytes, after which the client may begin another one."""
            if self.is_counted:
                self.is_counted = False
                with server.lock:
                    server.at_once -= 1

        def _answer(self, fault: Fault) -> None:
            if fault.cut == -1:
                return
            content = server.files.get(self.path)
            if fault.status is not None or content is None:
                self._send(fault.status or 404, fault.headers, b"")
                return
            validator = {"ETag": etag(content)} if server.etags else {}
            if self.headers.get("If-None-Match") == etag(content):
                self._send(304, validator, b"")
                return
            start = self._start(content) if not fault.ignore_range else 0
            if start >= len(content) and start:
                self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                return
            headers = {"Content-Length": str(len(content) - start), "Date": formatdate(usegmt=True), **validator}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(206 if start else 200, headers | fault.headers, content[start:], fault)

        def _start(self, content: bytes) -> int:
            requested, condition = self.headers.get("Range"), self.headers.get("If-Range")
            if requested is None or (condition is not None and condition != etag(content)):
                return 0
            return int(requested.removeprefix("bytes=").removesuffix("-"))

        def _send(self, status: int, headers: dict[str, str], body: bytes, fault: Fault | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            sent = body if fault is None or fault.cut is None else body[: fault.cut]
            for start in range(0, len(sent), server.block_bytes):
                if fault is not None and fault.seconds:
                    time.sleep(fault.seconds)
                block = sent[start : start + server.block_bytes]
                if start + len(block) == len(sent):
                    self._count_out()
                with server.lock:  # before the client has the block, after which a test may read the number
                    server.num_bytes[self.path] += len(block)
                self.wfile.write(block)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return FileHandler
