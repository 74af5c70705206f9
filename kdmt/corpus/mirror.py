"""Other places of a file than its URL: mirror folders, mirror servers, and other servers of the same data set.

A mirror is a folder or the base of URLs. A mirror server holds the file of `https://example.org/a/b.gz` as
`BASE/example.org/a/b.gz`. In a folder, less of that path is enough: `a/b.gz`, or `b.gz` in any subfolder.
"""

from __future__ import annotations

import itertools
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from kdmt.checksum import known_sha256
from kdmt.config import SCHEMES, split_login
from kdmt.corpus.connection import Address
from kdmt.errors import UserError

# The files of OPUS are on two servers, the second of which has the name of the file in its query.
_OPUS_STORE = re.compile(r"https?://object\.pouta\.csc\.fi/OPUS-(.+)")
_OPUS_SITE = re.compile(r"https?://opus\.nlpl\.eu/(?:legacy/)?download\.php\?f=(.+)")

# parts of a base of URLs before and after a colon: user and password, host and port
_HOST = re.compile(r"https?://(?:[^/@]*@)?[^/:@]+")
_AFTER_COLON = re.compile(r"[0-9]+(?:/|$)|[^/@]*@")


def is_server(mirror: str) -> bool:
    """Return whether a mirror is the base of URLs, and not a folder."""
    return mirror.partition("://")[0] in SCHEMES


def split_mirrors(text: str) -> tuple[str, ...]:
    """Split folders and bases of URLs that are separated as in PATH; the colons of a URL do not separate."""
    found: list[str] = []
    for piece in filter(None, text.split(os.pathsep)):
        before = found[-1] if found else ""
        is_url = before in SCHEMES and piece.startswith("//")
        is_host = _HOST.fullmatch(before) is not None and _AFTER_COLON.match(piece) is not None
        if os.pathsep == ":" and (is_url or is_host):
            found[-1] = f"{before}:{piece}"
        else:
            found.append(piece)
    return tuple(found)


def check_mirrors(mirrors: Sequence[str]) -> None:
    """Check that every mirror is an existing folder or a valid base of URLs.

    Raises:
        UserError: if one is not.
    """
    for mirror in mirrors:
        if is_server(mirror):
            try:
                split_login(mirror)
            except ValueError as error:  # its message does not quote the login
                raise UserError(f"a mirror is not valid: {error}") from None
        elif not Path(mirror).is_dir():
            raise UserError(f"{mirror}: the mirror is not a folder")


# ------------------------------------------------------------------------------------------------------------- folders


def find_verified(url: str, sha256: str, mirrors: Sequence[str]) -> tuple[Path, str] | None:
    """Return the first file with this SHA-256 in the mirror folders, and its mirror; None if they do not have it.

    Raises:
        UserError: if there are files at the path of the URL and none has this SHA-256. Files of the same name in other
            folders may be of other data sets: all archives of OPUS for a language pair have the same name.
    """
    refused: dict[Path, str] = {}
    for mirror in mirrors:
        named = [] if is_server(mirror) else _named(url, Path(mirror))
        others = _of_same_name(url, Path(mirror)) if named else ()
        for candidate in itertools.chain(named, others):
            if candidate in refused or not candidate.is_file():
                continue
            found = known_sha256(candidate)
            if found == sha256:
                return candidate, mirror
            if candidate in named:
                refused[candidate] = found
    if refused:
        path, found = next(iter(refused.items()))
        raise UserError(f"{path}: the sha256 is {found}, expected {sha256} for {url}")
    return None


def find_by_path(url: str, mirrors: Sequence[str]) -> tuple[Path, str] | None:
    """Return the file at the host and path of a URL in the first mirror folder that has it, and its mirror."""
    for mirror in mirrors:
        if not is_server(mirror) and (name := _name_in_mirror(url)) is not None:
            for path in dict.fromkeys((Path(mirror, name), Path(mirror, _without_query(url)))):
                if path.is_file():
                    return path, mirror
    return None


def _named(url: str, mirror: Path) -> list[Path]:
    """Return the paths of a URL in a mirror, the most specific first: host and path, then each suffix of the path."""
    name = _name_in_mirror(url)
    if name is None:
        return []
    parts = _without_query(url).parts
    return [mirror / name, *(mirror.joinpath(*parts[start:]) for start in range(len(parts)))]


def _of_same_name(url: str, mirror: Path) -> Iterator[Path]:
    yield from sorted(path for path in mirror.rglob("*") if path.name == url_path(url).name)


def url_path(url: str) -> PurePosixPath:
    """Return the path of a URL, without its leading slash."""
    return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path).lstrip("/"))


def _without_query(url: str) -> PurePosixPath:
    return PurePosixPath(urllib.parse.urlsplit(url).hostname or "", url_path(url))


def _name_in_mirror(url: str) -> PurePosixPath | None:
    """Return host, path and query of a URL as a path, as `wget --force-directories` names the file.

    None if the path is empty or leaves its folder.
    """
    path, query = _without_query(url), urllib.parse.urlsplit(url).query
    if not url_path(url).parts or ".." in path.parts:
        return None
    return path.with_name(f"{path.name}?{query.replace('/', '%2F')}") if query else path


# ------------------------------------------------------------------------------------------------------------- servers


def addresses(
    url: str, login: str | None, mirrors: Sequence[str], alternatives: Mapping[str, Sequence[str]]
) -> list[Address]:
    """Return the addresses of a file in the order in which they are tried: mirrors, its URL, alternatives.

    Args:
        login: login of the server of the URL; alternatives on other servers do not receive it.
        alternatives: mapping from URLs to other URLs of the same file.
    """
    found = []
    name = _name_in_mirror(url)
    for mirror in mirrors:
        if is_server(mirror) and name is not None:
            base, mirror_login = split_login(mirror)
            found.append(Address(f"{base.rstrip('/')}/{urllib.parse.quote(str(name))}", mirror_login))
    found.append(Address(url, login))
    for other in (*alternatives.get(url, ()), *known_alternatives(url)):
        found.append(Address(*split_login(other)))
    return list(dict.fromkeys(found))


def known_alternatives(url: str) -> tuple[str, ...]:
    """Return other URLs of a file of OPUS; none for other files."""
    if (stored := _OPUS_STORE.fullmatch(url)) is not None:
        return (f"https://opus.nlpl.eu/download.php?f={stored[1]}",)
    if (listed := _OPUS_SITE.fullmatch(url)) is not None:
        return (f"https://object.pouta.csc.fi/OPUS-{listed[1]}",)
    return ()
