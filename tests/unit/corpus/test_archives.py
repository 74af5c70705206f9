"""Tests of the content of compressed files and of members of archives."""

from __future__ import annotations

import io
import lzma
import random
import re
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import pytest
from corpus_formats import ARCHIVE, COMPRESS, text, zip_file
from hypothesis import given
from hypothesis import strategies as st

import kdmt.corpus.archives
from kdmt.corpus.text_files import open_lines
from kdmt.errors import UserError

LINES = ["Ein Haus.", "", "zwei\u2028Häuser", "家"]


def read(path: Path, content: bytes, member: str | None = None) -> list[str]:
    path.write_bytes(content)
    return list(open_lines(path, member=member))


line = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=50)


@given(st.lists(line, max_size=20), st.sampled_from([*COMPRESS]), st.sampled_from([None, *ARCHIVE]), st.booleans())
def test_text_is_the_same_after_any_compression(
    lines: list[str], compression: str, archive: str | None, outside: bool
) -> None:
    # the first line cannot be mistaken for another format or a byte order mark
    lines = ["first", *lines]
    content, member = text(lines), None
    if archive is None:
        content = COMPRESS[compression](content)
    else:
        member = "some/folder/train.de"
        content = content if outside else COMPRESS[compression](content)
        content = ARCHIVE[archive]({"other": b"x", member: content})
        content = COMPRESS[compression](content) if outside else content
    with tempfile.TemporaryDirectory() as folder:
        assert read(Path(folder) / "file", content, member) == lines


@pytest.mark.parametrize("outer", ARCHIVE)
@pytest.mark.parametrize("inner", ARCHIVE)
def test_archives_inside_archives_are_read(tmp_path: Path, outer: str, inner: str) -> None:
    within = COMPRESS["gzip"](ARCHIVE[inner]({"de-en/train.de": text(LINES), "de-en/train.en": b"x\n"}))
    content = COMPRESS["xz"](ARCHIVE[outer]({"about": b"y\n", "./texts/de-en.tgz": within}))
    assert read(tmp_path / "a", content, "texts/de-en.tgz/de-en/train.de") == LINES
    assert read(tmp_path / "a", content, "./texts/de-en.tgz/de-en/train.de") == LINES
    with pytest.raises(UserError, match=r"no such member; the archive holds de-en/train\.de, de-en/train\.en"):
        read(tmp_path / "a", content, "texts/de-en.tgz/de-en/train.fr")
    with pytest.raises(UserError, match=r"name the file inside it as 'member', or unpack it; it has de-en/train\.de"):
        read(tmp_path / "a", content, "texts/de-en.tgz")


@pytest.mark.parametrize("kind", ARCHIVE)
def test_a_pattern_opens_the_first_file_that_matches(tmp_path: Path, kind: str) -> None:
    content = ARCHIVE[kind]({"NTREX-52b9/b.en": b"x\n", "NTREX-52b9/a.de": text(LINES), "other/a.de": b"y\n"})
    assert read(tmp_path / "a", content, "*/a.de") == LINES
    assert read(tmp_path / "a", content, "*.de") == LINES
    assert read(tmp_path / "a", content, "other/*") == ["y"]
    with pytest.raises(UserError, match=r"no such member; the archive holds NTREX-52b9/b\.en"):
        read(tmp_path / "a", content, "*/a.fr")
    literal = ARCHIVE[kind]({"a*": text(LINES), "ab": b"x\n"})
    assert read(tmp_path / "a", literal, "a*") == LINES


