"""Tests of recognising file formats by their first bytes. See also test_text_files.py."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.formats import HEAD_BYTES, recognize, recognize_markup, refuse_other_formats
from kdmt.errors import UserError

SENTENCES = "Ein Haus.\nZwei Häuser.\n" * 20


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("train.de")
        member.size = len(SENTENCES.encode())
        archive.addfile(member, io.BytesIO(SENTENCES.encode()))
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train.de", SENTENCES)
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "kind", "remedy"),
    [
        (gzip.compress(SENTENCES.encode(), mtime=0), "compressed with gzip", "decompress it first"),
        (bz2.compress(SENTENCES.encode()), "compressed with bzip2", "decompress it first"),
        (lzma.compress(SENTENCES.encode()), "compressed with xz", "decompress it first"),
        (zipped(), "a zip archive", "name the file inside it as 'member'"),
        (tar(), "a tar archive", "unpack it and give the text file inside it"),
        (array(), "a NumPy array", "give a text file"),
        (SENTENCES.encode("utf-16"), "UTF-16 text", "convert it to UTF-8"),
        (SENTENCES.encode("utf-32-be"), "UTF-32 text without a byte order mark", "convert it to UTF-8"),
        (bytes(100), "a binary file", "give a text file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_a_format_is_recognised_with_its_remedy(content: bytes, kind: str, remedy: str) -> None:
    found = recognize(content[:HEAD_BYTES])
    assert found is not None
    assert found[0] == kind
    assert found[1].startswith(remedy)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<!DOCTYPE html>\n<html>", "an HTML page"),
        (b'<?xml version="1.0"?>', "SGML or XML markup"),
        (b"A house.\n<seg id=1>A house.</seg>\n", "SGML or XML markup"),
        (b'{"en": "A house."}\n', "JSON"),
        (b"{ }\n", None),
        (b"<unk> is a mark\n", None),
    ],
)
def test_markup_is_recognised_apart_from_other_formats(content: bytes, kind: str | None) -> None:
    assert recognize(content) is None
    found = recognize_markup(content)
    assert (found and found[0]) == kind


def test_a_tag_with_many_attributes_is_recognised_quickly() -> None:
    attributes = b" b=c" * 200
    assert recognize_markup(b"<a" + attributes + b" <") is None
    assert recognize_markup(b"<a" + attributes + b" d>") is not None


def test_a_file_is_refused_with_its_name() -> None:
    refuse_other_formats(SENTENCES.encode(), "train.de")
    with pytest.raises(UserError) as caught:
        refuse_other_formats(b"%PDF-1.7", "train.de")
    assert str(caught.value) == "train.de: a PDF document, not plain text: extract the text first"


def test_markup_is_allowed_where_no_sentences_are_expected() -> None:
    page = b"<html><body>"
    refuse_other_formats(page, "codes", sentences=False)
    with pytest.raises(UserError, match="an HTML page"):
        refuse_other_formats(page, "train.de")


def test_a_tar_header_with_a_wrong_checksum_is_not_recognised() -> None:
    changed = bytearray(tar())
    changed[0] ^= 1
    assert recognize(tar()[:HEAD_BYTES]) is not None
    found = recognize(bytes(changed[:HEAD_BYTES]))
    assert found is None or found[0] != "a tar archive"


@given(st.text(st.characters(blacklist_categories=("Cc", "Cs")), max_size=600))
def test_text_without_markup_is_not_recognised_as_another_format(text: str) -> None:
    start = text.removeprefix("\ufeff").lstrip()
    if not start.startswith(("<", "{", "%PDF", "PK", "BZh", "PAR1", "Rar!", "LZIP", "Obj", "]")) and "<seg" not in text:
        assert recognize(text.encode()[:4096]) is None
        assert recognize_markup(text.encode()[:4096]) is None
