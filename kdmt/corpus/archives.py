"""Content of files that are compressed or inside archives: gzip, xz, bzip2, zstd, zip and tar, known by their content.

Everything is streamed. Nothing is unpacked to disk, except a zip archive or a table inside another archive, which needs
random access and is copied to an unnamed temporary file in the folder of the outer archive, with a limit of its size.
"""

from __future__ import annotations

import bz2
import fnmatch
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from kdmt.config.messages import shorten
from kdmt.corpus.formats import GZIP, HEAD_BYTES, ZIP, is_tar, recognize, recognize_markup
from kdmt.errors import UserError
from kdmt.files import explain_number

BLOCK_BYTES = 1 << 20
_NUM_SHOWN = 10  # names of members in a message
_LONGEST_SHOWN = 100  # characters of a name in a message
_MAX_TAR_RECORD = 1 << 20  # bytes of a long name or extended header, which tarfile holds in memory
_TAR_RECORDS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
# Limits of a temporary copy. Text is seldom compressed to less than a hundredth, archives of zeros to a thousandth.
_MOST_TIMES = 200  # size of the copy over that of the outer file
_SMALL_COPY = 1 << 30  # bytes that a copy may have in addition
_SPACE_LEFT = 256 << 20  # bytes of the disk that a copy leaves free
_LZMA_MEMORY = 1 << 30  # bytes; the presets of xz need up to 65 MiB
_XZ, _LZMA, _BZIP2, _ZSTD = b"\xfd7zXZ\x00", b"]\x00\x00", b"BZh", b"\x28\xb5\x2f\xfd"
_BZIP2_BLOCK = slice(4, 10)
_ZSTD_SKIPPABLE = tuple(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))  # pzstd begins with one
# (last part of the name, format)
_ENDINGS = ((".gz", "gzip"), (".tgz", "gzip"), (".xz", "xz"), (".bz2", "bzip2"), (".zst", "zstd"))


@dataclass(frozen=True)
class Content:
    """Content of a file after decompression.

    Attributes:
        head: its first `HEAD_BYTES` bytes, or all if it is shorter.
        file: stream of the whole content.
        original: the file on disk if the content is exactly that file, which can then be read at any position.
        outer: the file on disk that has the content, possibly compressed or inside archives.
        name: name of the file for messages.
    """

    head: bytes
    file: io.BufferedReader
    original: Path | None
    outer: Path
    name: str


class Position:
    """Number of lines or rows that have been read, for messages about damaged files."""

    def __init__(self, unit: str = "line") -> None:
        self.unit = unit
        self.number = 0


@contextmanager
def naming_damage(name: str, position: Position) -> Iterator[None]:
    """Convert the errors of reading a truncated or damaged file to a `UserError` with its name and the position."""
    try:
        yield
    except (
        *(EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError),
        *(NotImplementedError, struct.error),
    ) as error:
        raise _damaged(name, position, error) from None
    except OSError as error:
        if error.errno is None:  # raised by gzip, bzip2 or zstd
            raise _damaged(name, position, error) from None
        raise UserError(f"{name}: {explain_number(error.errno)}") from None


def _damaged(name: str, position: Position, error: Exception) -> UserError:
    what = str(error) or "it ends too early"
    return UserError(f"{name}: truncated or damaged after {position.unit} {position.number}: {what}")


def open_content(path: Path, member: str | None, name: str, opened: ExitStack) -> Content:
    """Open a file, or a file inside an archive, and decompress it.

    A file may be compressed, an archive may be compressed, and so may a file inside it.

    Args:
        path: file on disk.
        member: path within the archive. If a member of the archive is itself an archive, the path goes on inside it, as
            in `texts/de-en.tgz/de-en/train.de`. `*` matches any characters; the first file that matches is opened.
        name: name of the file for messages.
        opened: stack that closes what is opened.

    Raises:
        UserError: if the archive has no such member or `member` is missing; the message lists members. Also if the file
            is no archive, a member is a link, or a package for the compression is missing.
        Exception: errors of damaged files; `naming_damage` converts them.
    """
    content = _decompressed(opened.enter_context(path.open("rb")), path, path.name, name, opened, outer=path)
    if member is not None:
        _check_member(member, name)
    while member is not None:
        content, member = _open_member(content, member, name, opened)
    kind = _archive_kind(content.head)
    if kind is not None:
        raise UserError(
            f"{name}: a {kind} archive, not plain text: name the file inside it as 'member', or unpack it; it has "
            f"{_list_names(_names(content, kind, opened))}"
        )
    return content


