"""Tests of reading text files: recognising their format, carriage returns, and lines that are too long."""

from __future__ import annotations

import gzip
import io
import os
import random
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.archives import Content, Position
from kdmt.corpus.text_files import bounded_text_lines, open_bounded_lines, open_lines
from kdmt.corpus.unreadable import MAX_LINE_BYTES, TOO_LONG, Unreadable
from kdmt.errors import UserError

SENTENCES = "Ein Haus.\nZwei Häuser.\n"
JAPANESE = "家がある。\n家が二つある。\n"


def tar(*, style: int) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=style) as file:
        info = tarfile.TarInfo("train.de")
        info.size = len(SENTENCES.encode())
        file.addfile(info, io.BytesIO(SENTENCES.encode()))
    return archive.getvalue()


def old_tar() -> bytes:
    """Return an archive in the format before POSIX, which has no magic number and is recognised by its checksum."""
    header = bytearray(tar(style=tarfile.USTAR_FORMAT)[:512])
    header[257:265] = bytes(8)
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * ord(" "))
    return bytes(header) + SENTENCES.encode().ljust(1024, b"\0")


def zip_archive() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("train.de", SENTENCES)
    return archive.getvalue()


OTHER_FORMATS = {
    "tar": (
        tar(style=tarfile.GNU_FORMAT),
        "a tar archive, not plain text: name the file inside it as 'member'",
    ),
    "posix tar": (tar(style=tarfile.PAX_FORMAT), "a tar archive"),
    "old tar": (old_tar(), "a tar archive"),
    "zip": (
        zip_archive(),
        "a zip archive, not plain text: name the file inside it as 'member', or unpack it; it has train.de",
    ),
    "empty zip": (b"PK\x05\x06" + bytes(18), "a zip archive"),
    "lz4": (bytes.fromhex("04224d18") + bytes(20), "compressed with lz4"),
    "xml": (b'<?xml version="1.0" encoding="UTF-8"?>\n<html>\n', "SGML or XML markup"),
    "xliff": (b'<xliff version="1.2">\n', "SGML or XML markup"),
    "segments": (b"A house.\n<seg id=1>A house.</seg>\n", "SGML or XML markup"),
    "tmx": (b'<?xml version="1.0" ?>\n<tmx version="1.4">\n<body>\n', "a TMX file, not plain text: of a corpus, give"),
    "html": (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "an HTML page"),
    "json": (b'{"translation": {"en": "A house.", "de": "Ein Haus."}}\n', "JSON"),
    "json, indented": (b'{\n "en": "A house."\n}\n', "JSON"),
    "utf-16": (SENTENCES.encode("utf-16"), "UTF-16 text"),
    "utf-16-le": (SENTENCES.encode("utf-16-le"), "UTF-16 text without a byte order mark"),
    "utf-16-be": (SENTENCES.encode("utf-16-be"), "UTF-16 text without a byte order mark"),
    "utf-16-le, Japanese": (JAPANESE.encode("utf-16-le"), "UTF-16 text without a byte order mark"),
    "utf-16-be, Japanese": (JAPANESE.encode("utf-16-be"), "UTF-16 text without a byte order mark"),
    "utf-32": (SENTENCES.encode("utf-32"), "UTF-32 text"),
    "utf-32-le": (SENTENCES.encode("utf-32-le"), "UTF-32 text without a byte order mark"),
    "pdf": (b"%PDF-1.7\n1 0 obj\n", "a PDF document"),
    "parquet": (b"PAR1\x15\x04\x15\x10", "a Parquet table"),
    "sqlite": (b"SQLite format 3\x00\x10\x00", "an SQLite database"),
    "index of a data-bin": (b"MMIDIDX\x00\x00" + bytes(17), "the index of a data-bin"),
    "pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    "safetensors": ((400).to_bytes(8, "little") + b'{"weight":{"dtype":"F32"}}' + bytes(300), "a binary file"),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
@pytest.mark.parametrize("packed", ["plain", "gzip", "member"])
def test_files_in_other_formats_are_refused_by_their_content(tmp_path: Path, name: str, packed: str) -> None:
    content, reason = OTHER_FORMATS[name]
    path, member = tmp_path / "train.de", None
    if packed == "plain":
        path.write_bytes(content)
    elif packed == "gzip":
        path.write_bytes(gzip.compress(content))
    else:
        member = "train.de"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, content)
    with pytest.raises(UserError) as raised:
        list(open_lines(path, member=member))
    assert str(raised.value).startswith(f"{path}{':train.de' if member else ''}: ")
    assert reason in str(raised.value)


