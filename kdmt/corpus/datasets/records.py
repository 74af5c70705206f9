"""Records of published data sets: the entry of a pipeline that a name means, licence, citation and origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

# host -> other hosts that serve the same files under the same paths
_SAME_FILES = {"statmt.org": ("www.statmt.org",), "www.statmt.org": ("statmt.org",)}


@dataclass(frozen=True)
class Dataset:
    """A data set in one direction of translation, or monolingual text.

    Attributes:
        name: the name as one writes it in a pipeline, for example `opus: ParaCrawl/v9`.
        entry: the settings of a corpus, as one would write them by hand, with URLs and without checksums. Settings of
            `ParallelText`, and `references` where a test set has several references; for monolingual text, settings of
            `Source`.
        licence: licence of the text, None if unknown.
        citation: publications to cite, as BibTeX, None if unknown.
        homepage: page that describes the data set.
        alternatives: for a URL of the entry, other URLs of the same file.
        overlaps: names of data sets that have text in common with this one, each with the reason.
        size_bytes: size of the files to download, None if unknown.
        num_pairs: number of pairs, or of lines of monolingual text, None if unknown.
        md5: for a URL of the entry, the MD5 checksum that the publisher or sacreBLEU lists.
    """

    name: str
    entry: Mapping[str, object]
    licence: str | None = None
    citation: str | None = None
    homepage: str | None = None
    alternatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overlaps: tuple[str, ...] = ()
    size_bytes: int | None = None
    num_pairs: int | None = None
    md5: Mapping[str, str] = field(default_factory=dict)


def two_files(source: Mapping[str, object], target: Mapping[str, object]) -> dict[str, object]:
    """Return the entry of a corpus that is in two files."""
    return {"source": dict(source), "target": dict(target)}


def in_archive(url: str, member: str) -> dict[str, object]:
    """Return the settings of a file in an archive."""
    return {"url": url, "member": member}


def other_hosts(url: str) -> tuple[str, ...]:
    """Return the URLs under which other hosts serve the same file."""
    parts = urlsplit(url)
    return tuple(parts._replace(netloc=host).geturl() for host in _SAME_FILES.get(parts.netloc, ()))


def urls_of(value: object) -> Iterator[str]:
    """Yield the URLs in an entry."""
    if isinstance(value, Mapping):
        if isinstance(value.get("url"), str):
            yield value["url"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from urls_of(each)