def seekable(content: Content, opened: ExitStack) -> IO[bytes]:
    """Return a file with the content that can be read at any position; compressed content is copied to disk.

    The copy has no name, and disappears when it is closed or the process is killed.

    Raises:
        UserError: if the copy is much larger than the outer file, or the disk has too little space for it.
    """
    if content.original is not None:
        return opened.enter_context(content.original.open("rb"))
    folder = content.outer.parent if os.access(content.outer.parent, os.W_OK) else Path(tempfile.gettempdir())
    size = content.outer.stat().st_size
    most = _SMALL_COPY + _MOST_TIMES * size
    copy = opened.enter_context(cast(IO[bytes], tempfile.TemporaryFile(prefix="kdmt-", dir=folder)))  # noqa: SIM115
    while block := content.file.read(BLOCK_BYTES):
        if copy.tell() + len(block) > most:
            raise UserError(
                f"{content.name}: has more than {most:,} bytes when it is unpacked, and {content.outer} has {size:,}: "
                "unpack it yourself if it is no mistake"
            )
        if shutil.disk_usage(folder).free < _SPACE_LEFT:
            raise UserError(
                f"{content.name}: a temporary copy is needed, and the disk of {folder} has less than {_SPACE_LEFT:,} "
                "bytes left: make space, or unpack it to another disk"
            )
        copy.write(block)
    copy.seek(0)
    return copy


# -------------------------------------------------------------------------------------------------------- compression


def _decompressed(
    file: IO[bytes], path: Path | None, own_name: str, name: str, opened: ExitStack, *, outer: Path
) -> Content:
    """Return the content of a stream, decompressed once if it is compressed.

    Args:
        path: file on disk that the stream reads from its start; None for a member of an archive.
        own_name: name of the file or member itself, whose ending may name a compression.
        outer: file on disk that has the stream.
    """
    head = _read_head(file)
    compression = _compression(head)
    if compression is None:
        _check_ending(own_name, head, name)
        original = path if path is not None and path.is_file() else None
        return Content(head, _rewound(head, file), original, outer, name)
    decompressed = opened.enter_context(_DECOMPRESS[compression](_rewound(head, file), name))
    head = _read_head(decompressed)
    return Content(head, _rewound(head, decompressed), None, outer, name)


def _compression(head: bytes) -> str | None:
    """Return the compression of a file by its first bytes, None if it is not compressed or the format is unknown."""
    if head.startswith(GZIP):
        return "gzip"
    if head.startswith((_XZ, _LZMA)):
        return "xz"
    if head.startswith(_BZIP2) and head[_BZIP2_BLOCK] == b"1AY&SY":
        return "bzip2"
    if head.startswith((_ZSTD, *_ZSTD_SKIPPABLE)):
        return "zstd"
    return None


def _check_ending(own_name: str, head: bytes, name: str) -> None:
    """Refuse a file that is not compressed although its name says so: it is usually truncated or an error page."""
    compression = next((kind for ending, kind in _ENDINGS if own_name.endswith(ending)), None)
    if compression is not None and head:
        what, remedy = recognize(head) or recognize_markup(head) or ("plain text", "rename it")
        raise UserError(f"{name}: truncated or damaged after line 0: not {compression} but {what}: {remedy}")