ORDINARY = [
    "",
    "\n",
    "<s> a b </s>\n",
    "<bt> <unk> ...\n",
    "{ }\n{ x } = 5\n",
    '{ "quoted" } text\n',
    "< 5 and > 3\n",
    "<b>bold</b> text of the web\n",
    "<url> is a site\n<doc> is a mark\n",
    "<doc>\nA document.\n</doc>\n",
    "BZh9 is a code\n",
    "PAR1 is a receptor\n",
    "] 5\n",
    "PK is a code\n",
    "ab\x00cd with a stray NUL byte and much more text after it\n",
    "[1, 2]\n",
    "\ufeffwith a mark\n",
    JAPANESE,
]


@pytest.mark.parametrize("number", range(len(ORDINARY)))
def test_ordinary_text_is_read(tmp_path: Path, number: int) -> None:
    text = ORDINARY[number]
    for path, content in (("plain", text.encode()), ("packed", gzip.compress(text.encode()))):
        (tmp_path / path).write_bytes(content)
        expected = text.removeprefix("\ufeff").removesuffix("\n").split("\n") if text else []
        assert list(open_lines(tmp_path / path)) == expected


def test_a_file_with_a_wrong_gz_suffix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.de.gz"
    path.write_text(SENTENCES, encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.de\.gz: .* not gzip but plain text: rename it"):
        list(open_lines(path))
    path.write_bytes(gzip.compress(gzip.compress(SENTENCES.encode())))
    with pytest.raises(UserError, match=r"train\.de\.gz: compressed with gzip, not plain text"):
        list(open_lines(path))


ARCHIVES = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("compression", [None, *ARCHIVES])
def test_damaged_files_give_one_message(tmp_path: Path, compression: int | None) -> None:
    """Change, remove and insert bytes at random positions, with a fixed seed."""
    rng = random.Random(f"{compression}")
    text = SENTENCES.encode() * 100
    whole, member = gzip.compress(text, mtime=0), None
    if compression is not None:
        archive, member = io.BytesIO(), "a"
        with zipfile.ZipFile(archive, "w", compression) as file:
            file.writestr(zipfile.ZipInfo(member), text, compression)
        whole = archive.getvalue()
    path, messages = tmp_path / "a", []
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(data))
            data[place : place + rng.choice([0, 1, 1, 1, 20])] = rng.randbytes(rng.choice([0, 1, 1, 5]))
        path.write_bytes(data)
        try:
            list(open_bounded_lines(path, member=member, name="a file"))
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all(re.match(r"a file.*: .*\w", message) and "None" not in message for message in messages)


