"""Tests of the places of a file other than its URL: names in mirrors, order of addresses, alternatives."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from kdmt.corpus.connection import Address
from kdmt.corpus.mirror import addresses, check_mirrors, find_by_path, find_verified, known_alternatives, split_mirrors
from kdmt.errors import UserError

STORED = "https://object.pouta.csc.fi/OPUS-ParaCrawl/v9/moses/en-is.txt.zip"
LISTED = "https://opus.nlpl.eu/download.php?f=ParaCrawl/v9/moses/en-is.txt.zip"


@pytest.mark.skipif(os.pathsep != ":", reason="the separator is not a colon")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("/a", ("/a",)),
        ("/a:b c::/d", ("/a", "b c", "/d")),
        ("http://h", ("http://h",)),
        ("http://h:80/x:/a", ("http://h:80/x", "/a")),
        ("/a:https://u:pw@h/x:http://h:8000", ("/a", "https://u:pw@h/x", "http://h:8000")),
        ("https://u:pw@h:80/x:/a", ("https://u:pw@h:80/x", "/a")),
        ("http://h:folder", ("http://h", "folder")),
        ("http:/h", ("http", "/h")),
    ],
)
def test_mirrors_are_separated_as_in_path(text: str, expected: tuple[str, ...]) -> None:
    assert split_mirrors(text) == expected


def test_a_mirror_is_a_folder_or_a_base_of_urls(tmp_path: Path) -> None:
    check_mirrors([str(tmp_path), "http://127.0.0.1:1/x", "https://example.org"])
    with pytest.raises(UserError, match=r"ftp://example.org: the mirror is not a folder"):
        check_mirrors([str(tmp_path), "ftp://example.org"])
    for wrong in ("http://", "https://user:secret@h:port/x", "http://h:99999", "http://[h"):
        with pytest.raises(UserError, match="a mirror is not valid: the host or port") as caught:
            check_mirrors([wrong])
        assert "secret" not in str(caught.value)


def test_the_query_of_a_url_is_part_of_the_name_as_for_wget(tmp_path: Path) -> None:
    path = tmp_path / "opus.nlpl.eu/download.php?f=ParaCrawl%2Fv9%2Fmoses%2Fen-is.txt.zip"
    path.parent.mkdir()
    path.write_bytes(b"x")
    assert find_by_path(LISTED, [str(tmp_path)]) == (path, str(tmp_path))
    assert find_verified(LISTED, hashlib.sha256(b"x").hexdigest(), [str(tmp_path)]) == (path, str(tmp_path))
    (server, *_) = addresses(LISTED, None, ["http://h/m/"], {})
    assert server.url == "http://h/m/opus.nlpl.eu/download.php%3Ff%3DParaCrawl%252Fv9%252Fmoses%252Fen-is.txt.zip"


def test_without_a_checksum_only_host_and_path_count(tmp_path: Path) -> None:
    (tmp_path / "b.gz").write_bytes(b"another file of this name")
    url = "https://example.org/a/b.gz"
    assert find_by_path(url, [str(tmp_path)]) is None
    (tmp_path / "example.org/a").mkdir(parents=True)
    (tmp_path / "example.org/a/b.gz").write_bytes(b"x")
    assert find_by_path(url, ["http://h", str(tmp_path)]) == (tmp_path / "example.org/a/b.gz", str(tmp_path))


def test_the_first_folder_with_the_right_file_is_used(tmp_path: Path) -> None:
    for name, content in (("one", b"old"), ("two", b"new"), ("three", b"new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "b.gz").write_bytes(content)
    mirrors = [str(tmp_path / name) for name in ("one", "two", "three")]
    expected = tmp_path / "two" / "b.gz"
    assert find_verified("https://example.org/a/b.gz", hashlib.sha256(b"new").hexdigest(), mirrors) == (
        expected,
        str(tmp_path / "two"),
    )


def test_a_file_of_another_data_set_with_the_same_name_is_ignored(tmp_path: Path) -> None:
    """All archives of OPUS for a language pair have the same name."""
    other = tmp_path / "object.pouta.csc.fi/OPUS-CCAligned/v1/moses/en-is.txt.zip"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"CCAligned")
    sha256 = hashlib.sha256(b"ParaCrawl").hexdigest()
    assert find_verified(STORED, sha256, [str(tmp_path)]) is None
    own = tmp_path / "OPUS-ParaCrawl/v9/moses/en-is.txt.zip"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"changed")
    with pytest.raises(UserError, match=f"{own}: the sha256 is"):
        find_verified(STORED, sha256, [str(tmp_path)])


@pytest.mark.parametrize("url", ["https://example.org/../../etc/x", "https://example.org/a/%2e%2e/%2e%2e/x"])
def test_no_name_leaves_the_mirror(tmp_path: Path, url: str) -> None:
    (tmp_path / "x").write_bytes(b"x")
    mirror = tmp_path / "m" / "n"
    mirror.mkdir(parents=True)
    assert find_by_path(url, [str(mirror)]) is None
    assert find_verified(url, hashlib.sha256(b"x").hexdigest(), [str(mirror)]) is None
    assert [address.url for address in addresses(url, None, ["http://h"], {})] == [url]


def test_mirrors_come_before_the_url_and_alternatives_after_it() -> None:
    others = {STORED: ("https://u:pw@other.org/x", LISTED)}
    assert addresses(STORED, "me:secret", ["/folder", "http://v:w@h:80/m", "https://h2"], others) == [
        Address("http://h:80/m/object.pouta.csc.fi/OPUS-ParaCrawl/v9/moses/en-is.txt.zip", "v:w"),
        Address("https://h2/object.pouta.csc.fi/OPUS-ParaCrawl/v9/moses/en-is.txt.zip"),
        Address(STORED, "me:secret"),
        Address("https://other.org/x", "u:pw"),
        Address(LISTED),
    ]


def test_files_of_opus_are_on_two_servers() -> None:
    assert known_alternatives(STORED) == (LISTED,)
    assert known_alternatives(LISTED) == (STORED,)
    assert known_alternatives(LISTED.replace("eu/", "eu/legacy/")) == (STORED,)
    assert known_alternatives("https://data.statmt.org/OPUS-x/y") == ()