class _Decompressor(Protocol):
    """Common interface of the decompressors of bz2, lzma and zstd."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Decompressing(io.RawIOBase):
    """Content of a file of one or more compressed streams, one after another.

    Unlike the files of the standard library, it limits the memory of xz, and refuses other bytes behind a stream.
    """

    def __init__(self, file: IO[bytes], make: Callable[[], _Decompressor], errors: tuple[type[Exception], ...]) -> None:
        self._file, self._make, self._errors = file, make, errors
        self._decompressor = make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            data = self._next(len(buffer))
        except self._errors as error:
            raise OSError(str(error)) from None  # without a number, like those of gzip and bzip2
        buffer[: len(data)] = data
        return len(data)

    def _next(self, size: int) -> bytes:
        """Return up to `size` bytes; none at the end."""
        while True:
            more = b""
            if self._decompressor.eof:
                more = self._between_streams(self._decompressor.unused_data)
                if not more:
                    return b""
                self._decompressor = self._make()
            elif self._decompressor.needs_input:
                more = self._file.read(BLOCK_BYTES)
                if not more:
                    raise EOFError("the compressed data ends too early")
            data = self._decompressor.decompress(more, size)
            if data:
                return data

    def _between_streams(self, data: bytes) -> bytes:
        """Return the first bytes of the next stream, without zeros before it, with which files may be padded."""
        data = data.lstrip(b"\0")
        while not data and (more := self._file.read(BLOCK_BYTES)):
            data = more.lstrip(b"\0")
        return data


def _open_gzip(file: IO[bytes], _: str) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=file))


def _open_xz(file: IO[bytes], _: str) -> IO[bytes]:
    def make() -> _Decompressor:
        return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)

    return _buffered(_Decompressing(file, make, (lzma.LZMAError,)))


def _open_bzip2(file: IO[bytes], _: str) -> IO[bytes]:
    return _buffered(_Decompressing(file, bz2.BZ2Decompressor, (OSError,)))


def _open_zstd(file: IO[bytes], name: str) -> IO[bytes]:
    module = _zstd_module()
    if module is None:
        raise UserError(f"{name}: compressed with zstd, which needs a package: pip install 'kdmt[zstd]'")
    return _buffered(_Decompressing(file, module.ZstdDecompressor, (module.ZstdError,)))


def _zstd_module() -> Any:
    """Return the zstd module of Python 3.14, or its backport for earlier versions; None if it is not installed."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            return None
    return zstd


_DECOMPRESS: dict[str, Callable[[IO[bytes], str], IO[bytes]]] = {
    "gzip": _open_gzip,
    "xz": _open_xz,
    "bzip2": _open_bzip2,
    "zstd": _open_zstd,
}


class _Rewound(io.RawIOBase):
    """A stream whose first bytes have already been read."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._head, self._file = head, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._file.read(len(buffer))
        self._head = self._head[len(data) :] if self._head else b""
        buffer[: len(data)] = data
        return len(data)


def _rewound(head: bytes, file: IO[bytes]) -> io.BufferedReader:
    return _buffered(_Rewound(head, file))


def _buffered(file: io.RawIOBase) -> io.BufferedReader:
    return io.BufferedReader(file, BLOCK_BYTES)


def _read_head(file: IO[bytes]) -> bytes:
    """Return the first `HEAD_BYTES`, also of a pipe, which returns fewer bytes at a time."""
    head = b""
    while len(head) < HEAD_BYTES and (more := file.read(HEAD_BYTES - len(head))):
        head += more
    return head


# ----------------------------------------------------------------------------------------------------------- archives


def _archive_kind(head: bytes) -> str | None:
    if head.startswith(ZIP):
        return "zip"
    return "tar" if is_tar(head) else None


def _check_member(member: str, name: str) -> None:
    if PurePosixPath(member).is_absolute() or ".." in PurePosixPath(member).parts:
        raise UserError(f"{name}: 'member' is a path inside the archive, without '/' at its start and without '..'")


def _open_member(content: Content, member: str, name: str, opened: ExitStack) -> tuple[Content, str | None]:
    """Open a member of an archive; return its content, and the rest of the path if the member is an archive itself."""
    kind = _archive_kind(content.head)
    if kind is None:
        found = recognize(content.head) or recognize_markup(content.head)
        if found is None and content.original is not None and zipfile.is_zipfile(content.original):
            kind = "zip"  # with other bytes before it
        else:
            what = "plain text" if found is None else found[0]
            raise UserError(f"{name}: 'member' is given, but the file is {what}, not a zip or tar archive")
    file, own_name, rest = _MEMBER_OF[kind](content, member, name, opened)
    return _decompressed(file, None, own_name, name, opened, outer=content.outer), rest


def _member_of_zip(content: Content, member: str, name: str, opened: ExitStack) -> tuple[IO[bytes], str, str | None]:
    """Return a member as a stream, its name, and the rest of the path behind it."""
    archive = _open_zip(content, opened)
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    found = next((each for each in names if _own(each) == _own(member)), None)
    found = found or next((each for each in names if _is_member(each, member) or _is_above(each, member)), None)
    if found is None:
        raise _no_member(name, names)
    info = archive.getinfo(found)
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UserError(f"{name}: {_shown(found)} is a symbolic link: name the file that it points to as 'member'")
    try:
        return opened.enter_context(archive.open(info)), found, _rest(found, member)
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or a compression that Python does not have
        raise UserError(f"{name}: {error}") from None


def _member_of_tar(content: Content, member: str, name: str, opened: ExitStack) -> tuple[IO[bytes], str, str | None]:
    """Return a member as `_member_of_zip` does. A tar archive has no index: it is read up to the member."""
    archive = _open_tar(content, opened)
    names = []
    for info in _infos(archive):
        if _is_member(info.name, member) or (info.isreg() and _is_above(info.name, member)):
            if info.issym() or info.islnk():
                raise UserError(
                    f"{name}: {_shown(info.name)} is a link: name the file that it points to "
                    f"({_shown(info.linkname)}) as 'member'"
                )
            file = archive.extractfile(info)
            if file is not None:  # None for a folder
                return opened.enter_context(file), info.name, _rest(info.name, member)
        if info.isreg():
            names.append(info.name)
    raise _no_member(name, names)


_MEMBER_OF = {"zip": _member_of_zip, "tar": _member_of_tar}


def _open_zip(content: Content, opened: ExitStack) -> zipfile.ZipFile:
    try:
        return opened.enter_context(zipfile.ZipFile(seekable(content, opened)))
    except UnicodeDecodeError:
        raise zipfile.BadZipFile("a name in the archive is not UTF-8") from None


class _Header(tarfile.TarInfo):
    """Header of a member. Long names and extended headers have a limit, since tarfile reads them into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _TAR_RECORDS and header.size > _MAX_TAR_RECORD:
            raise tarfile.TarError(f"a name or extended header of {header.size:,} bytes")
        return header


