"""Identifiers of mtdata: `GROUP-NAME-VERSION-L1[-L2]`, for example `Statmt-europarl-10-deu-eng`.

They are resolved from a copy of the index of mtdata 0.5.1, since mtdata requires another version of rich than kdmt.
Entries of OPUS follow from OPUS's list by mtdata's rules for names and codes. The languages of an identifier are those
of the pipeline in either order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from kdmt.corpus.datasets.codes import includes_code
from kdmt.corpus.datasets.hugging_face import file_url, parquet_url
from kdmt.corpus.datasets.messages import unknown_name
from kdmt.corpus.datasets.opus import opus_dataset
from kdmt.corpus.datasets.recorded_index import DatasetIndex, OpusPair
from kdmt.corpus.datasets.records import Dataset, in_archive, other_hosts, two_files
from kdmt.corpus.datasets.terms import PACKAGING_LICENCE, WMT_LICENCE
from kdmt.errors import UserError
from kdmt.languages import Direction

_HOMEPAGE = "https://github.com/thammegowda/mtdata"
# group, or group and name, of an identifier -> licence
_LICENCES = {
    "Statmt": WMT_LICENCE,
    "Facebook-wikimatrix": "CC-BY-SA-4.0",
    "Flores": "CC-BY-SA-4.0",
    "Microsoft-ntrex": "CC-BY-SA-4.0",
    "ParaCrawl": PACKAGING_LICENCE,
    "AllenAi-nllb": "ODC-By-1.0",
    "Tilde": "CC-BY-4.0",
    "Phontron-kftt": "CC-BY-SA-3.0",
    "StanfordNLP-jesc": "CC-BY-SA-4.0",
}
# group and name of an identifier -> known overlaps
_OVERLAPS = {
    "AllenAi-nllb": ("opus: NLLB/v1: made from it", "CCMatrix: NLLB contains it (en-is: 99.99% of its pairs)"),
    "Facebook-wikimatrix": ("opus: WikiMatrix/v1: made from it",),
    "ELRC": ("opus: ELRC corpora of the same name",),
    "EU-ecdc": ("opus: ECDC/v2016-03-16: the same translation memory",),
    "ParaCrawl-paracrawl": ("opus: ParaCrawl: the same pairs, if the version is the same",),
    "OPUS-opus100": ("other corpora of OPUS: OPUS-100 is a sample of them; its test sets may be in them",),
    "Neulab-tedtalks_": ("TED2020, TED2013, IWSLT: the same talks, also those of the IWSLT test sets",),
    "Statmt-backtrans": ("news crawl: one side is text of the monolingual news crawl",),
}
_TABLES = ("tsv", "tsv.gz", "tsv.xz")
_TEXTS = ("txt", "txt.gz", "sgm")
_LINES = ("txt", "txt.gz")

Value = TypeVar("Value")


class MtdataId(NamedTuple):
    """The parts of an identifier of mtdata."""

    group: str
    name: str
    version: str
    codes: tuple[str, ...]  # one for monolingual text

    @property
    def stem(self) -> str:
        """Identifier without the languages."""
        return f"{self.group}-{self.name}-{self.version}"


def parse_mtdata(value: str) -> MtdataId:
    """Parse an identifier of mtdata.

    Raises:
        UserError: if it does not have four or five parts.
    """
    parts = value.split("-")
    if len(parts) not in (4, 5) or not all(parts):
        raise UserError(f"mtdata: {value}: expected GROUP-NAME-VERSION-L1-L2, as Statmt-europarl-10-deu-eng")
    return MtdataId(parts[0], parts[1], parts[2], tuple(parts[3:]))


def resolve_mtdata(value: str, direction: Direction, index: DatasetIndex) -> Dataset:
    """Return the data set with an identifier of mtdata.

    Raises:
        UserError: if mtdata has no such identifier, the languages are not those of the pipeline, or kdmt cannot read
            the format of the files.
    """
    name = parse_mtdata(value)
    if len(name.codes) != 2 and value in index.mtdata_records:
        raise UserError(f"mtdata: {value}: monolingual text; parallel text has two languages")
    if len(name.codes) != 2:
        raise _unknown(value, name, index)
    order = _order(value, name.codes, direction)
    if name.group == "OPUS" and value not in index.mtdata_records:
        pair = find_opus_pair(name, index)
        if pair is None:
            raise _unknown(value, name, index)
        codes = (pair.codes[order[0]], pair.codes[order[1]])
        return replace(opus_dataset(pair, codes, value=value, index=index), name=f"mtdata: {value}")
    record = _find_record(name, index)
    if record is None:
        raise _unknown(value, name, index)
    return _dataset(value, name, record, _pair_entry(value, record, order), index)


def resolve_mtdata_monolingual(value: str, language: str, index: DatasetIndex) -> Dataset:
    """Return the monolingual text with an identifier of mtdata.

    Raises:
        UserError: if mtdata has no such identifier, or not in this language, or the text is a column of a table.
    """
    name = parse_mtdata(value)
    record = index.mtdata_records.get(value)
    if record is None:
        raise _unknown(value, name, index)
    if len(name.codes) != 1 or not includes_code(language, name.codes[0]):
        raise UserError(f"mtdata: {value}: expected monolingual text in {language}, not in {'-'.join(name.codes)}")
    if (
        record["format"] not in _LINES
        or "columns" in record
        or not isinstance(record["url"], str)
        or len(record.get("members", ())) > 1
    ):
        raise _unreadable(value, "it is not a text file with a sentence in each line")
    return _dataset(value, name, record, _file(record, 0), index)


def find_opus_pair(name: MtdataId, index: DatasetIndex) -> OpusPair | None:
    """Return the language pair of OPUS with an identifier of mtdata, None if there is none.

    mtdata's names are in lower case, with `_` for `-` in the corpus and without `-` in the version; of several codes of
    OPUS with the same code in mtdata the first counts.
    """
    for release in index.opus_releases():
        if _mtdata_name(release.corpus, release.version) == (name.name, name.version):
            for pair in index.opus_pairs(release):
                if tuple(index.mtdata_codes.get(code) for code in pair.codes) == name.codes:
                    return pair
    return None


def mtdata_pairs(direction: Direction, index: DatasetIndex) -> Iterator[Dataset]:
    """Yield the data sets of mtdata in both languages that are not from OPUS's list and that kdmt can read."""
    for identifier, record in index.mtdata_records.items():
        if "languages" in record:
            continue
        name = parse_mtdata(identifier)
        if len(name.codes) == 2:
            with suppress(UserError):  # other languages, or a format that kdmt cannot read
                order = _order(identifier, name.codes, direction)
                yield _dataset(identifier, name, record, _pair_entry(identifier, record, order), index)


