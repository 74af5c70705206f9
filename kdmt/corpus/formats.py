"""Detection of files that are not plain UTF-8 text by their first bytes, with the format and a remedy.

File names are ignored, because archives, markup and UTF-16 text occur with any name.
"""

from __future__ import annotations

import codecs
import json
import re

from kdmt.errors import UserError

HEAD_BYTES = 4096
GZIP = b"\x1f\x8b"
ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
PARQUET = b"PAR1"
_DECOMPRESS = "decompress it first"
_EXTRACT = "extract the text first"
_CONVERT = "convert it to UTF-8, for example with 'iconv -t UTF-8'"

# (first bytes, format, remedy); longer signatures come before the shorter ones with which they begin
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    *((magic, "a zip archive", "name the file inside it as 'member', or unpack it") for magic in ZIP),
    (b"\xfd7zXZ\x00", "compressed with xz", _DECOMPRESS),
    (b"]\x00\x00", "compressed with lzma", _DECOMPRESS),
    *((b"BZh%d1AY&SY" % level, "compressed with bzip2", _DECOMPRESS) for level in range(1, 10)),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _DECOMPRESS),
    *((bytes([0x50 + i]) + b"\x2a\x4d\x18", "compressed with zstd or lz4", _DECOMPRESS) for i in range(16)),
    (b"\x04\x22\x4d\x18", "compressed with lz4", _DECOMPRESS),
    (b"LZIP\x01", "compressed with lzip", _DECOMPRESS),
    (b"\x89LZO", "compressed with lzop", _DECOMPRESS),
    (b"\x1f\x9d", "compressed with compress (.Z)", _DECOMPRESS),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _EXTRACT),
    (b"Rar!\x1a\x07", "a rar archive", _EXTRACT),
    (b"\x00\x00\xfe\xff", "UTF-32 text", _CONVERT),
    (b"\xff\xfe\x00\x00", "UTF-32 text", _CONVERT),
    (codecs.BOM_UTF16_LE, "UTF-16 text", _CONVERT),
    (codecs.BOM_UTF16_BE, "UTF-16 text", _CONVERT),
    (b"%PDF-", "a PDF document", _EXTRACT),
    (b"{\\rtf", "an RTF document", _EXTRACT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document", _EXTRACT),
    (b"PAR1\x15", "a Parquet table", "of a corpus, give it as 'parquet', or export its columns as text"),
    (b"ARROW1\x00\x00", "an Arrow table", "export its columns as text, one sentence a line"),
    (b"Obj\x01", "an Avro file", "export its columns as text, one sentence a line"),
    (b"SQLite format 3\x00", "an SQLite database", "export its columns as text, one sentence a line"),
    (b"\x89HDF\r\n", "an HDF5 file", "export its columns as text, one sentence a line"),
    (b"\x93NUMPY", "a NumPy array", "give a text file"),
    (b"MMIDIDX\x00", "the index of a data-bin", "give the token file of the same name that ends in .bin"),
    (b"TNTIDX\x00", "the index of a data-bin", "make the data-bin again with 'fairseq-preprocess --dataset-impl mmap'"),
    (b"\x89PNG\r\n", "an image", "give a text file"),
    (b"\x7fELF", "a program", "give a text file"),
    (
        b"version https://git-lfs.github.com/spec/",
        "the pointer of a file that Git LFS keeps elsewhere",
        "fetch the file itself with 'git lfs pull'",
    ),
)
_HTML = re.compile(rb"<!doctype\s+html|<html[\s>]", re.IGNORECASE)
# Beginnings of SGML (WMT), XML (IWSLT, OPUS), TMX and XLIFF: a tag with an attribute, a tag that occurs in no other
# format, or a tag that is closed on the same line. Other tags are accepted, because placeholders in tokenised text look
# like them (`<url> is a site`).
_MARKUP = re.compile(
    rb"<\?xml\s|<!doctype\s|<!--|<(srcset|refset|tstset|mteval|tmx|xliff|cesdoc|cesana)[\s>]"
    rb"|<[a-z]+\s+[\w:]+\s*=[^<>]*>|<(url|doc|talkid|keywords|speaker|transcript|seg)>[^<>\n]*</",
    re.IGNORECASE,
)
_SEGMENT = re.compile(rb"<seg\s+id\s*=", re.IGNORECASE)
_TMX = re.compile(rb"^(<[?!][^>]*>\s*)*<tmx[\s>]", re.IGNORECASE)
_TAR_BYTES = 512  # size of a header
_TAR_CHECKSUM = slice(148, 156)
_FEWEST_NULS = 0.1  # smallest share of NUL bytes in a binary file; single ones occur in crawled text


