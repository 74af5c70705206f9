"""The server over real connections: slow and hostile clients, full queues, many connections, and the end."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.resources import files

import pytest

from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.serve.app import Service
from kdmt.serve.limits import Limits
from kdmt.serve.models import ServedModel
from kdmt.serve.server import address_of, allow_open_files, bind, make_server, serve_until_stopped

LIMITS = Limits(
    read_seconds=20, write_seconds=0.3, request_seconds=20, connections=30, client_sentences=8, keep_alive_seconds=1
)
TIMEOUT = 30


@dataclass
class Running:
    """A server in a thread of this process, whose model waits for `gate` if a sentence is `wait`."""

    port: int
    service: Service
    gate: threading.Event
    batches: list[list[str]]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)

    def send(self, text: str | list[str], **fields: str) -> socket.socket:
        body = json.dumps({"q": text, "source": "en", "target": "de"} | fields).encode()
        connection = self.connect()
        connection.sendall(head(len(body)) + body)
        return connection

    def ask(self, text: str | list[str]) -> tuple[int, dict[str, object]]:
        return answer(self.send(text))


def head(length: int) -> bytes:
    return (
        "POST /translate HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\n\r\n"
    ).encode()


def answer(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Return the status and the JSON of an answer; the server closes the connection."""
    with connection:
        data = b"".join(iter(lambda: connection.recv(65536), b""))
    first, _, body = data.partition(b"\r\n\r\n")
    return int(first.split()[1]), json.loads(body or b"{}")


@contextmanager
def running(limits: Limits = LIMITS) -> Iterator[Running]:
    gate, batches = threading.Event(), list[list[str]]()

    def translate(sentences: list[str]) -> list[str]:
        batches.append(sentences)
        if "wait" in sentences:
            assert gate.wait(TIMEOUT)
        return [sentence.upper() for sentence in sentences]

    service = Service([ServedModel(Direction("en", "de"), translate)], limits)
    started = threading.Event()
    with bind("127.0.0.1", 0) as bound:
        server = make_server(service)
        thread = threading.Thread(target=lambda: asyncio.run(serve_until_stopped(server, bound, started.set)))
        thread.start()
        assert started.wait(TIMEOUT)
        try:
            yield Running(bound.getsockname()[1], service, gate, batches)
        finally:
            gate.set()
            server.should_exit = True
            thread.join(TIMEOUT)
            service.close()
    assert not thread.is_alive()


@pytest.fixture
def server() -> Iterator[Running]:
    with running() as found:
        yield found


@pytest.fixture
def impatient() -> Iterator[Running]:
    """Return a server that waits for requests for less time than a busy machine may need for one."""
    with running(replace(LIMITS, read_seconds=0.3)) as found:
        yield found


def until_closed(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("sent", [b"", b"POST /transl", b"GET / HTTP/1.1\r\nhost: x\r\n"])
def test_connections_without_a_complete_head_are_closed(impatient: Running, sent: bytes) -> None:
    connection = impatient.connect()
    connection.sendall(sent)
    start = time.monotonic()
    assert until_closed(connection) == b""
    assert time.monotonic() - start < TIMEOUT / 2


def test_a_head_that_trickles_is_not_waited_for(impatient: Running) -> None:
    connection = impatient.connect()
    with suppress(OSError):
        for _ in range(100):
            connection.sendall(b"a")
            time.sleep(0.05)
        raise AssertionError("the connection stays open")
    connection.close()


def test_a_slow_body_gets_an_answer_and_is_closed(impatient: Running) -> None:
    connection = impatient.connect()
    connection.sendall(head(100) + b'{"q"')
    status, found = answer(connection)
    assert (status, found) == (408, {"error": "The request did not arrive within 0.3 seconds"})


def test_slow_clients_delay_no_others(server: Running) -> None:
    slow = [server.connect() for _ in range(20)]
    for number, connection in enumerate(slow):
        connection.sendall((head(100) + b"{")[: 10 * number])
    assert server.ask("a") == (200, {"translatedText": "A"})
    for connection in slow:
        connection.close()


def test_a_body_without_end_is_refused_at_the_limit(server: Running) -> None:
    connection = server.connect()
    connection.sendall(head(0).replace(b"content-length: 0", b"transfer-encoding: chunked"))
    sent = 0
    with suppress(OSError):
        while sent < 100 << 20:
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 65536
    connection.close()
    assert sent < 20 << 20
    assert server.ask("a")[0] == 200


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/x\r\n\r\n", b"x" * 20_000]
)
def test_what_is_not_http_is_refused(server: Running, sent: bytes) -> None:
    connection = server.connect()
    connection.sendall(sent)
    assert until_closed(connection).startswith(b"HTTP/1.1 400 ")
    assert server.ask("a")[0] == 200


@pytest.mark.slow
def test_a_client_that_does_not_read_is_disconnected() -> None:
    size = 1 << 23
    with running(replace(LIMITS, body_bytes=2 * size, characters=size, read_seconds=TIMEOUT)) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        body = json.dumps({"q": "1" * size, "source": "en", "target": "de"}).encode()  # copied, as it has no letters
        connection.sendall(head(len(body)) + body)
        wait_until(lambda: server.service.connections() == 0)
        connection.close()


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(TIMEOUT * 100):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("timeout")


