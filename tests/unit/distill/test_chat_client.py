"""Tests of the client of chat completions: what is repeated, how long it waits, and what it pays."""

from __future__ import annotations

import http.server
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from chat_server import MODEL, ChatServer, Trouble, choices

from kdmt.config import EndpointTeacher
from kdmt.distill.chat_client import ChatClient, ChatRequest, RequestFailed, Stopped
from kdmt.distill.llm_answers import Answer
from kdmt.distill.token_budget import TokenBudget
from kdmt.errors import UserError

REQUEST = ChatRequest("<text>\na\n</text>", 2, 100, None, 10)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(lambda source, number, _: f"{source}{number}").serving() as serving:
        yield serving


@pytest.fixture
def budget(tmp_path: Path) -> TokenBudget:
    return TokenBudget(tmp_path / "tokens", 10_000)


def client(url: str, **settings: object) -> ChatClient:
    values = {"endpoint": url, "model": MODEL, "prompt": "p", "max_wait": 0.01, "retries": 2, **settings}
    return ChatClient(EndpointTeacher.model_validate(values), "x.")


def test_answers_and_counts_are_returned(server: ChatServer, budget: TokenBudget) -> None:
    found = client(server.url).complete(REQUEST, budget, threading.Event())
    assert found.answers == (Answer("a0", "stop"), Answer("a1", "stop"))
    assert (found.model, found.fingerprint) == (f"{MODEL}-0125", "fp_1")
    assert budget.used() == 10 + 10  # as the server counts
    assert server.requests == [
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": REQUEST.prompt}],
            "temperature": 0.0,
            "max_tokens": 100,
            "stream": False,
            "n": 2,
        }
    ]


@pytest.mark.parametrize("end", ["", "/", "/chat/completions"])
def test_endpoints_may_end_in_several_ways(server: ChatServer, budget: TokenBudget, end: str) -> None:
    assert client(server.url + end).complete(REQUEST, budget, threading.Event()).answers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": []}, "the answer has no choices"),
        ({"choices": {}}, "the answer has no list of choices"),
        ({"choices": [1]}, "a choice of the answer has no message"),
        ({"choices": [{"message": {"content": [1]}}]}, "a message of the answer has no text"),
        ({"choices": [{"message": {"content": " \n"}, "finish_reason": "stop"}]}, "the answer has no text"),
        ({"choices": [{"message": {"content": None}}]}, "the answer has no text"),
    ],
)
def test_unusable_answers_are_repeated_and_stay_reserved(
    server: ChatServer, budget: TokenBudget, change: dict[str, object], message: str
) -> None:
    server.trouble = lambda _: Trouble(change=lambda answer: answer | change)
    with pytest.raises(RequestFailed, match=message):
        client(server.url).complete(REQUEST, budget, threading.Event())
    assert len(server.requests) == 3
    assert budget.used() == 3 * (10 + 2 * 100)  # the server may have charged them


@pytest.mark.parametrize(
    ("choice", "answer"),
    [
        ({"message": {"content": ""}, "finish_reason": "length"}, Answer("", "length")),
        ({"message": {"content": None}, "finish_reason": "content_filter"}, Answer("", "content_filter")),
        ({"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}, Answer("No.", "content_filter")),
        ({"message": {"content": "b"}}, Answer("b", None)),
    ],
)
def test_answers_with_a_reason_are_kept(
    server: ChatServer, budget: TokenBudget, choice: dict[str, object], answer: Answer
) -> None:
    server.trouble = lambda _: Trouble(change=lambda whole: whole | {"choices": [choice], "usage": None})
    assert client(server.url).complete(REQUEST, budget, threading.Event()).answers == (answer,)


def test_more_choices_than_requested_are_left_out(server: ChatServer, budget: TokenBudget) -> None:
    server.trouble = lambda _: Trouble(change=choices("a", "b", "c"))
    assert len(client(server.url).complete(REQUEST, budget, threading.Event()).answers) == 2


def test_the_server_decides_how_long_to_wait(server: ChatServer, budget: TokenBudget) -> None:
    faults = [Trouble(status=429, headers={"Retry-After": "1"})]
    server.trouble = lambda _: faults.pop() if faults else Trouble()
    start = time.monotonic()
    assert client(server.url).complete(REQUEST, budget, threading.Event()).answers
    assert time.monotonic() - start >= 1.0
    assert budget.used() == 20  # nothing for the error


def test_a_wait_ends_with_the_signal_to_stop(server: ChatServer, budget: TokenBudget) -> None:
    stop = threading.Event()
    server.trouble = lambda _: Trouble(status=503, headers={"Retry-After": "600"})
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    with pytest.raises(Stopped):
        client(server.url).complete(REQUEST, budget, stop)
    assert budget.used() == 0


@pytest.mark.parametrize(("status", "attempts"), [(500, 3), (502, 3), (408, 3), (400, 1), (413, 1), (422, 1)])
def test_only_errors_that_may_pass_are_repeated(
    server: ChatServer, budget: TokenBudget, status: int, attempts: int
) -> None:
    server.trouble = lambda _: Trouble(status=status)
    with pytest.raises(RequestFailed, match=f"the server answers {status} .*: trouble"):
        client(server.url).complete(REQUEST, budget, threading.Event())
    assert len(server.requests) == attempts
    assert budget.used() == 0


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (Trouble(hang=0.6), r"no answer within 0\.2 s"),
        (Trouble(cut=-1), "the connection was closed"),
        (Trouble(cut=50), "the answer is not complete: IncompleteRead"),
        (Trouble(body=b"<html>"), "the answer is not JSON"),
    ],
)
def test_broken_connections_are_described(
    server: ChatServer, budget: TokenBudget, trouble: Trouble, message: str
) -> None:
    server.trouble = lambda _: trouble
    with pytest.raises(RequestFailed, match=message):
        client(server.url, timeout=0.2, retries=0).complete(REQUEST, budget, threading.Event())
    assert budget.used() == 210