def mtdata_texts(language: str, index: DatasetIndex) -> Iterator[Dataset]:
    """Yield the monolingual text of mtdata in a language that is in text files."""
    for identifier in index.mtdata_records:
        if identifier.count("-") == 3 and includes_code(language, identifier.rpartition("-")[2]):
            with suppress(UserError):  # kdmt cannot read the format
                yield resolve_mtdata_monolingual(identifier, language, index)


def _mtdata_name(corpus: str, version: str) -> tuple[str, str]:
    return corpus.replace("-", "_").lower(), version.replace("-", "").lower()


def _find_record(name: MtdataId, index: DatasetIndex) -> Mapping[str, Any] | None:
    """Return the entry of an identifier; for a set with a file for each language, the entry of the pair."""
    records = index.mtdata_records
    record = records.get(f"{name.stem}-{'-'.join(name.codes)}")
    if record is not None or name.stem not in records:
        return record
    whole = records[name.stem]
    order = list(whole["languages"])
    known = all(code in order for code in name.codes)
    if not known or len(name.codes) != 2 or order.index(name.codes[0]) >= order.index(name.codes[1]):
        return None
    return {**whole, "members": [whole["languages"][code] for code in name.codes]}


def _order(value: str, codes: Sequence[str], direction: Direction) -> tuple[int, int]:
    """Return the indices of the source and the target language in an identifier."""
    for order in ((0, 1), (1, 0)):
        if all(includes_code(side, codes[number]) for side, number in zip(direction.sides, order, strict=True)):
            return order
    raise UserError(f"mtdata: {value}: its languages are {' and '.join(codes)}, those of the pipeline {direction}")