def test_compressed_text_is_read_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "train.de").write_bytes(gzip.compress(SENTENCES.encode()))
    assert list(open_lines(tmp_path / "train.de")) == ["Ein Haus.", "Zwei Häuser."]


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    """Read a pipe, which gives a few bytes at a time and is not seekable."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines = [f"line {number}" for number in range(5000)]

    def write() -> None:
        with pipe.open("w", buffering=1) as file:
            file.writelines(f"{line}\n" for line in lines)

    writer = threading.Thread(target=write)
    writer.start()
    assert list(open_lines(pipe)) == lines
    writer.join()


# --------------------------------------------------------------------------------------------------- carriage returns


@pytest.mark.parametrize("text", ["a\rb\rc", "a\rb\rc\r", "a\rb\rc\n", "a\rb\rc\r\n", "a\rb\nc\rd\n", "a\rb" * 400_000])
def test_lines_that_end_only_in_carriage_returns_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mac.txt").write_bytes(text.encode())
    with pytest.raises(UserError, match=r"mac\.txt: [\d,]+ carriage returns inside its lines.* end in '\\r' alone"):
        list(open_lines(tmp_path / "mac.txt"))


def test_mixed_line_endings_and_a_stray_carriage_return_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a\r" + b"b" * 5000 + b"\nc\n")
    assert [len(line) for line in open_lines(tmp_path / "a")] == [5002, 1]
    (tmp_path / "a").write_bytes(b"a\r\nb\nc\rd\ne\r\r\n")
    assert list(open_lines(tmp_path / "a")) == ["a", "b", "c\rd", "e"]


# ------------------------------------------------------------------------------------------------------------ lengths


def test_lines_after_one_that_is_too_long_are_read(tmp_path: Path) -> None:
    longest, path = "x" * MAX_LINE_BYTES, tmp_path / "a"
    path.write_bytes(f"a\n{longest}\r\n{longest}x\nb\n{longest}{longest}\n{longest}x".encode())
    found = list(open_bounded_lines(path, member=None, name="a"))
    assert [line if isinstance(line, Unreadable) else len(line) for line in found] == [
        *(1, MAX_LINE_BYTES, TOO_LONG, 1, TOO_LONG, TOO_LONG)
    ]
    with pytest.raises(UserError, match=r"a line 3: longer than 1,000,000 bytes"):
        list(open_lines(path))


@pytest.mark.parametrize("num_returns", [0, 1, 2, 3, 40, 100_000])
def test_carriage_returns_beyond_the_limit_of_a_line_belong_to_its_end(tmp_path: Path, num_returns: int) -> None:
    path, returns = tmp_path / "a", "\r" * num_returns
    for size in (MAX_LINE_BYTES - 2, MAX_LINE_BYTES - 1, MAX_LINE_BYTES):
        for end in ("\n", "\nb\n"):
            path.write_bytes(f"a\n{'x' * size}{returns}{end}".encode())
            assert list(open_lines(path)) == ["a", "x" * size, *(["b"] if "b" in end else [])]
    path.write_bytes(f"a\n{'x' * MAX_LINE_BYTES}\r\r\rx\nb\n".encode())
    assert list(open_bounded_lines(path, member=None, name="a")) == ["a", TOO_LONG, "b"]
    path.write_bytes(f"a\n{'x' * MAX_LINE_BYTES}{returns}".encode())
    assert list(open_lines(path)) == ["a", "x" * MAX_LINE_BYTES]


@given(st.lists(st.integers(0, 12), max_size=8), st.booleans())
def test_bounded_lines_equal_those_of_a_plain_reader(sizes: list[int], closed: bool) -> None:
    unit = MAX_LINE_BYTES // 4
    text = b"\n".join(b"y" * size * unit for size in sizes) + b"\n" * closed
    lengths = [len(line.rstrip(b"\n")) for line in io.BytesIO(text)]
    content = Content(text[:100], io.BufferedReader(io.BytesIO(text)), None, Path("a"), "a")  # type: ignore[arg-type]
    lines = bounded_text_lines(content, "a", Position(), checked=False)
    found = [None if isinstance(line, Unreadable) else len(line) for line in lines]
    assert found == [length if length <= MAX_LINE_BYTES else None for length in lengths]


@pytest.mark.slow
def test_a_huge_line_in_a_small_archive_needs_little_memory(tmp_path: Path) -> None:
    """Check that reading a line of 512 MB uses at most a third of that memory."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b"xa" * (4 << 20))
        file.write(b"\nb\n")
    code = (
        "import resource, sys, pathlib\n"
        "from kdmt.corpus.text_files import open_bounded_lines\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "lines = list(open_bounded_lines(pathlib.Path(sys.argv[1]), member=None, name='bomb'))\n"
        "print(type(lines[0]).__name__, lines[1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    kind, second, grown = done.stdout.split()
    assert (kind, second) == ("Unreadable", "b")
    unit = 1024 if sys.platform != "darwin" else 1
    assert int(grown) * unit < 170 << 20
