import base64
import hashlib
import http.server
import json
import pickle
import re
import shutil
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from bad_input import refused
from fault_server import Fault, FaultServer
from pydantic import ValidationError
from tiny_pipeline import kdmt

from kdmt.config import Corpus, Source, flatten_settings, resolved
from kdmt.corpus.fetch import Places, fetch, fetch_unverified
from kdmt.errors import UserError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


@dataclass
class Server:
    """HTTP server on the loopback interface, whose faults are set by the test."""

    url: str = ""
    ranges: bool = True
    chunked: bool = False
    cut_after: int | None = None  # bytes of the body after which the connection is closed
    status: int = 200
    hold: threading.Event | None = None  # the server waits for it before it answers
    range_headers: list[str | None] = field(default_factory=list)  # one of each request, None without it


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            requested = self.headers.get("Range")
            server.range_headers.append(requested)
            if server.hold is not None:
                server.hold.wait()
            start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and server.ranges else 0
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(server.status if server.status != 200 else 206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self._send(CONTENT[start:])
            self.close_connection = True

        def _send(self, body: bytes) -> None:
            sent = body if server.cut_after is None else body[: server.cut_after]
            if server.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for start in range(0, len(sent), 50_000):
                    chunk = sent[start : start + 50_000]
                    self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                if sent == body:
                    self.wfile.write(b"0\r\n\r\n")
            else:
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(sent)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    state = Server()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(state)) as httpd:
        state.url = f"http://127.0.0.1:{httpd.server_port}/some/folder/file%20name.bin"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        httpd.shutdown()
        thread.join()


@pytest.fixture
def get(tmp_path: Path) -> Callable[..., Path]:
    def get(source: Source, mirror: Path | None = None) -> Path:
        mirrors = () if mirror is None else (str(mirror),)
        return fetch(source, Places(tmp_path / "downloads", mirrors, base=tmp_path)).path

    return get


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdmt.corpus.download._WAITS_SECONDS", ())


def parts(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "downloads").glob("*.part"))


# ------------------------------------------------------------------------------------------------------- local files


def test_local_path_is_relative_to_base(tmp_path: Path, get: Callable[..., Path]) -> None:
    (tmp_path / "a.txt").write_bytes(CONTENT)
    assert get(Source(path="a.txt")) == tmp_path / "a.txt"
    assert get(Source(path="a.txt", sha256=SHA256)) == tmp_path / "a.txt"
    assert get(Source(path=str(tmp_path / "a.txt"))) == tmp_path / "a.txt"
    with pytest.raises(UserError, match=rf"a\.txt: the sha256 is {SHA256}, expected {OTHER}"):
        get(Source(path="a.txt", sha256=OTHER))


