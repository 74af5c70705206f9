"""`kdmt serve` as a process of its own under attack: what hostile clients get, and that others get their answers.

A well-behaved client translates during every attack, and each of its answers must be right. `make load-test` measures
what attacks cost it; nothing is timed here.
"""

from __future__ import annotations

import json
import re
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from commands import start
from small_transformers import POST_NORM, write_text_processing

from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import save_checkpoint
from kdmt.models.transformer import DecoderLayer
from kdmt.types import EOS, PAD

pytestmark = pytest.mark.pipeline

TIMEOUT_SECONDS = 300  # so that a server that hangs fails its test
MAX_BODY = 262_144
MAX_GROWTH_KB = 200_000  # of the process by all attacks; the largest holds 200 bodies of the limit, 52 MB
CONNECTIONS = 1000
TEXT = "abba baba. ab ba."
HONEST, HOSTILE = "honest-key", "hostile-key"


@dataclass(frozen=True)
class Server:
    """A running server, and what it answers to `TEXT` when nobody disturbs it."""

    process: subprocess.Popen[str]
    port: int
    expected: dict[str, str]

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        connection.settimeout(TIMEOUT_SECONDS)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def send(self, sent: bytes) -> bytes:
        """Send bytes and return all that the server answers until it closes the connection."""
        with self.connect() as connection:
            with suppress(OSError):  # it may close the connection before it has read everything
                connection.sendall(sent)
            return received(connection)

    def memory(self, field: str = "VmRSS") -> int:
        """Return a size of the process in kB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(rf"{field}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1])


def received(connection: socket.socket) -> bytes:
    """Return all bytes until the connection is closed or reset."""
    data = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            data += part
    return data


def head(length: int | None, *, key: str | None = HOSTILE, more: str = "", close: bool = True) -> bytes:
    """Return the head of a translation request; without a length, its body has chunks."""
    lines = ["POST /translate HTTP/1.1", "Host: x", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += ["Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"]
    lines += [*(["Connection: close"] if close else []), *([more] if more else [])]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def request(text: str, *, key: str | None = HOSTILE, form: str = "text", close: bool = True) -> bytes:
    body = json.dumps({"q": text, "source": "en", "target": "de", "format": form}).encode()
    return head(len(body), key=key, close=close) + body


def status_of(answer: bytes) -> int:
    """Return the status of an answer, 0 if there is none."""
    return int(answer.split(None, 2)[1]) if answer else 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    size, files = write_text_processing(folder / "text")
    torch.manual_seed(1)
    config = replace(POST_NORM, max_source_positions=256, max_target_positions=256)
    model = build_transformer(config, src_vocab_size=size, tgt_vocab_size=size).eval()
    with torch.no_grad():
        last_layer = model.decoder_layers[-1]
        assert isinstance(last_layer, DecoderLayer)
        last_layer.ffn_residual.norm.bias.fill_(1.0)  # a sum of features that makes a constant row a constant logit
        model.output_proj.weight.normal_()
        model.output_proj.weight[PAD] = -30.0
        model.output_proj.weight[EOS] = 0.1  # so that translations end soon
    save_checkpoint(folder / "model", model, companions=files)
    (folder / "keys").write_text(f"{HONEST}\n{HOSTILE}\n", encoding="utf-8")
    options = {
        "--port": 0,
        "--threads": 1,
        "--beam": 1,
        "--api-keys": folder / "keys",
        "--read-timeout": 3,
        "--timeout": TIMEOUT_SECONDS,
    }
    options |= {"--max-body": MAX_BODY, "--max-characters": 100_000, "--max-connections": CONNECTIONS + 24}
    process = start(folder, "serve", "model", *(str(part) for pair in options.items() for part in pair))
    try:
        assert process.stderr is not None
        found = re.search(r" on http://127\.0\.0\.1:(\d+)$", process.stderr.readline().rstrip())
        assert found is not None
        running = Server(process, int(found[1]), {})
        running.expected.update(json.loads(running.send(request(TEXT, key=HONEST)).partition(b"\r\n\r\n")[2]))
        before = running.memory()
        yield running
        assert running.memory("VmHWM") - before < MAX_GROWTH_KB
    finally:
        process.terminate()
        _, messages = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0
    assert "Traceback" not in messages


@pytest.fixture
def attacked(server: Server) -> Iterator[Server]:
    """Return the server, to which a well-behaved client sends one request after the other until the test ends."""
    done = threading.Event()
    wrong: list[bytes] = []
    answered = threading.Semaphore(0)

    def client() -> None:
        while not done.is_set() or not answered.acquire(blocking=False):
            answer = server.send(request(TEXT, key=HONEST))
            answered.release()
            if status_of(answer) != 200 or json.loads(answer.partition(b"\r\n\r\n")[2]) != server.expected:
                wrong.append(answer)
                return

    thread = threading.Thread(target=client)
    thread.start()
    yield server
    for _ in range(2):  # one that begins after the attack ended
        answered.acquire(timeout=TIMEOUT_SECONDS)
    done.set()
    thread.join(TIMEOUT_SECONDS)
    assert not thread.is_alive()
    assert not wrong


def together(attacks: list[Callable[[], bytes]]) -> list[bytes]:
    """Run attacks at the same time and return their answers."""
    answers: list[bytes | None] = [None] * len(attacks)

    def run(index: int) -> None:
        answers[index] = attacks[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(attacks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
        assert not thread.is_alive()
    finished = [answer for answer in answers if answer is not None]
    assert len(finished) == len(attacks)
    return finished


@contextmanager
def open_connections(server: Server, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(server.connect()) for _ in range(count)]


DEEP = b'{"q": ' + b"[" * 200_000
NO_JSON = {
    "cut": b'{"q": "abba',
    "deep lists": DEEP,
    "deep objects": b'{"q":' * 40_000,
    "a number of 200,000 digits": b'{"q": ' + b"9" * 200_000 + b"}",
    "no UTF-8": b'{"q": "\xff\xfe\xc0\x80", "source": "en", "target": "de"}',
    "half of a surrogate pair": b'{"q": "\\ud800", "source": "en", "target": "de"}',
    "50,000 empty texts": b'{"source": "en", "target": "de", "q": [' + b'"",' * 50_000 + b'""]}',
}


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON)
def test_bodies_that_are_not_valid_are_refused(attacked: Server, body: bytes) -> None:
    answers = together([lambda: attacked.send(head(len(body)) + body)] * 10)
    assert {status_of(answer) for answer in answers} == {400}


LIES = {
    "a gigabyte": (head(1 << 30) + b"x" * 1_000_000, {413}),
    "a negative number": (head(-1) + b"{}", {400, 413}),
    "two numbers": (head(2, more="Content-Length: 3") + b"{}", {400}),
    "a number and chunks": (head(2, more="Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n", {400}),
    "more than is sent": (head(1000) + b"{", {408}),
    "less than is sent": (head(2, close=False) + b"{}" + b"x" * 500_000, {400}),
}


@pytest.mark.parametrize(("sent", "statuses"), LIES.values(), ids=LIES)
def test_lengths_that_are_not_true_are_refused(attacked: Server, sent: bytes, statuses: set[int]) -> None:
    answers = together([lambda: attacked.send(sent)] * 10)
    assert {status_of(answer) for answer in answers} <= statuses | {0}  # 0: reset while it was sending


def test_chunks_without_end_are_refused_at_the_limit(attacked: Server) -> None:
    sent = [0] * 5

    def attack(index: int) -> bytes:
        with attacked.connect() as connection:
            connection.sendall(head(None))
            with suppress(OSError):
                while sent[index] < 64 * MAX_BODY:
                    connection.sendall(b"10000\r\n" + b"[" * 65536 + b"\r\n")
                    sent[index] += 65536
            return received(connection)

    answers = together([lambda index=index: attack(index) for index in range(len(sent))])  # type: ignore[misc]
    assert {status_of(answer) for answer in answers} <= {0, 413}
    assert max(sent) < 64 * MAX_BODY


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        pytest.param(b"POST /translate HTTP/1.1\r\nX: ", marks=pytest.mark.slow),
        pytest.param(head(1000) + b"[", marks=pytest.mark.slow),
        pytest.param(head(None) + b"1\r\n[", marks=pytest.mark.slow),
    ],
)
def test_a_thousand_connections_that_send_nothing_more_are_closed(attacked: Server, sent: bytes) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 2 * CONNECTIONS:
        pytest.skip(f"the system allows {most:,} open files")
    with more_open_files(), open_connections(attacked, CONNECTIONS) as connections:
        for connection in connections:
            with suppress(OSError):
                connection.sendall(sent)
        answers = {received(connection) for connection in connections}
    assert {status_of(answer) for answer in answers} <= {0, 408}


@contextmanager
def more_open_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * CONNECTIONS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_bodies_just_below_the_limit_that_never_end_cost_their_size_only(attacked: Server) -> None:
    sent = head(MAX_BODY) + b"[" * (MAX_BODY - 1)
    with open_connections(attacked, 200) as connections:
        for connection in connections:
            with suppress(OSError):  # its time is up
                connection.sendall(sent)
        assert {status_of(received(connection)) for connection in connections} <= {0, 408}


@pytest.mark.slow  # tests/unit/serve/test_protocol.py has a quick one
def test_answers_that_are_not_read_are_given_up(attacked: Server) -> None:
    sent = request("1" * 100_000, close=False) * 100  # copied, as it has no letters

    def attack() -> bytes:
        with attacked.connect(receive_buffer=4096) as connection:
            try:
                connection.sendall(sent)
                for _ in range(10 * TIMEOUT_SECONDS):
                    connection.send(b"x")
                    time.sleep(0.1)
            except ConnectionError:  # the server disconnects
                return b""
        raise AssertionError("the connection stays open")

    together([attack] * 2)


BOMBS = {
    "nested tags": "<b>a " * 2_000,
    "end tags": "</b>a " * 1_600,
    "comments": "<!--" * 25_000,
    "tags that are not closed": "<a x='" * 16_000,
    "entities": "&lt;&#60;&" * 10_000,
    "tables": "<table><tr><td>ab " * 500,
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_html_bombs_are_translated(attacked: Server, text: str) -> None:
    assert status_of(attacked.send(request(text, form="html"))) == 200


@pytest.mark.slow
@pytest.mark.parametrize("text", ["ab" * 50_000, "ab " * 33_000], ids=["letters", "words"])
def test_a_sentence_of_a_hundred_thousand_characters_is_translated(attacked: Server, text: str) -> None:
    answer = attacked.send(request(text))
    assert status_of(answer) == 200


def test_more_characters_than_the_limit_are_refused(attacked: Server) -> None:
    assert status_of(attacked.send(request("a" * 100_001))) == 400


@pytest.mark.parametrize("key", [None, "wrong", "x" * 30_000], ids=["none", "wrong", "long"])
def test_wrong_keys_are_refused(attacked: Server, key: str | None) -> None:
    sent = request(TEXT, key=key)
    answers = together([lambda: attacked.send(sent)] * 50)
    assert {status_of(answer) for answer in answers} - {408} == {403}  # 408: on a busy machine, it was sent too slowly
