import gzip
import hashlib
import http.server
import re
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kdmt.config import Corpus, Source
from kdmt.corpus.fetch import fetch, fetch_corpus, open_lines, read_pairs
from kdmt.errors import UserError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


@dataclass
class Server:
    """A real HTTP server on the loopback, whose misbehaviour is set by the test."""

    url: str = ""
    ranges: bool = True
    chunked: bool = False
    cut_after: int | None = None  # bytes of the body after which the connection is closed
    status: int = 200
    asked: list[str | None] = field(default_factory=list)  # the Range header of each request


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.asked.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
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
        return fetch(source, downloads=tmp_path / "downloads", mirror=mirror, base=tmp_path)

    return get


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


def test_missing_local_file(tmp_path: Path, get: Callable[..., Path]) -> None:
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
def test_mirror_answers_for_urls(tmp_path: Path, get: Callable[..., Path], place: str) -> None:
    mirror = tmp_path / "mirror"
    for name, content in (("a/train.en.gz", b"another corpus"), (place, CONTENT)):
        (mirror / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / name).write_bytes(content)
    assert get(Source(url=URL, sha256=SHA256), mirror) == mirror / place


def test_mirror_with_another_content_only(tmp_path: Path, get: Callable[..., Path]) -> None:
    (tmp_path / "train.en.gz").write_bytes(CONTENT)
    with pytest.raises(UserError, match=rf"train\.en\.gz: the sha256 is {SHA256}, expected {OTHER} for https://exam"):
        get(Source(url=URL, sha256=OTHER), tmp_path)


def test_mirror_without_the_file_says_so_and_tries_the_network(
    tmp_path: Path, get: Callable[..., Path], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    assert get(Source(url=server.url, sha256=SHA256), mirror).read_bytes() == CONTENT
    assert f"not in the mirror {mirror}" in caplog.text


def test_mirror_that_is_no_folder(tmp_path: Path, get: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="nowhere: the mirror is not a folder"):
        get(Source(url=URL, sha256=SHA256), tmp_path / "nowhere")


# ----------------------------------------------------------------------------------------------------------- network


def test_download_is_kept_and_used_again(tmp_path: Path, server: Server) -> None:
    source = Source(url=server.url, sha256=SHA256)
    seen: list[tuple[int, int | None]] = []

    def download() -> Path:
        return fetch(
            source, downloads=tmp_path / "d", mirror=None, base=tmp_path, progress=lambda *args: seen.append(args)
        )

    path = download()
    assert path.read_bytes() == CONTENT
    assert path.name == f"{SHA256[:16]}-file name.bin"
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert download() == path
    assert server.asked == [None]
    path.write_bytes(b"damaged since")
    assert download().read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_truncated_download_says_how_much_and_resumes(
    tmp_path: Path, get: Callable[..., Path], server: Server, ranges: bool
) -> None:
    server.ranges, server.cut_after = ranges, 300_000
    source = Source(url=server.url, sha256=SHA256)
    with pytest.raises(UserError, match=rf"{server.url}: truncated, 300000 of {len(CONTENT)} bytes.*rerun resumes"):
        get(source)
    assert [part.stat().st_size for part in parts(tmp_path)] == [300_000]
    server.cut_after = None
    assert get(source).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]
    assert not parts(tmp_path)


def test_truncated_chunked_download_resumes(get: Callable[..., Path], server: Server) -> None:
    server.chunked, server.cut_after = True, 300_000
    source = Source(url=server.url, sha256=SHA256)
    with pytest.raises(UserError, match=rf"{server.url}: download failed: .*300000 bytes are kept, a rerun resumes"):
        get(source)
    server.cut_after = None
    assert get(source).read_bytes() == CONTENT
    assert server.asked[1] == "bytes=300000-"


def test_part_that_was_whole_already(tmp_path: Path, get: Callable[..., Path], server: Server) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / f"{SHA256[:16]}-file name.bin.part").write_bytes(CONTENT)
    assert get(Source(url=server.url, sha256=SHA256)).read_bytes() == CONTENT
    assert not parts(tmp_path)


def test_wrong_sha256_leaves_nothing(tmp_path: Path, get: Callable[..., Path], server: Server) -> None:
    with pytest.raises(UserError, match=rf"{server.url}: the sha256 .* is {SHA256}, expected {OTHER}"):
        get(Source(url=server.url, sha256=OTHER))
    assert list((tmp_path / "downloads").iterdir()) == []


def test_http_error_names_the_url(get: Callable[..., Path], server: Server) -> None:
    server.status = 404
    with pytest.raises(UserError, match=rf"{server.url}: the server answers 404 Not Found"):
        get(Source(url=server.url, sha256=SHA256))


def test_nobody_listens(get: Callable[..., Path], server: Server) -> None:
    url = re.sub(r":\d+/", ":1/", server.url)
    with pytest.raises(UserError, match=rf"{url}: download failed: .*refused"):
        get(Source(url=url, sha256=SHA256))


