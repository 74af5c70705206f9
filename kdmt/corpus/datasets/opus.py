"""Data sets of OPUS (https://opus.nlpl.eu): parallel corpora as Moses text or TMX, and monolingual text.

A name is `CORPUS/VERSION`, for example `ParaCrawl/v9`. It may go on with `/tmx` for the TMX file, and with the codes of
OPUS where these are not those of the pipeline: `GNOME/v1/de-en_GB`.

Moses text of a pair is the archive `https://object.pouta.csc.fi/OPUS-CORPUS/VERSION/moses/L1-L2.txt.zip` with the
members `CORPUS.L1-L2.L1` and `CORPUS.L1-L2.L2`. The codes are those of OPUS, usually in alphabetical order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from kdmt.corpus.datasets.codes import covers_code, find_code, includes_code, known_language, same_code
from kdmt.corpus.datasets.messages import nearest_names, unknown_name
from kdmt.corpus.datasets.overlaps import overlaps_of
from kdmt.corpus.datasets.recorded_index import DatasetIndex, OpusPair, OpusRelease
from kdmt.corpus.datasets.records import Dataset, in_archive, two_files
from kdmt.corpus.datasets.terms import OPUS_LICENCES, licence_of_opus
from kdmt.errors import UserError
from kdmt.languages import Direction

OBJECTS = "https://object.pouta.csc.fi"
_PAIR = re.compile(r"([^-/]+)-([^-/]+)")
_MANY = 8  # number of language pairs that a message lists


class OpusName(NamedTuple):
    """A name of a data set of OPUS, in parts."""

    corpus: str
    version: str
    is_tmx: bool
    codes: tuple[str, str] | None  # codes of OPUS, if the name has them


def parse_opus(value: str) -> OpusName:
    """Parse `CORPUS/VERSION[/tmx][/L1-L2]`.

    Raises:
        UserError: if the value has another form.
    """
    corpus, _, rest = value.partition("/")
    version, *others = rest.split("/")
    is_tmx = bool(others) and others[0] == "tmx"
    others = others[1:] if is_tmx else others
    pair = _PAIR.fullmatch(others[0]) if others else None
    if not corpus or not version or len(others) > 1 or (others and pair is None):
        raise UserError(f"opus: {value}: expected CORPUS/VERSION, as ParaCrawl/v9, or CORPUS/VERSION/L1-L2")
    return OpusName(corpus, version, is_tmx, None if pair is None else (pair[1], pair[2]))


def resolve_opus(value: str, direction: Direction, index: DatasetIndex) -> Dataset:
    """Return the data set of OPUS with a name.

    Raises:
        UserError: if the release or the language pair is not in the index.
    """
    name = parse_opus(value)
    release = _find_release(name, index)
    if name.is_tmx and not release.has_tmx:
        raise UserError(f"opus: {value}: this release has no TMX files in the index; write {release.name}")
    found, codes = _find_pair(value, name, release, direction, index)
    return opus_dataset(found, codes, value=value, is_tmx=name.is_tmx, index=index)


def opus_dataset(
    pair: OpusPair, codes: tuple[str, str], *, value: str, is_tmx: bool = False, index: DatasetIndex
) -> Dataset:
    """Return the data set of a language pair.

    Args:
        pair: language pair of OPUS.
        codes: the codes of OPUS for the source and the target language of the pipeline.
        value: name in the pipeline.
        is_tmx: whether to use the TMX file.
        index: index of data sets, for the citation.
    """
    release = pair.release
    tmx = f"{OBJECTS}/OPUS-{release.folder}/{release.version}/tmx/{pair.source}-{pair.target}.tmx.gz"
    return Dataset(
        name=f"opus: {value}",
        entry={"tmx": {"url": tmx}} if is_tmx else moses_entry(release, pair.codes, codes),
        licence=licence_of_opus(release.corpus),
        citation=opus_citation(release.corpus, index),
        homepage=f"https://opus.nlpl.eu/{release.corpus}/corpus/version/{release.corpus}",
        alternatives=_by_name(release, pair.codes) if not is_tmx else {},
        overlaps=overlaps_of(release.corpus),
        size_bytes=None if is_tmx else pair.size_bytes,
        num_pairs=pair.num_pairs,
    )


def moses_url(release: OpusRelease, source: str, target: str) -> str:
    """Return the URL of the Moses archive of a language pair, with codes in the order of the file name."""
    return f"{OBJECTS}/OPUS-{release.folder}/{release.version}/moses/{source}-{target}.txt.zip"


def moses_entry(release: OpusRelease, file_codes: tuple[str, str], codes: tuple[str, str]) -> dict[str, object]:
    """Return the entry for a Moses archive, the source language first."""
    url = moses_url(release, *file_codes)
    stem = f"{release.folder}.{'-'.join(file_codes)}"
    return two_files(*(in_archive(url, f"{stem}.{code}") for code in codes))


def _by_name(release: OpusRelease, codes: tuple[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the URL with the name of the corpus where OPUS's database has another folder for it."""
    if release.folder == release.corpus:
        return {}
    return {moses_url(release, *codes): (moses_url(replace(release, folder=release.corpus), *codes),)}


def opus_citation(corpus: str, index: DatasetIndex) -> str | None:
    """Return the publications to cite for a corpus of OPUS: that of OPUS and that of the corpus, if known."""
    keys = OPUS_LICENCES[corpus].cite if corpus in OPUS_LICENCES else ()
    known = [index.citations[key] for key in (*keys, "tiedemann2012parallel") if key in index.citations]
    return "\n\n".join(known) or None