def test_a_missing_local_file_is_refused(tmp_path: Path, get: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"missing\.txt: there is no such file"):
        get(Source(path="missing.txt"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder: a folder, expected a file"):
        get(Source(path="folder"))


# ------------------------------------------------------------------------------------------------------------ mirror

URL = "https://example.org/owner/data/raw/train.en.gz"


@pytest.mark.parametrize(
    "place", ["example.org/owner/data/raw/train.en.gz", "data/raw/train.en.gz", "train.en.gz", "x/y/z/train.en.gz"]
)
def test_files_are_found_in_the_mirror(tmp_path: Path, get: Callable[..., Path], place: str) -> None:
    mirror = tmp_path / "mirror"
    for name, content in (("a/train.en.gz", b"another corpus"), (place, CONTENT)):
        (mirror / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / name).write_bytes(content)
    assert get(Source(url=URL, sha256=SHA256), mirror) == mirror / place


def test_a_mirrored_file_with_a_wrong_sha256_is_refused(tmp_path: Path, get: Callable[..., Path]) -> None:
    (tmp_path / "train.en.gz").write_bytes(CONTENT)
    with pytest.raises(UserError, match=rf"train\.en\.gz: the sha256 is {SHA256}, expected {OTHER} for https://exam"):
        get(Source(url=URL, sha256=OTHER), tmp_path)


def test_a_file_missing_from_the_mirror_is_downloaded(
    tmp_path: Path, get: Callable[..., Path], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    assert get(Source(url=server.url, sha256=SHA256), mirror).read_bytes() == CONTENT
    assert f"not in the mirror {mirror}" in caplog.text


def test_a_mirror_that_is_not_a_folder_is_refused(tmp_path: Path, get: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="nowhere: the mirror is not a folder"):
        get(Source(url=URL, sha256=SHA256), tmp_path / "nowhere")


# ----------------------------------------------------------------------------------------------------------- network


def test_a_download_is_kept_and_used_again(tmp_path: Path, server: Server) -> None:
    source = Source(url=server.url, sha256=SHA256)
    seen: list[tuple[str, int, int | None]] = []

    def download() -> Path:
        return fetch(source, Places(tmp_path / "d"), progress=lambda *args: seen.append(args)).path

    path = download()
    assert path.read_bytes() == CONTENT
    assert path.name == f"{SHA256[:16]}-file name.bin"
    assert seen[-1] == (server.url, len(CONTENT), len(CONTENT))
    assert download() == path
    assert server.range_headers == [None]
    path.write_bytes(b"damaged since")
    assert download().read_bytes() == CONTENT


def test_an_unverified_download_is_found_by_the_verified_one(tmp_path: Path, server: Server) -> None:
    places = Places(tmp_path / "d")
    fetched = fetch_unverified(server.url, places)
    assert (fetched.sha256, fetched.num_bytes, fetched.origin) == (SHA256, len(CONTENT), "127.0.0.1")
    assert fetched.path.read_bytes() == CONTENT
    assert fetch(Source(url=server.url, sha256=SHA256), places).path == fetched.path
    assert server.range_headers == [None]


def test_an_unverified_download_is_repeated_only_if_it_has_changed(tmp_path: Path) -> None:
    places, changed = Places(tmp_path / "d"), b"changed"
    with FaultServer({"/a": CONTENT}).serving() as server:
        url = f"{server.url}/a"
        first = fetch_unverified(url, places)
        assert fetch_unverified(url, places) == replace(first, num_received=0, origin=None)
        assert server.num_bytes["/a"] == len(CONTENT)
        server.faults["/a"] = [Fault(404)]
        assert fetch_unverified(url, places).path == first.path  # the server is not needed
        server.files["/a"] = changed
        second = fetch_unverified(url, places)
        assert (second.sha256, second.num_received) == (hashlib.sha256(changed).hexdigest(), len(changed))
        assert first.path.read_bytes() == CONTENT  # the earlier version is kept
        second.path.write_bytes(b"damaged")
        assert fetch_unverified(url, places).path.read_bytes() == changed


def test_a_mirror_server_is_asked_before_the_server_of_the_url(tmp_path: Path) -> None:
    with FaultServer({"/m/example.invalid/a/b%20c.gz": CONTENT}).serving() as server:
        places = Places(tmp_path / "d", (f"{server.url}/m",))
        fetched = fetch(Source(url="https://example.invalid/a/b c.gz", sha256=SHA256), places)
        assert fetched.path.read_bytes() == CONTENT
        assert fetch_unverified("https://example.invalid/a/b c.gz", places).path == fetched.path


def test_an_alternative_is_used_if_the_server_fails(tmp_path: Path) -> None:
    with FaultServer({"/b": CONTENT}).serving() as server:
        places = Places(tmp_path / "d", alternatives={f"{server.url}/a": (f"{server.url}/b",)})
        fetched = fetch(Source(url=f"{server.url}/a", sha256=SHA256), places)
        assert fetched.path.read_bytes() == CONTENT
        assert [path for path, _ in server.requests] == ["/a", "/b"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_truncated_download_is_reported_and_resumed(
    tmp_path: Path, get: Callable[..., Path], server: Server, ranges: bool
) -> None:
    server.ranges, server.cut_after = ranges, 300_000
    source = Source(url=server.url, sha256=SHA256)
    with pytest.raises(UserError, match=rf"{server.url}: truncated, 300000 of {len(CONTENT)} bytes.*rerun resumes"):
        get(source)
    assert [part.stat().st_size for part in parts(tmp_path)] == [300_000]
    server.cut_after = None
    assert get(source).read_bytes() == CONTENT
    assert server.range_headers == [None, "bytes=300000-"]
    assert not parts(tmp_path)


def test_a_truncated_chunked_download_is_resumed(get: Callable[..., Path], server: Server) -> None:
    server.chunked, server.cut_after = True, 300_000
    source = Source(url=server.url, sha256=SHA256)
    with pytest.raises(UserError, match=rf"{server.url}: download failed: .*300000 bytes are kept, a rerun resumes"):
        get(source)
    server.cut_after = None
    assert get(source).read_bytes() == CONTENT
    assert server.range_headers[1] == "bytes=300000-"


def test_a_corrected_sha256_finds_the_earlier_download(
    tmp_path: Path, get: Callable[..., Path], server: Server
) -> None:
    """Check that a mistyped sha256 does not cause another download."""
    with pytest.raises(UserError) as caught:
        get(Source(url=server.url, sha256=OTHER))
    kept = tmp_path / "downloads" / f"{SHA256[:16]}-file name.bin"
    assert str(caught.value) == (
        f"{server.url}: the sha256 of what came is {SHA256}, expected {OTHER}; it is kept as {kept}, where it is "
        "found if you correct the sha256"
    )
    assert get(Source(url=server.url, sha256=SHA256)) == kept
    assert len(server.range_headers) == 1


def test_two_downloads_of_one_file_wait_for_each_other(
    tmp_path: Path, get: Callable[..., Path], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Let the server answer the first one when the second one is waiting; the file is requested once."""
    server.hold = threading.Event()
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(get(Source(url=server.url, sha256=SHA256)))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    while "another process downloads it, waiting" not in caplog.text:
        assert all(thread.is_alive() for thread in threads)
        time.sleep(0.001)
    server.hold.set()
    for thread in threads:
        thread.join()
    assert server.range_headers == [None]
    assert [path.read_bytes() == CONTENT for path in found] == [True, True]
    assert list((tmp_path / "downloads").iterdir()) == [found[0]]


def test_a_waiting_download_resumes_the_partial_file_of_a_failed_one(
    get: Callable[..., Path], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.hold, server.cut_after = threading.Event(), 300_000
    problems: list[str] = []

    def failing() -> None:
        with pytest.raises(UserError) as caught:
            get(Source(url=server.url, sha256=SHA256))
        problems.append(str(caught.value))

    threads = [threading.Thread(target=failing) for _ in range(2)]
    for thread in threads:
        thread.start()
    while "waiting" not in caplog.text:
        time.sleep(0.001)
    server.hold.set()
    for thread in threads:
        thread.join()
    assert [re.findall(r"truncated, (\d+) of", problem) for problem in problems] == [["300000"], ["600000"]]
    assert server.range_headers == [None, "bytes=300000-"]


def test_a_partial_file_that_is_already_complete_is_used(
    tmp_path: Path, get: Callable[..., Path], server: Server
) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / f"{SHA256[:16]}-file name.bin.part").write_bytes(CONTENT)
    assert get(Source(url=server.url, sha256=SHA256)).read_bytes() == CONTENT
    assert not parts(tmp_path)


def test_no_file_is_named_by_a_wrong_sha256(tmp_path: Path, get: Callable[..., Path], server: Server) -> None:
    with pytest.raises(UserError, match=rf"{server.url}: the sha256 .* is {SHA256}, expected {OTHER}"):
        get(Source(url=server.url, sha256=OTHER))
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == [f"{SHA256[:16]}-file name.bin"]


def test_http_error_names_the_url(get: Callable[..., Path], server: Server) -> None:
    server.status = 404
    with pytest.raises(UserError, match=rf"{server.url}: the server answers 404 Not Found"):
        get(Source(url=server.url, sha256=SHA256))


def test_a_refused_connection_is_reported(get: Callable[..., Path], server: Server) -> None:
    url = re.sub(r":\d+/", ":1/", server.url)
    with pytest.raises(UserError, match=rf"{url}: download failed: .*refused"):
        get(Source(url=url, sha256=SHA256))


def test_a_server_that_never_answers_times_out(get: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("kdmt.corpus.connection._TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        with pytest.raises(UserError, match=rf"{url}: download failed: timed out"):
            get(Source(url=url, sha256=SHA256))


def test_alternatives_other_than_http_are_refused(tmp_path: Path) -> None:
    places = Places(tmp_path, alternatives={"http://127.0.0.1:1/x": ("file:///etc/hostname",)})
    with pytest.raises(UserError, match="file:///etc/hostname: only http and https"):
        fetch(Source(url="http://127.0.0.1:1/x", sha256=SHA256), places)


# ------------------------------------------------------------------------------------------------ malicious servers


@contextmanager
def raw_server(answer: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """Yield the address of a server that reads the head of a request and then calls `answer` with the connection."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the listener is closed
                return
            with connection, suppress(OSError):
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536)
                answer(connection, head)

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.fixture
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.usefixtures("_direct")
@pytest.mark.parametrize(
    "location", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://127.0.0.1/", "//[x/"]
)
def test_redirections_to_other_schemes_are_refused(get: Callable[..., Path], location: str, tmp_path: Path) -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    with raw_server(answer) as address, pytest.raises(UserError) as refused:
        get(Source(url=f"{address}/a", sha256=SHA256))
    assert str(refused.value).startswith(f"{address}/a: ")
    assert not list((tmp_path / "downloads").iterdir())


@pytest.mark.usefixtures("_direct")
def test_a_login_is_sent_only_to_its_own_server(get: Callable[..., Path]) -> None:
    """Check that it is sent as in RFC 7617, not sent to the target of a redirection, and not part of any name."""
    heads: list[bytes] = []

    def answer(connection: socket.socket, head: bytes) -> None:
        heads.append(head)
        if b"GET /first" in head:
            other = address.replace("127.0.0.1", "other:word@localhost")
            connection.sendall(f"HTTP/1.1 301 M\r\nLocation: {other}/second\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + CONTENT)

    with raw_server(answer) as address:
        source = Source(url=address.replace("://", "://user:s%2Fcr%40t@") + "/first", sha256=SHA256)
        path = get(source)
    assert path.read_bytes() == CONTENT
    expected = base64.b64encode(b"user:s/cr@t")
    assert [b"Authorization: Basic " + expected in head for head in heads] == [True, False]
    assert source.url == f"{address}/first"
    shown = [
        repr(source),
        str(source),
        source.name,
        json.dumps(resolved(source)),
        str(path),
        str(list(_leaves(source))),
    ]
    assert not [text for text in shown if "cr@t" in text or "cr%40t" in text or "user" in text]
    assert pickle.loads(pickle.dumps(source)).login == source.model_copy().login == "user:s/cr@t"


def _leaves(source: Source) -> Iterator[object]:
    corpus = Corpus(source=source, target=source)
    yield from flatten_settings(corpus, "result").items()


@pytest.mark.parametrize(
    "url", ["http://user:se/cret@host/x", "http://user:secret@/x", "http://[secret/x", "http://user:secret@host:port/x"]
)
def test_an_invalid_url_is_not_quoted(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Source(url=url, sha256=SHA256)
    (problem,) = refused.value.errors()
    assert problem["msg"].startswith("Value error, the host or port of 'url' is not valid")


@pytest.mark.usefixtures("_direct")
@pytest.mark.parametrize("length", ["abc", "-5", "²", "1e3", "99999999999999999999"])
def test_a_download_with_an_invalid_content_length_fails(get: Callable[..., Path], length: str) -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode() + b"x" * 1000)

    with raw_server(answer) as address, pytest.raises(UserError, match=r"the sha256 of what came|are to come"):
        get(Source(url=f"{address}/a", sha256=SHA256))


@pytest.mark.usefixtures("_direct")
@pytest.mark.parametrize("coding", ["", "Transfer-Encoding: chunked\r\n"])
def test_a_download_without_a_length_has_a_maximum_size(
    get: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, coding: str
) -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\n{coding}\r\n".encode())
        body = b"x" * 0x10000
        while True:  # until the client closes the connection
            connection.sendall(b"10000\r\n" + body + b"\r\n" if coding else body)

    monkeypatch.setattr("kdmt.corpus.download._MAX_BYTES", 10**7)
    with raw_server(answer) as address, pytest.raises(UserError, match=r"more than 0\.01 GB came"):
        get(Source(url=f"{address}/a", sha256=SHA256))
    assert parts(tmp_path) == []


def test_a_download_larger_than_the_disk_is_refused(
    get: Callable[..., Path], server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, len(CONTENT) - 1))
    with pytest.raises(UserError, match=r"1,048,576 bytes are to come, and the disk of .*downloads has 1,048,575 free"):
        get(Source(url=server.url, sha256=SHA256))
    assert parts(tmp_path) == []


def _drip(connection: socket.socket, start: bytes, piece: bytes) -> None:
    connection.sendall(start)
    while True:
        connection.sendall(piece)
        time.sleep(0.005)


@pytest.mark.usefixtures("_direct")
@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["length", "none", "chunks", "size of a chunk", "head", "continue"],
)
def test_a_very_slow_download_is_stopped(
    get: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, start: bytes, piece: bytes
) -> None:
    monkeypatch.setattr("kdmt.corpus.connection.STALL_SECONDS", 0.2)
    message = "download failed: fewer than 10,000 bytes came in 0.2 seconds"
    with raw_server(lambda connection, _: _drip(connection, start, piece)) as address:  # noqa: SIM117
        with pytest.raises(UserError, match=rf"{address}/a: {message}"):
            get(Source(url=f"{address}/a", sha256=SHA256))


@pytest.mark.usefixtures("_direct")
@pytest.mark.parametrize(
    "path", ["gr%C3%BCn", "grün", "a b", "%00", "a%1b[31m", "x" * 300, "a%2Fb", "", "\N{GRINNING FACE}" * 99]
)
def test_any_path_of_a_url_gives_a_file_name(get: Callable[..., Path], path: str, tmp_path: Path) -> None:
    heads: list[bytes] = []

    def answer(connection: socket.socket, head: bytes) -> None:
        heads.append(head)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + CONTENT)

    with raw_server(answer) as address:
        found = get(Source(url=f"{address}/{path}", sha256=SHA256))
    assert found.parent == tmp_path / "downloads"
    assert found.read_bytes() == CONTENT
    requested = heads[0].split(b" ")[1].decode("ascii")
    assert urllib.parse.unquote(requested) == urllib.parse.unquote(f"/{path}")


@pytest.mark.usefixtures("_direct", "pipeline")
def test_logins_and_control_characters_are_not_printed_or_saved() -> None:
    """Check the output and the files of the command line, after success and after failure."""
    text = Path("text/train.en").read_bytes()

    def answer(connection: socket.socket, head: bytes) -> None:
        if b"GET /good" in head:
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        else:
            connection.sendall(b"HTTP/1.1 404 \x1b[31mGone\x9b2J\r\nContent-Length: 0\r\n\r\n")

    with raw_server(answer) as address:
        url, sha256 = address.replace("://", "://user:secret@"), hashlib.sha256(text).hexdigest()
        source = "prepare.train.0.source"
        for path, code in (("bad", 2), ("good", 0)):
            given = f"{{url: '{url}/{path}', sha256: {sha256}}}"
            result = kdmt("prepare", "tiny.yaml", "--set", f"{source}={given}")
            assert result.code == code, result.err
            assert "secret" not in result.out + result.err
            assert "\x1b" not in result.err
            assert "\x9b" not in result.err
            if path == "bad":
                assert f"{address}/bad: the server answers 404 \\x1b[31mGone\\x9b2J\n" in result.err
        again = kdmt("prepare", "tiny.yaml", "--set", f"{source}={given.replace('secret', 'other')}")
        assert "nothing to do" in again.err  # the password is not a setting that changes results
    assert not [path for path in Path("runs").rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    for wrong in (f"{source}={url}/x", f"{source}.url=[{url}/x]", f"name={url}/x", f"{url}=x"):
        assert "secret" not in refused("prepare", "tiny.yaml", "--set", wrong)
    Path("broken.yaml").write_text(f"name: {url}/x: y\n", encoding="utf-8")
    assert "secret" not in refused("prepare", "broken.yaml")
