"""Test sets of sacreBLEU: `wmt14/full`, `wmt21/AB` and others, from the definitions in the installed package.

sacreBLEU's data are archives with SGM files of one side each (WMT up to 2020, IWSLT), XML files with source and
references (WMT from 2021), text files of one side each (mtedx, Multi30k), or TSV files (MTNT). A name may go on with
the language pair: `wmt19/en-de`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from kdmt.corpus.datasets.codes import same_code
from kdmt.corpus.datasets.messages import unknown_name
from kdmt.corpus.datasets.records import Dataset, in_archive, other_hosts, two_files, urls_of
from kdmt.corpus.datasets.terms import WMT_LICENCE
from kdmt.errors import UserError
from kdmt.languages import Direction

_HOMEPAGE = "https://github.com/mjpost/sacrebleu"
# sets whose members are in several archives that the folders of the members do not tell apart: pattern -> archive
_ARCHIVES = {"wmt17/ms": ((re.compile(r"newstest2017-zhen-"), 1), (re.compile("Translator-HumanParityData"), 0))}
_TAR_SUFFIXES = (".tar.gz", ".tgz", ".zip", ".tar")


def resolve_sacrebleu(value: str, direction: Direction) -> Dataset:
    """Return the test set of sacreBLEU with a name.

    Raises:
        UserError: if sacreBLEU has no such test set, or not in this direction.
    """
    from sacrebleu.dataset import DATASETS

    name, pair = _split_pair(value, DATASETS)
    if name not in DATASETS:
        raise unknown_name(f"sacrebleu: {value}", DATASETS, what="a test set of sacreBLEU")
    test_set = DATASETS[name]
    if pair is not None and not _is_pair(pair, direction):
        raise UserError(f"sacrebleu: {value}: the pipeline is from {direction.source} to {direction.target}")
    found = next((each for each in test_set.langpairs if _is_pair(each, direction)), None)
    if found is None:
        listed = " ".join(sorted(test_set.langpairs))
        raise UserError(f"sacrebleu: {value}: no {direction} in this test set; there is {listed}")
    return _dataset(value, test_set, found)


def sacrebleu_pairs(direction: Direction) -> Iterator[Dataset]:
    """Yield the test sets of sacreBLEU in a direction."""
    from sacrebleu.dataset import DATASETS

    for name, test_set in DATASETS.items():
        yield from (_dataset(name, test_set, pair) for pair in test_set.langpairs if _is_pair(pair, direction))


def _split_pair(value: str, known: Mapping[str, object]) -> tuple[str, str | None]:
    """Split `wmt19/en-de` into name and language pair; the language pair is None if the name has none."""
    name, _, last = value.rpartition("/")
    return (name, last) if value not in known and name in known and "-" in last else (value, None)


def _is_pair(pair: str, direction: Direction) -> bool:
    return all(map(same_code, direction.sides, pair.split("-")))


def _dataset(name: str, test_set: Any, pair: str) -> Dataset:
    md5 = dict(zip(test_set.data, test_set.md5 or (), strict=False))
    entry = _entry(test_set, pair)
    used = set(urls_of(entry))
    return Dataset(
        name=f"sacrebleu: {name}",
        entry=entry,
        licence=WMT_LICENCE if test_set.name.startswith("wmt") else None,
        citation=test_set.citation or None,
        homepage=_HOMEPAGE,
        alternatives={url: other_hosts(url) for url in sorted(used) if other_hosts(url)},
        md5={url: checksum for url, checksum in md5.items() if url in used},
    )


def _entry(test_set: Any, pair: str) -> dict[str, object]:
    """Return the entry of a language pair: source, target and further references."""
    kind = type(test_set).__name__
    files = test_set.langpairs[pair]
    if kind == "WMTXMLDataset":
        return _xml_entry(test_set, files)
    if kind == "TSVDataset":
        columns, members = zip(*(file.split(":", 1) for file in files), strict=True)
        table = in_archive(test_set.data[0], members[0])
        return {"tsv": table, "source_column": int(columns[0]), "target_column": int(columns[1])}
    source, target, *references = (_file(test_set, file) for file in files)
    return two_files(source, target) | ({"references": references} if references else {})


def _xml_entry(test_set: Any, files: Sequence[str] | Mapping[str, Any]) -> dict[str, object]:
    """Return the entry for an XML file of WMT; sacreBLEU chooses the references by translator."""
    translators = list(test_set.kwargs.get("refs", ()))
    if isinstance(files, Mapping):
        member, translators = files["path"], list(files.get("refs", translators))
    else:
        member = files[0]
    sources = [in_archive(test_set.data[0], member) | _part(translator) for translator in translators or [""]]
    return {"wmt_xml": sources[0]} | ({"references": sources[1:]} if sources[1:] else {})


def _part(translator: str) -> dict[str, object]:
    """Return the setting that selects the reference of a translator; without a name it is the only one."""
    return {"part": f"ref:{translator}"} if translator else {}


def _file(test_set: Any, member: str) -> dict[str, object]:
    """Return the settings of a file: a member of an archive, or a file of its own (`NAME.FILE`)."""
    prefix = test_set.name.replace("/", "_") + "."
    if member.startswith(prefix):
        file_name = member.removeprefix(prefix)
        return {"url": next(url for url in test_set.data if url.endswith(f"/{file_name}"))}
    for pattern, number in _ARCHIVES.get(test_set.name, ()):
        if pattern.match(member):
            return in_archive(test_set.data[number], member)
    folder = PurePosixPath(member).parts[0]
    return in_archive(next((url for url in test_set.data if _stem(url) == folder), test_set.data[0]), member)


def _stem(url: str) -> str:
    name = urlsplit(url).path.rpartition("/")[2]
    return next((name.removesuffix(suffix) for suffix in _TAR_SUFFIXES if name.endswith(suffix)), name)