def test_a_server_that_sends_single_bytes_ends_at_the_timeout(budget: TokenBudget) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()
        thread = threading.Thread(target=_drip, args=(listener, ended))
        thread.start()
        start = time.monotonic()
        one = client(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", timeout=0.5, retries=0)
        try:
            with pytest.raises(RequestFailed, match=r"no answer within 0\.5 s"):
                one.complete(REQUEST, budget, threading.Event())
        finally:
            ended.set()
            thread.join()
        assert time.monotonic() - start < 3


def _drip(listener: socket.socket, ended: threading.Event) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not ended.wait(0.1):
            try:
                connection.sendall(b" ")
            except OSError:
                return


class _KeepingHandler(http.server.BaseHTTPRequestHandler):
    """Handler that keeps each connection for two requests and then closes it without saying so."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        count = getattr(self, "count", 0) + 1
        self.count = count
        data = json.dumps(choices("b")({})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.server.ports.append(self.client_address[1])  # type: ignore[attr-defined]
        self.wfile.write(data)
        self.close_connection = count == 2

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(handler: type[_KeepingHandler], **settings: object) -> Iterator[tuple[ChatClient, list[int]]]:
    """Serve, and return a client of the server and the port of the connection of each request."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        ports: list[int] = []
        httpd.ports = ports  # type: ignore[attr-defined]
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        one = client(f"http://127.0.0.1:{httpd.server_port}/v1", **settings)
        try:
            yield one, ports
            one.close()
        finally:
            httpd.shutdown()
            thread.join()


def test_connections_are_kept_and_opened_again(budget: TokenBudget) -> None:
    with serving(_KeepingHandler, retries=0) as (one, ports):
        for number in range(5):
            assert one.complete(REQUEST, budget, threading.Event()).answers == (Answer("b", "stop"),)
            if number % 2:  # the server closes the connection now
                select.select([one._local.connection.sock], [], [], 10)
    assert ports[0] == ports[1]
    assert len(ports) == 5
    assert len(set(ports)) == 3


class _ResettingHandler(_KeepingHandler):
    """Handler that resets a kept connection in the middle of its second answer."""

    def do_POST(self) -> None:
        if not hasattr(self, "count"):
            return super().do_POST()
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.ports.append(self.client_address[1])  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b'{"choices"')
        time.sleep(0.3)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        return None

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()


def test_an_answer_that_is_cut_on_a_kept_connection_is_an_attempt(budget: TokenBudget) -> None:
    with serving(_ResettingHandler, retries=0) as (one, ports):
        assert one.complete(REQUEST, budget, threading.Event()).answers
        with pytest.raises(RequestFailed, match="the connection was closed"):
            one.complete(REQUEST, budget, threading.Event())
    assert len(ports) == 2


class _LosingHandler(_KeepingHandler):
    """Handler that reads the second request of a kept connection, works on it and closes without an answer."""

    def do_POST(self) -> None:
        if not hasattr(self, "count"):
            return super().do_POST()
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.ports.append(self.client_address[1])  # type: ignore[attr-defined]
        time.sleep(0.1)
        self.close_connection = True
        return None


@pytest.mark.parametrize("retries", [0, 1])
def test_each_request_that_a_server_receives_is_an_attempt_of_the_budget(budget: TokenBudget, retries: int) -> None:
    with serving(_LosingHandler, retries=retries) as (one, ports):
        assert one.complete(REQUEST, budget, threading.Event()).answers
        if retries:
            assert one.complete(REQUEST, budget, threading.Event()).answers
        else:
            with pytest.raises(RequestFailed, match="the connection was closed"):
                one.complete(REQUEST, budget, threading.Event())
    assert len(ports) == 2 + retries
    assert budget.used() == len(ports) * REQUEST.most_tokens


def test_errors_that_concern_all_requests_stop(server: ChatServer, budget: TokenBudget) -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/v1/chat/completions: cannot be reached: Connection refused"):
        client("http://127.0.0.1:9/v1", retries=0).complete(REQUEST, budget, threading.Event())
    with pytest.raises(UserError, match=r"cannot be reached.*is the server of x\.endpoint up\?"):
        client("http://nohost.invalid/v1", retries=0).complete(REQUEST, budget, threading.Event())
    with pytest.raises(UserError, match=r"the server has no model 'other' \(x\.model\)"):
        client(server.url, model="other").complete(REQUEST, budget, threading.Event())
    assert budget.used() == 0
