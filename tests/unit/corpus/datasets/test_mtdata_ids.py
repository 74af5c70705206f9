"""Tests of identifiers of mtdata, compared with the real mtdata 0.5.1 (`tests/golden/make_mtdata.py`)."""

from __future__ import annotations

import fnmatch
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from slow_parameters import some_of
from small_index import small_index

from kdmt.corpus.datasets.mtdata_ids import mtdata_pairs, mtdata_texts, resolve_mtdata, resolve_mtdata_monolingual
from kdmt.corpus.datasets.recorded_index import recorded_index
from kdmt.corpus.datasets.records import Dataset
from kdmt.errors import UserError
from kdmt.languages import Direction

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[3] / "golden" / "mtdata" / "entries.json").read_text(encoding="utf-8")
)
_SIDES = ("source", "target", "tsv", "tmx", "wmt_xml", "jsonl", "parquet")


def codes_of(identifier: str) -> list[str]:
    return identifier.split("-")[3:]


def resolved(identifier: str) -> Dataset:
    codes = codes_of(identifier)
    if len(codes) == 1:
        return resolve_mtdata_monolingual(identifier, codes[0], recorded_index())
    return resolve_mtdata(identifier, Direction(*codes), recorded_index())


def files(dataset: Dataset) -> list[dict[str, str]]:
    """Return the settings of the files of an entry; a parallel corpus has the source first."""
    entry: Any = dataset.entry
    return [entry] if "url" in entry else [entry[name] for name in _SIDES if name in entry]


def unreadable(record: dict[str, Any]) -> bool:
    """Return whether kdmt cannot read the files of an entry of mtdata, by its format."""
    several = len(record["members"]) > 2 or (record["format"] in ("tsv", "tmx") and len(record["members"]) > 1)
    is_column = len(codes_of(record["id"])) == 1 and bool(record["columns"])
    is_page = len(codes_of(record["id"])) == 1 and record["format"] == "hfds"
    tables = len(record["urls"]) > 1 and bool(record["columns"])
    return several or is_column or is_page or tables or record["format"] in ("csvwithheader", "xlsx")


def test_there_are_entries_of_every_group() -> None:
    groups = Counter(record["id"].partition("-")[0] for record in GOLDEN)
    assert len(GOLDEN) > 500
    assert len(groups) == 37
    assert groups["OPUS"] == 150


@pytest.mark.parametrize("record", some_of(GOLDEN, 120), ids=lambda record: record["id"])
def test_urls_members_and_columns_are_those_of_mtdata(record: dict[str, Any]) -> None:
    if record["id"].startswith("Flores-flores101"):
        assert len(set(record["members"])) == 1  # the reason why kdmt refuses them
        with pytest.raises(UserError, match="the same file for both languages"):
            resolved(record["id"])
        return
    try:
        dataset = resolved(record["id"])
    except UserError as error:
        assert "which kdmt does not read: run 'mtdata get" in str(error)  # noqa: PT017
        assert unreadable(record) or record["format"] == "hfds"
        return
    assert not unreadable(record)
    found = files(dataset)
    if record["format"] == "hfds":  # mtdata has the page of the data set
        assert found[0]["url"].startswith(record["urls"][0] + "/resolve/")
        return
    assert list(dict.fromkeys(each["url"] for each in found)) == record["urls"]
    members = [each["member"] for each in found if "member" in each]
    assert len(members) == len(record["members"])
    # mtdata's members of OPUS are patterns, kdmt's are names
    assert all(map(fnmatch.fnmatchcase, members, record["members"]))
    if record["columns"] and "tsv" in dataset.entry:
        assert [dataset.entry["source_column"], dataset.entry["target_column"]] == record["columns"]


