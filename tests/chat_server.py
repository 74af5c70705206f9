"""HTTP server on the loopback interface with OpenAI's protocol for chat completions, and faults that a test plans.

It translates by a function of the source text. To find out which requests were paid for, it counts for each source how
often it sent a complete answer that the client received: after an answer it closes the connection, and the answer
counts once the client has closed its end too.
"""

from __future__ import annotations

import http.server
import json
import re
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
MODEL, KEY = "tiny-llm", "secret"
_SOURCE = re.compile(r"<text>\n?(.*?)\n?</text>", re.DOTALL)
_NUMBERED = re.compile(r"(\d+)\. (.*)")
PROMPT = "Translate from {source_language} to {target_language}.\n<text>\n{source}\n</text>\n"


@dataclass(frozen=True)
class Trouble:
    """Deviation of one answer from a good one.

    Attributes:
        status: status code of an error; with `headers` and no usable body.
        hang: number of seconds without an answer, after which the connection is closed.
        cut: number of bytes of the body after which the connection is closed; -1 to close it before the answer.
        body: body that is sent instead of the answer.
        change: function that changes the answer.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: float = 0.0
    cut: int | None = None
    body: bytes | None = None
    change: Callable[[Body], Body] = lambda answer: answer

    @property
    def is_complete(self) -> bool:
        """Return whether the client gets translations."""
        return self == Trouble()


def choices(*texts: str, finish: str = "stop") -> Callable[[Body], Body]:
    """Return a function that replaces the candidates of an answer."""
    made = [{"index": i, "message": {"content": text}, "finish_reason": finish} for i, text in enumerate(texts)]
    return lambda answer: answer | {"choices": made}


@dataclass
class ChatServer:
    """Server whose answers are good, except for the troubles that `trouble` returns for a request.

    Attributes:
        translate: function from (source, number of the candidate, seed) to the text of a candidate.
        trouble: function from the sources of a request to what goes wrong.
        requests: bodies of all requests.
        paid: source -> number of complete answers that a client received.
    """

    translate: Callable[[str, int, int | None], str]
    trouble: Callable[[tuple[str, ...]], Trouble] = lambda _: Trouble()
    models: tuple[str, ...] = (MODEL,)
    key: str | None = None
    most_candidates: int = 1000
    seconds: float = 0.0
    url: str = ""
    requests: list[Body] = field(default_factory=list)
    paid: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    most_at_once: int = 0
    gate: threading.Event = field(default_factory=threading.Event)  # cleared: no request is answered
    answering: int = 0  # number of requests that have passed the gate and are not finished
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def serving(self) -> Iterator[ChatServer]:
        """Serve while the body runs."""
        self.gate.set()
        with _Server(("127.0.0.1", 0), _handler(self)) as httpd:
            self.url = f"http://127.0.0.1:{httpd.server_port}/v1"
            thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                self.gate.set()
                httpd.shutdown()
                thread.join()

    def hold(self) -> None:
        """Answer no further request, and wait until those in progress are finished."""
        with self.lock:
            self.gate.clear()
        while self.answering:
            time.sleep(0.01)

    def answer(self, body: Body, sources: tuple[str, ...], is_batch: bool) -> Body:
        """Return a good answer to a request."""
        seed, count = body.get("seed"), min(body.get("n", 1), self.most_candidates)
        texts = []
        for number in range(count):
            lines = [self.translate(source, number, seed) for source in sources]
            texts.append("\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1)) if is_batch else "\n".join(lines))
        return choices(*texts)(
            {
                "id": "x",
                "object": "chat.completion",
                "model": f"{body['model']}-0125",
                "system_fingerprint": "fp_1",
                "usage": {"prompt_tokens": 10 * len(sources), "completion_tokens": 5 * len(sources) * count},
            }
        )


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def parse_sources(prompt: str) -> tuple[tuple[str, ...], bool]:
    """Return the source sentences of a prompt, and whether they are numbered."""
    match = _SOURCE.search(prompt)
    assert match, prompt
    lines = match[1].split("\n")
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if len(lines) > 1 and all(numbered):
        return tuple(each[2] for each in numbered if each), True
    return tuple(lines), False


def _handler(server: ChatServer) -> type[http.server.BaseHTTPRequestHandler]:
    class ChatHandler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self._is_gone():  # killed while it sent the request
                return
            body = json.loads(data)
            with server.lock:
                server.requests.append(body)
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                self._respond(body)
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                self.close_connection = True

        def _respond(self, body: Body) -> None:
            if self.path != "/v1/chat/completions":
                return self._send(404, {"detail": "Not Found"})
            if server.key is not None and self.headers["Authorization"] != f"Bearer {server.key}":
                return self._send(401, {"error": {"message": "Incorrect API key provided"}})
            if body["model"] not in server.models:
                return self._send(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
            sources, is_batch = parse_sources(body["messages"][0]["content"])
            time.sleep(server.seconds)
            while True:
                server.gate.wait()
                with server.lock:
                    if server.gate.is_set():
                        server.answering += 1
                        break
            try:
                if self._is_gone():
                    return None
                with server.lock:
                    trouble = server.trouble(sources)
                return self._respond_with(trouble, body, sources, is_batch)
            finally:
                with server.lock:
                    server.answering -= 1

        def _respond_with(self, trouble: Trouble, body: Body, sources: tuple[str, ...], is_batch: bool) -> None:
            if trouble.hang:
                time.sleep(trouble.hang)
            if trouble.hang or trouble.cut == -1:
                with server.lock:
                    server.at_once -= 1
                return None
            if trouble.status != 200:
                return self._send(trouble.status, {"error": {"message": "trouble"}}, trouble.headers)
            answer = trouble.change(server.answer(body, sources, is_batch))
            data = json.dumps(answer).encode() if trouble.body is None else trouble.body
            self._send_bytes(200, data, trouble.headers, cut=trouble.cut)
            if trouble.is_complete and self._is_received():
                with server.lock:
                    server.paid.update(sources)
            return None

        def _send(self, status: int, answer: Body, headers: dict[str, str] | None = None) -> None:
            self._send_bytes(status, json.dumps(answer).encode(), headers or {})

        def _send_bytes(self, status: int, data: bytes, headers: dict[str, str], cut: int | None = None) -> None:
            with server.lock:
                server.at_once -= 1
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data)), "Connection": "close"}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[:cut])
            self.wfile.flush()

        def _is_gone(self) -> bool:
            """Return whether the client has closed the connection, for example because it was killed."""
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""

        def _is_received(self) -> bool:
            """Return whether the client closes the connection in order: a kill before it read the answer resets it."""
            try:
                is_closed = self.connection.recv(1) == b""
            except OSError:
                return False
            # a reset that arrives after the end of the connection is not an error of `recv`
            return is_closed and self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

        def log_message(self, format: str, *args: object) -> None:
            pass

    return ChatHandler