def _pair_entry(value: str, record: Mapping[str, Any], order: tuple[int, int]) -> dict[str, object]:
    """Return the entry of a corpus for an entry of mtdata with two languages."""
    kind, members, url = record["format"], record.get("members", ()), record["url"]
    if kind in _TEXTS and (len(members) == 2 or not isinstance(url, str)):
        return two_files(*(_file(record, number) for number in order))
    if "hf" in record:
        return _hub_entry(value, record, order)
    if len(members) > 1 or not isinstance(url, str):
        raise _unreadable(value, "the text is in several files")
    if kind in _TABLES:
        columns = record.get("columns", (0, 1))
        return {"tsv": _file(record, 0), "source_column": columns[order[0]], "target_column": columns[order[1]]}
    if kind in ("tmx", "tmx.gz"):
        return {"tmx": _file(record, 0)}
    if kind == "wmt21xml" and order == (0, 1):
        return {"wmt_xml": _file(record, 0)}
    raise _unreadable(value, f"the files are in the format {kind}")


def _file(record: Mapping[str, Any], number: int) -> dict[str, object]:
    """Return the settings of a file of an entry of mtdata."""
    url, members = record["url"], record.get("members", ())
    url = url if isinstance(url, str) else url[number]
    return in_archive(url, members[number]) if members else {"url": url}


def _hub_entry(value: str, record: Mapping[str, Any], order: tuple[int, int]) -> dict[str, object]:
    """Return the entry for a data set of the Hugging Face hub: one Parquet or JSONL file with two fields."""
    hub, path = record["hf"], record["members"][0]
    fields = [hub["fields"].get(name) for name in ("source", "target")]
    if hub.get("join_field") or not all(fields) or isinstance(hub["config"], list):
        raise _unreadable(value, "its languages are in several tables")
    if path.endswith(".jsonl"):
        entry: dict[str, object] = {"jsonl": {"url": file_url(hub["orig_id"], path)}}
    else:
        url = parquet_url(hub["orig_id"], hub["config"] or "default", hub["split"] or "train")
        entry = {"parquet": {"url": url}}
    return entry | {"source_field": fields[order[0]], "target_field": fields[order[1]]}


def _dataset(
    value: str, name: MtdataId, record: Mapping[str, Any], entry: Mapping[str, object], index: DatasetIndex
) -> Dataset:
    urls = [record["url"]] if isinstance(record["url"], str) else record["url"]
    publications = [index.citations[key] for key in record.get("cite", ())]
    return Dataset(
        name=f"mtdata: {value}",
        entry=entry,
        licence=_by_prefix(_LICENCES, name.stem),
        citation="\n\n".join(publications) or None,
        homepage=_HOMEPAGE,
        alternatives={url: other_hosts(url) for url in urls if other_hosts(url)},
        overlaps=_by_prefix(_OVERLAPS, name.stem) or (),
    )


def _by_prefix(table: Mapping[str, Value], stem: str) -> Value | None:
    """Return the value of the longest key with which an identifier begins."""
    keys = [key for key in table if stem.startswith(key)]
    return table[max(keys, key=len)] if keys else None


def _unreadable(value: str, reason: str) -> UserError:
    return UserError(
        f"mtdata: {value}: {reason}, which kdmt does not read: run 'mtdata get -tr {value}' and give the files that it "
        "writes as 'source' and 'target'"
    )


def _unknown(value: str, name: MtdataId, index: DatasetIndex) -> UserError:
    """Return the error for an unknown identifier: the nearest of the same group, name or languages."""
    if name.stem.startswith("Flores-flores101"):
        return UserError(f"mtdata: {value}: mtdata 0.5.1 has the same file for both languages; use 'flores: dev'")
    similar = [
        each for each in index.mtdata_records if each.startswith(name.group) or set(name.codes) <= set(each.split("-"))
    ]
    for release in index.opus_releases() if name.group.upper() == "OPUS" else ():
        similar.append("-".join(("OPUS", *_mtdata_name(release.corpus, release.version), *name.codes)))
    return unknown_name(f"mtdata: {value}", similar, what="an identifier of mtdata 0.5.1")