@pytest.mark.parametrize("kind", ARCHIVE)
def test_a_missing_or_wrong_member_lists_the_members(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    content = ARCHIVE[kind]({f"m{number:02}": b"x" for number in range(12)})
    shown = ", ".join(f"m{number:02}" for number in range(10))
    with pytest.raises(
        UserError, match=rf"a: a {kind} archive, not plain text: .*'member', or unpack it; it has {shown} and others$"
    ):
        read(path, content)
    with pytest.raises(UserError, match=rf"a:n: no such member; the archive holds {shown} and others$"):
        read(path, content, "n")
    with pytest.raises(UserError, match="no such member; the archive holds no file"):
        read(path, zip_file({}), "n")
    for member in ("/m01", "../m01", "x/../m01"):
        with pytest.raises(UserError, match=r"'member' is a path inside the archive, without '/' at its start"):
            read(path, content, member)
    with pytest.raises(UserError, match=r"'member' is given, but the file is plain text, not a zip or tar archive"):
        read(path, text(LINES), "m01")


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        for name, kind in (("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    for name in ("soft", "hard"):
        with pytest.raises(UserError, match=rf"{name} is a link: name the file that it points to \(/etc/passwd\)"):
            read(tmp_path / "a", archive.getvalue(), name)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        link = zipfile.ZipInfo("soft")
        link.external_attr = 0o120777 << 16
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="soft is a symbolic link"):
        read(tmp_path / "a", archive.getvalue(), "soft")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_extended_headers_of_tar_have_a_limit(tmp_path: Path, kind: bytes) -> None:
    """The header says that a record of 8 GB follows, which tarfile would read into memory at once."""
    record = tarfile.TarInfo("x")
    record.type, record.size = kind, 8 << 30
    archive = record.tobuf(tarfile.GNU_FORMAT) + bytes(4096)
    with pytest.raises(
        UserError, match=r"a:m: truncated or damaged .*: a name or extended header of 8,589,934,592 bytes"
    ):
        read(tmp_path / "a", archive, "m")


def test_names_of_members_that_are_not_utf8_are_shown_or_refused(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("ü.txt", "a\n")
    damaged = archive.getvalue().replace("ü".encode(), b"\xff\xff")
    with pytest.raises(UserError, match=r"truncated or damaged .*: a name in the archive is not UTF-8"):
        read(tmp_path / "a", damaged, "ü.txt")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", encoding="latin-1", format=tarfile.GNU_FORMAT) as file:
        file.addfile(tarfile.TarInfo("ü" * 150))
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a", archive.getvalue(), "m")
    assert str(caught.value).endswith(f"the archive holds {'?' * 100}...")


@pytest.mark.parametrize("compression", COMPRESS)
def test_several_streams_and_padding_are_read_as_one(tmp_path: Path, compression: str) -> None:
    compress = COMPRESS[compression]
    streams = compress(b"a\nb") + (b"" if compression == "zstd" else bytes(8)) + compress(b"c\nd\n")
    assert read(tmp_path / "a", streams) == ["a", "bc", "d"]
    with pytest.raises(UserError, match=r"a: truncated or damaged after line"):
        read(tmp_path / "a", compress(b"a\nb\n") + b"other bytes")


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("archive", [None, *ARCHIVE])
def test_truncated_and_damaged_files_give_one_message(tmp_path: Path, compression: str, archive: str | None) -> None:
    """Truncate a file anywhere, and change single bytes, with a fixed seed."""
    rng = random.Random(f"{compression} {archive}")
    content = text([f"{rng.random()} Häuser" for _ in range(3000)])
    member = None if archive is None else "m"
    whole = COMPRESS[compression](content if archive is None else ARCHIVE[archive]({"o": b"o", "m": content}))
    for number in range(40):
        data = bytearray(whole[: rng.randrange(30, len(whole) - 30)] if number < 20 else whole)
        if number >= 20:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        message = ""
        try:
            read(tmp_path / "file", bytes(data), member)
        except UserError as error:
            message = str(error)
        # formats without a checksum of every byte may not notice a changed one, but truncation always
        assert re.match(rf"{tmp_path}/file.*: \w", message) or (number >= 20 and not message)
        assert "None" not in message


def test_the_window_of_xz_is_limited(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 << 20}]
    small = lzma.compress(text(LINES), filters=filters)
    assert read(tmp_path / "a", small) == LINES
    header = bytearray(small)
    place = header.index(bytes([0x21, 0x01]), 12)  # filter LZMA2, one byte of properties: the size of the dictionary
    header[place + 2] = 40  # 4 GiB
    size = (header[12] + 1) * 4
    header[12 + size - 4 : 12 + size] = zlib.crc32(bytes(header[12 : 12 + size - 4])).to_bytes(4, "little")
    with pytest.raises(UserError, match=r"truncated or damaged after line 0: .*[Mm]emory"):
        read(tmp_path / "a", bytes(header))


def test_zstd_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdmt.corpus.archives, "_zstd_module", lambda: None)
    with pytest.raises(UserError, match=r"a: compressed with zstd, which needs a package: pip install 'kdmt\[zstd\]'"):
        read(tmp_path / "a", COMPRESS["zstd"](text(LINES)))


@pytest.mark.parametrize(("ending", "kind"), [("gz", "gzip"), ("tgz", "gzip"), ("xz", "xz"), ("zst", "zstd")])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, ending: str, kind: str) -> None:
    with pytest.raises(UserError, match=rf"not {kind} but an HTML page: check where it was downloaded from"):
        read(tmp_path / f"a.{ending}", b"<html><body>404</body></html>")
    with pytest.raises(UserError, match=rf"not {kind} but plain text: rename it"):
        read(tmp_path / f"a.{ending}", text(LINES))
    assert read(tmp_path / f"a.{ending}", COMPRESS["bzip2"](text(LINES))) == LINES


def nested(path: Path, content: bytes) -> None:
    """Write a tar.gz archive with a zip archive, which needs a temporary copy."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("text.de", content)
    with tarfile.open(path, "w:gz") as outer:
        info = tarfile.TarInfo("inner.zip")
        info.size = inner.tell()
        inner.seek(0)
        outer.addfile(info, inner)


def test_a_temporary_copy_is_next_to_the_archive_and_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested(tmp_path / "a.tgz", b"eins\nzwei\n")
    made = []
    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **named: made.append(named["dir"]) or real(**named))
    lines = open_lines(tmp_path / "a.tgz", member="inner.zip/text.de")
    assert next(lines) == "eins"
    assert made == [tmp_path]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]
    assert list(lines) == ["zwei"]
    monkeypatch.setattr("os.access", lambda *_: False)  # a folder that is read-only
    assert list(open_lines(tmp_path / "a.tgz", member="inner.zip/text.de")) == ["eins", "zwei"]
    assert made[1:] == [Path(tempfile.gettempdir())]


def test_a_temporary_copy_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nested(tmp_path / "a.tgz", bytes(2_000_000))
    monkeypatch.setattr(kdmt.corpus.archives, "_SMALL_COPY", 0)
    size = (tmp_path / "a.tgz").stat().st_size
    with pytest.raises(UserError, match=rf"inner.zip/x: has more than {200 * size:,} bytes when it is unpacked, and"):
        list(open_lines(tmp_path / "a.tgz", member="inner.zip/x"))
    nested(tmp_path / "a.tgz", random.Random(1).randbytes(2_000_000).replace(b"\r", b"").replace(b"\n", b""))
    with pytest.raises(UserError, match="no such member"):  # not more than 200 times the archive
        list(open_lines(tmp_path / "a.tgz", member="inner.zip/x"))


def test_a_temporary_copy_leaves_space_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nested(tmp_path / "a.tgz", b"eins\n")
    monkeypatch.setattr(kdmt.corpus.archives, "_SPACE_LEFT", 1 << 62)
    with pytest.raises(UserError, match=r"a temporary copy is needed, and the disk of .* has less than"):
        list(open_lines(tmp_path / "a.tgz", member="inner.zip/text.de"))