def test_server_that_never_answers(get: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("kdmt.corpus.fetch._TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        with pytest.raises(UserError, match=rf"{url}: download failed: timed out"):
            get(Source(url=url, sha256=SHA256))


def test_only_http(get: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="file:///etc/hostname: only http and https"):
        get(Source(url="file:///etc/hostname", sha256=SHA256))


# ------------------------------------------------------------------------------------------------------------- lines


def write_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


TEXT = "a\u2028b\x0bc\x85d\x1ce\rf\r\n\nlast \u00e9"
LINES = ["a\u2028b\x0bc\x85d\x1ce\rf", "", "last \u00e9"]


def test_only_newlines_end_lines(tmp_path: Path) -> None:
    plain, gzipped = tmp_path / "a.txt", tmp_path / "a.txt.gz"
    plain.write_bytes(TEXT.encode())
    gzipped.write_bytes(gzip.compress(TEXT.encode()))
    archive = write_zip(tmp_path / "a.zip", text=TEXT.encode(), **{"inner.gz": gzipped.read_bytes()})
    assert list(open_lines(plain)) == LINES
    assert list(open_lines(gzipped)) == LINES
    assert list(open_lines(archive, member="text")) == LINES
    assert list(open_lines(archive, member="inner.gz")) == LINES
    plain.write_bytes(TEXT.encode() + b"\n")
    assert list(open_lines(plain)) == LINES


def test_byte_order_mark_is_dropped_at_the_start_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\n\ufefftwo\n".encode())
    assert list(open_lines(path)) == ["one", "\ufefftwo"]


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("grün\ngr".encode() + b"\xfcn\n")
    with pytest.raises(UserError, match=r"a\.txt line 2: not UTF-8"):
        list(open_lines(path))
    with pytest.raises(UserError, match="the corpus line 2: not UTF-8"):
        list(open_lines(path, name="the corpus"))


def test_damaged_archives(tmp_path: Path) -> None:
    long_text = "\n".join(str(hash((1, n))) for n in range(20_000)).encode()
    gzipped = tmp_path / "a.gz"
    gzipped.write_bytes(gzip.compress(long_text)[:-5000])
    with pytest.raises(UserError, match=r"a\.gz: truncated or damaged after line \d+"):
        list(open_lines(gzipped))
    gzipped.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"a\.gz: truncated or damaged after line 0"):
        list(open_lines(gzipped))
    archive = write_zip(tmp_path / "a.zip", text=long_text)
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-1000])
    with pytest.raises(UserError, match=r"a\.zip:text: truncated or damaged"):
        list(open_lines(archive, member="text"))
    archive.write_bytes(whole[:5000] + b"\0" * 100 + whole[5100:])
    with pytest.raises(UserError, match=r"a\.zip:text: truncated or damaged"):
        list(open_lines(archive, member="text"))


def test_missing_file_and_member(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing: No such file"):
        list(open_lines(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"a\.zip:deu\.txt: no such member; the archive holds text, about"):
        list(open_lines(write_zip(tmp_path / "a.zip", text=b"", about=b""), member="deu.txt"))


# ------------------------------------------------------------------------------------------------------------- pairs


def two_files(tmp_path: Path, source: str, target: str) -> Corpus:
    (tmp_path / "c.en").write_text(source, encoding="utf-8")
    (tmp_path / "c.de").write_text(target, encoding="utf-8")
    return Corpus(source=Source(path="c.en"), target=Source(path="c.de"))


def pairs_of(corpus: Corpus, base: Path) -> list[tuple[str, str]]:
    return list(read_pairs(corpus, fetch_corpus(corpus, downloads=base, mirror=None, base=base)))


def test_two_files(tmp_path: Path) -> None:
    corpus = two_files(tmp_path, "a\n\nc\n", "x\ny\nz")
    assert pairs_of(corpus, tmp_path) == [("a", "x"), ("", "y"), ("c", "z")]


@pytest.mark.parametrize(
    ("source", "target", "counts"),
    [("a\nb\nc\n", "x\n", (3, 1)), ("a\n", "x\ny\n", (1, 2)), ("", "x\ny\n", (0, 2)), ("a\n", "", (1, 0))],
)
def test_two_files_of_different_length(tmp_path: Path, source: str, target: str, counts: tuple[int, int]) -> None:
    corpus = two_files(tmp_path, source, target)
    with pytest.raises(UserError, match=rf"c\.en has {counts[0]} lines, c\.de has {counts[1]}"):
        pairs_of(corpus, tmp_path)


def test_empty_corpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"c\.en and c\.de: the corpus is empty"):
        pairs_of(two_files(tmp_path, "", ""), tmp_path)
    corpus = Corpus(tsv=Source(path="c.en"))
    with pytest.raises(UserError, match=r"c\.en: the corpus is empty"):
        pairs_of(corpus, tmp_path)


def test_tsv_inside_a_zip(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", text="1\tein\u2028s\tone\n2\tzwei\ttwo\tmore\n".encode())
    tsv = Source(path="a.zip", member="text")
    assert pairs_of(Corpus(tsv=tsv, source_column=2, target_column=1), tmp_path) == [
        ("one", "ein\u2028s"),
        ("two", "zwei"),
    ]
    with pytest.raises(UserError, match=r"a\.zip:text line 1: 3 columns, at least 4 expected"):
        pairs_of(Corpus(tsv=tsv, source_column=0, target_column=3), tmp_path)