def test_connections_over_the_limit_are_refused_and_cost_nobody_else_anything(server: Running) -> None:
    waiting = server.send("wait")
    wait_until(lambda: server.batches)
    idle = [server.connect() for _ in range(29)]
    assert until_closed(server.connect()).startswith(b"HTTP/1.1 503 ")
    server.gate.set()
    assert answer(waiting) == (200, {"translatedText": "WAIT"})
    for connection in idle:
        connection.close()
    wait_until(lambda: server.service.connections() == 0)
    assert server.ask("a")[0] == 200


def test_a_client_with_too_many_sentences_is_told_to_slow_down(server: Running) -> None:
    waiting = server.send("wait")
    wait_until(lambda: server.batches)
    more = server.send(["b"] * 7)
    wait_until(lambda: server.service.queues[Direction("en", "de")].length == 7)
    assert server.ask("c") == (429, {"error": "Slow down: too many sentences of this client are waiting"})
    server.gate.set()
    assert answer(waiting)[0] == answer(more)[0] == 200


def test_a_full_queue_is_reported() -> None:
    with running(replace(LIMITS, queued_sentences=2)) as server:
        waiting = server.send("wait")
        wait_until(lambda: server.batches)
        more = server.send(["b", "b"])
        wait_until(lambda: server.service.queues[Direction("en", "de")].length == 2)
        assert server.ask("c") == (503, {"error": "The server is busy: try again later"})
        server.gate.set()
        assert answer(waiting)[0] == answer(more)[0] == 200


def test_a_translation_that_takes_too_long_is_given_up() -> None:
    with running(replace(LIMITS, request_seconds=0.2)) as server:
        waiting = server.send("wait")
        wait_until(lambda: server.batches)
        late = server.send("late")
        assert answer(waiting) == (504, {"error": "no translation within 0.2 seconds"})
        assert answer(late)[0] == 504
        server.gate.set()
        assert server.ask("a")[0] == 200
        assert ["late"] not in server.batches


def test_sentences_of_a_client_that_disconnects_are_not_translated(server: Running) -> None:
    waiting = server.send("wait")
    wait_until(lambda: server.batches)
    gone = server.send(["gone"] * 5)
    queue = server.service.queues[Direction("en", "de")]
    wait_until(lambda: queue.length == 5)
    gone.close()
    wait_until(lambda: queue.length == 0)
    server.gate.set()
    assert answer(waiting)[0] == 200
    assert server.ask("a")[0] == 200
    assert all("gone" not in batch for batch in server.batches)


def test_requests_at_the_same_time_are_translated_together(server: Running) -> None:
    waiting = server.send("wait")
    wait_until(lambda: server.batches)
    others = [server.send(f"text {number}") for number in range(5)]
    wait_until(lambda: server.service.queues[Direction("en", "de")].length == 5)
    server.gate.set()
    assert [answer(each)[1]["translatedText"] for each in (waiting, *others)] == [
        "WAIT",
        *(f"TEXT {n}" for n in range(5)),
    ]
    assert sorted(server.batches[1]) == [f"text {number}" for number in range(5)]


def test_keep_alive_connections_serve_several_requests(server: Running) -> None:
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            data = b""
            while not data.endswith(b'{"status":"ok"}'):
                data += connection.recv(65536)


def test_stopping_answers_what_was_accepted() -> None:
    with running() as server:
        waiting = server.send(["wait", "more"])
        wait_until(lambda: server.batches)
        idle = server.connect()
        threading.Timer(0.3, server.gate.set).start()
    assert answer(waiting) == (200, {"translatedText": ["WAIT", "MORE"]})
    assert until_closed(idle) == b""


def test_an_address_in_use_is_refused() -> None:
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        assert address_of(bound) == f"http://127.0.0.1:{port}"
        with pytest.raises(UserError, match=rf"^cannot listen on 127.0.0.1 port {port}: Address already in use$"):
            bind("127.0.0.1", port)
    with pytest.raises(UserError, match=r"^cannot listen on no\.such\.host\.invalid port 1: "):
        bind("no.such.host.invalid", 1)


def test_more_connections_than_open_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_limits.append(limits))
    allow_open_files(100)
    assert set_limits == []
    allow_open_files(2000)
    assert set_limits == [(2064, 4096)]
    with pytest.raises(UserError, match="the system allows 4,096"):
        allow_open_files(5000)


def test_the_page_hides_what_is_marked_as_hidden() -> None:
    """A display of labels would show the field for the API key to everybody."""
    page = files("kdmt.serve").joinpath("page.html").read_text(encoding="utf-8")
    assert "label { display: block" in page
    assert re.search(r"^\[hidden\] \{ display: none; \}$", page, re.MULTILINE)


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_translates_in_a_browser() -> None:
    assert CHROMIUM is not None
    with running(replace(LIMITS, read_seconds=20)) as server:
        url = f"http://127.0.0.1:{server.port}/?source=en&target=de&q=A+dog.%0A%3Cb%3E+runs."
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=10000",
            "--dump-dom",
            url,
        ]
        page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    output = re.search(r'<output id="translation"[^>]*>(.*?)</output>', page, re.DOTALL)
    assert output is not None
    assert output[1] == "A DOG.\n&lt;B&gt; RUNS."
    assert re.findall(r'<option value="(\w+)">(\w+)</option>', page) == [("en", "English"), ("de", "German")]


@pytest.mark.parametrize("host", ["a" * 70, "a..b", "\udcff"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(UserError, match=r"^cannot listen on '.*': neither a host name nor an address$"):
        bind(host, 0)


def test_an_empty_host_is_not_every_network() -> None:
    with pytest.raises(UserError, match=r"^--host: expected an address"):
        bind("", 0)