def refuse_other_formats(head: bytes, name: str, *, sentences: bool = True) -> None:
    """Check that a file is plain UTF-8 text.

    Args:
        head: first `HEAD_BYTES` bytes of the file, or all if it is shorter.
        name: name of the file for the message.
        sentences: whether the file must contain sentences; then markup is refused too.

    Raises:
        UserError: if it is another format; the message names the format and a remedy.
    """
    found = recognize(head) or (recognize_markup(head) if sentences else None)
    if found is not None:
        raise UserError(f"{name}: {found[0]}, not plain text: {found[1]}")


def recognize(head: bytes) -> tuple[str, str] | None:
    """Return the format of a file that is not UTF-8 text, and a remedy; None if it may be UTF-8 text."""
    for magic, kind, remedy in _SIGNATURES:
        if head.startswith(magic):
            return kind, remedy
    if head.startswith(GZIP):
        return "compressed with gzip", "decompress it first"
    if is_tar(head):
        return "a tar archive", "unpack it and give the text file inside it"
    return _recognize_wide_text(head)


def is_tar(head: bytes) -> bool:
    """Return whether the checksum of the tar header is correct; the old tar format has no other signature."""
    header = head[:_TAR_BYTES]
    if len(header) < _TAR_BYTES or not header[0]:
        return False
    field = header[_TAR_CHECKSUM].strip(b" \0")
    if not re.fullmatch(rb"[0-7]{1,8}", field):
        return False
    blanks = len(header[_TAR_CHECKSUM]) * ord(" ")  # the checksum is computed with blanks in its own field
    return int(field, 8) == sum(header) - sum(header[_TAR_CHECKSUM]) + blanks


def _recognize_wide_text(head: bytes) -> tuple[str, str] | None:
    """Return format and remedy of UTF-16 or UTF-32 without a byte order mark, or another file with many NUL bytes."""
    nuls = head.count(0)
    if not nuls or (nuls < _FEWEST_NULS * len(head) and _is_utf8(head)):
        return None
    whole = head[: len(head) // 4 * 4]
    for codec in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(codec)().decode(whole)
        except UnicodeDecodeError:
            continue
        if text and "\0" not in text and sum(map(_is_of_text, text)) > 0.9 * len(text):
            return f"{codec[:6].upper()} text without a byte order mark", _CONVERT
    return "a binary file", "give a text file"


def _is_of_text(character: str) -> bool:
    return character.isprintable() or character.isspace()


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be incomplete
    except UnicodeDecodeError:
        return False
    return True


def recognize_markup(head: bytes) -> tuple[str, str] | None:
    """Return the format of markup or JSON, and a remedy; None if the text may have one sentence per line."""
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if _HTML.match(start):
        return "an HTML page", "check where it was downloaded from"
    if _TMX.search(start):
        return "a TMX file", "of a corpus, give it as 'tmx'"
    if _MARKUP.match(start) or _SEGMENT.search(head):
        return "SGML or XML markup", f"{_EXTRACT}, one sentence a line"
    if start[:1] == b"{" and _are_objects(start):
        return "JSON", "of a corpus, give it as 'jsonl', or export its fields as text"
    return None


def _are_objects(start: bytes) -> bool:
    """Return whether the first line is, or begins, a JSON object with a key; a sentence does not."""
    first, newline, _ = start.partition(b"\n")
    try:
        value = json.loads(first)
    except ValueError:
        # an object on several lines, with the first key after the brace or on a later line
        return bool(newline) and re.match(rb'\{\s*"[^"\n]*"\s*:', start) is not None
    except RecursionError:
        return False
    return isinstance(value, dict) and bool(value)