def _open_tar(content: Content, opened: ExitStack) -> tarfile.TarFile:
    return opened.enter_context(tarfile.open(fileobj=content.file, mode="r|", bufsize=BLOCK_BYTES, tarinfo=_Header))


def _infos(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps all of them
        yield info


def _names(content: Content, kind: str, opened: ExitStack) -> Iterable[str]:
    """Return the names of the files in an archive."""
    if kind == "zip":
        archive = _open_zip(content, opened)
        return [info.filename for info in archive.infolist() if not info.is_dir()]
    return (info.name for info in _infos(_open_tar(content, opened)) if info.isreg())


def _no_member(name: str, names: Iterable[str]) -> UserError:
    return UserError(f"{name}: no such member; the archive holds {_list_names(names)}")


def _list_names(names: Iterable[str]) -> str:
    """Return the first names as text; of an iterator, the rest is not read."""
    shown: list[str] = []
    for each in names:
        if len(shown) == _NUM_SHOWN:
            return f"{', '.join(shown)} and others"
        shown.append(_shown(each))
    return ", ".join(shown) or "no file"


def _shown(name: str) -> str:
    """Return a name as a message shows it; tarfile has surrogates for bytes that are not UTF-8."""
    return shorten(name.encode(errors="replace").decode(), _LONGEST_SHOWN)


def _own(member: str) -> str:
    """Return the path of a member without the `./` that tar may write before it."""
    return member.removeprefix("./")


def _is_member(name: str, member: str) -> bool:
    """Return whether a member has the wanted path, or is a file that matches it as a pattern."""
    if _own(name) == _own(member):
        return True
    return "*" in member and not name.endswith("/") and fnmatch.fnmatchcase(_own(name), _own(member))


def _is_above(name: str, member: str) -> bool:
    """Return whether a member may be an archive in which the wanted member is."""
    return _own(member).startswith(f"{_own(name)}/")


def _rest(name: str, member: str) -> str | None:
    """Return the part of a path that goes on inside a member; None if the member is the wanted file itself."""
    return None if _is_member(name, member) else _own(member)[len(_own(name)) + 1 :] or None