@pytest.mark.parametrize("identifier", ["Statmt-europarl-10-deu-eng", "Statmt-newstest_deen-2014-deu-eng"])
def test_the_reverse_direction_exchanges_the_sides(identifier: str) -> None:
    forward: Any = resolved(identifier).entry
    backward: Any = resolve_mtdata(identifier, Direction("en", "de"), recorded_index()).entry
    if "tsv" in forward:
        assert (forward["source_column"], forward["target_column"]) == (0, 1)
        assert (backward["source_column"], backward["target_column"]) == (1, 0)
    else:
        assert (backward["source"], backward["target"]) == (forward["target"], forward["source"])


def test_an_entry_of_opus_is_that_of_the_name_of_opus() -> None:
    dataset = resolved("OPUS-paracrawl-v9-deu-eng")
    assert dataset.name == "mtdata: OPUS-paracrawl-v9-deu-eng"
    assert dataset.num_pairs == 278_316_474
    assert files(dataset)[0] == {
        "url": "https://object.pouta.csc.fi/OPUS-ParaCrawl/v9/moses/de-en.txt.zip",
        "member": "ParaCrawl.de-en.de",
    }


def test_licence_and_citation() -> None:
    dataset = resolved("Statmt-europarl-9-deu-eng")
    assert dataset.licence == "free for research purposes (terms of the WMT shared tasks)"
    assert (dataset.citation or "").startswith("@inproceedings{koehn2005europarl,")


def test_formats_of_a_small_index(tmp_path: Path) -> None:
    index, direction = small_index(tmp_path), Direction("de", "en")
    text = resolve_mtdata("Group-text-1-deu-eng", direction, index)
    assert [each["member"] for each in files(text)] == ["a.de", "a.en"]
    assert text.citation == "@misc{key}"
    table = resolve_mtdata("Group-table-2-eng-deu", direction, index).entry
    assert table == {"tsv": {"url": "http://example.org/t.tsv.gz"}, "source_column": 2, "target_column": 4}
    whole = resolve_mtdata("Group-all-1-eng-isl", Direction("is", "en"), index)
    assert [each["member"] for each in files(whole)] == ["all.is", "all.en"]
    assert {each.name for each in mtdata_pairs(direction, index)} == {
        "mtdata: Group-text-1-deu-eng",
        "mtdata: Group-table-2-eng-deu",
        "mtdata: Group-memory-1-deu-eng",
    }


def test_monolingual_text(tmp_path: Path) -> None:
    index = small_index(tmp_path)
    assert resolve_mtdata_monolingual("Group-text-1-deu", "de", index).entry == {"url": "http://example.org/mono.gz"}
    assert [each.name for each in mtdata_texts("de", index)] == ["mtdata: Group-text-1-deu"]
    with pytest.raises(UserError, match="not a text file with a sentence in each line"):
        resolve_mtdata_monolingual("Group-columns-1-deu", "de", index)
    with pytest.raises(UserError, match="expected monolingual text in en, not in deu"):
        resolve_mtdata_monolingual("Group-text-1-deu", "en", index)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("europarl-10-deu-eng", "the nearest are Statmt-europarl-10-deu-eng"),
        ("europarl", "expected GROUP-NAME-VERSION-L1-L2"),
        ("Statmt-europarl-11-deu-eng", "the nearest are Statmt-europarl-10-deu-eng"),
        ("OPUS-paracrawl-v10-deu-eng", "the nearest are OPUS-paracrawl-v1-deu-eng"),
        ("Statmt-news_crawl-2020-deu", "monolingual text; parallel text has two languages"),
        ("Statmt-europarl-10-fra-eng", "its languages are fra and eng, those of the pipeline de-en"),
        ("Microsoft-ntrex-128-deu-xyz", "its languages are deu and xyz"),
        ("Microsoft-ntrex-128-deu-eng", "not known as an identifier"),  # mtdata has eng-deu alone
    ],
)
def test_an_unknown_identifier_is_refused(value: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        resolve_mtdata(value, Direction("de", "en"), recorded_index())
    assert str(refused.value).startswith(f"mtdata: {value}: ")