def resolve_opus_monolingual(value: str, language: str, index: DatasetIndex) -> Dataset:
    """Return the monolingual text of a release in one language, whose sentences keep their order in the documents.

    Raises:
        UserError: if the release has no text in this language.
    """
    name = parse_opus(value)
    release = _find_release(name, index)
    codes = sorted({code for pair in index.opus_pairs(release) for code in pair.codes})
    code = find_code(language, codes)
    if code is None:
        raise UserError(f"opus: {value}: no text in {language}; there is {_listed(codes)}")
    url = f"{OBJECTS}/OPUS-{release.folder}/{release.version}/mono/{code}.txt.gz"
    return Dataset(
        name=f"opus: {value}",
        entry={"url": url},
        licence=licence_of_opus(release.corpus),
        citation=opus_citation(release.corpus, index),
        homepage=f"https://opus.nlpl.eu/{release.corpus}/corpus/version/{release.corpus}",
        overlaps=overlaps_of(release.corpus),
    )


def pairs_of_release(
    release: OpusRelease, direction: Direction, index: DatasetIndex
) -> Iterator[tuple[OpusPair, tuple[str, str]]]:
    """Yield the language pairs that are the direction or regional varieties of it, each with its codes for the sides.

    The codes are those of OPUS, for the source and the target language of the direction.
    """
    for pair in index.opus_pairs(release):
        for codes in (pair.codes, pair.codes[::-1]):
            if includes_code(direction.source, codes[0]) and includes_code(direction.target, codes[1]):
                yield pair, codes
                break


def best_pair(
    found: Sequence[tuple[OpusPair, tuple[str, str]]], direction: Direction
) -> tuple[OpusPair, tuple[str, str]] | None:
    """Return the pair that a name without codes means, None if there are regional varieties alone.

    Args:
        found: pairs of a release, from `pairs_of_release`.
        direction: languages of the pipeline.
    """
    usable = [each for each in found if all(map(covers_code, direction.sides, each[1]))]
    return min(usable, key=lambda each: _difference(direction.sides, each[1]), default=None)


def _difference(wanted: tuple[str, str], codes: tuple[str, str]) -> tuple[int, int]:
    """Return the number of other varieties among two codes, and the number of other forms of a code."""
    varieties = sum(not same_code(*each) for each in zip(wanted, codes, strict=True))
    return varieties, sum(map(str.__ne__, wanted, codes))


def _find_release(name: OpusName, index: DatasetIndex) -> OpusRelease:
    releases = index.opus_releases()
    for release in releases:
        if (release.corpus, release.version) == (name.corpus, name.version):
            return release
    wanted = f"{name.corpus}/{name.version}"
    versions = [release for release in releases if release.corpus.lower() == name.corpus.lower()]
    if versions:
        listed = ", ".join(release.name for release in versions)
        raise UserError(f"opus: {wanted}: no such release in the index; there is {listed}")
    raise unknown_name(f"opus: {wanted}", (release.name for release in releases), what="a release of OPUS")


def _find_pair(
    value: str, name: OpusName, release: OpusRelease, direction: Direction, index: DatasetIndex
) -> tuple[OpusPair, tuple[str, str]]:
    """Return the language pair of a name, and its codes for the source and the target language."""
    if name.codes is not None:
        return _named_pair(value, name.codes, release, direction, index)
    found = list(pairs_of_release(release, direction, index))
    best = best_pair(found, direction)
    if best is not None:
        return best
    if found:
        names = ", ".join(f"{release.name}/{pair.source}-{pair.target}" for pair, _ in found[:_MANY])
        raise UserError(f"opus: {value}: no {direction} in the index, but regional varieties: write {names}")
    codes = sorted({code for pair in index.opus_pairs(release) for code in pair.codes})
    missing = [side for side in direction.sides if find_code(side, codes) is None]
    if missing:
        raise UserError(f"opus: {value}: no text in {' and '.join(missing)}; there is {_listed(codes)}")
    raise UserError(f"opus: {value}: no {direction} in the index, although there are other pairs with both languages")


def _named_pair(
    value: str, codes: tuple[str, str], release: OpusRelease, direction: Direction, index: DatasetIndex
) -> tuple[OpusPair, tuple[str, str]]:
    """Return the language pair with the codes of a name, in the order of the direction."""
    pairs = {pair.codes: pair for pair in index.opus_pairs(release)}
    pair = pairs.get(codes) or pairs.get(codes[::-1])
    if pair is None:
        nearest = ", ".join(nearest_names("-".join(codes), ("-".join(each) for each in pairs)))
        advice = f"; the nearest are {nearest}" if nearest else ""
        raise UserError(f"opus: {value}: no pair {'-'.join(codes)}{advice}")
    for order in (pair.codes, (pair.target, pair.source)):
        if all(map(_may_mean, direction.sides, order)):
            return pair, order
    raise UserError(f"opus: {value}: its languages are not those of the pipeline, {direction}")


def _may_mean(wanted: str, code: str) -> bool:
    """Return whether a code of OPUS may mean a language; codes of other standards, as `ze_zh`, may mean any."""
    return known_language(code) is None or includes_code(wanted, code)


def _listed(codes: list[str]) -> str:
    more = len(codes) - 4 * _MANY
    return " ".join(codes[: 4 * _MANY]) + (f" and {more} more" if more > 0 else "")
