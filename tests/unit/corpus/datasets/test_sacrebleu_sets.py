"""Tests of names of sacreBLEU's test sets, compared with its definitions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sacrebleu.dataset import DATASETS

from kdmt.corpus.datasets.sacrebleu_sets import resolve_sacrebleu, sacrebleu_pairs
from kdmt.errors import UserError
from kdmt.languages import Direction


def sources(entry: Any) -> Iterator[dict[str, str]]:
    """Yield the settings of all files of an entry, in the order source, target or table, references."""
    for name in ("source", "target", "tsv", "wmt_xml"):
        if name in entry:
            yield entry[name]
    yield from entry.get("references", ())


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_pair_has_the_files_urls_and_checksums_of_sacrebleu(name: str) -> None:
    definition = DATASETS[name]
    assert definition.langpairs
    for pair, files in definition.langpairs.items():
        dataset = resolve_sacrebleu(name, Direction(*pair.split("-")))
        found = list(sources(dataset.entry))
        assert {each["url"] for each in found} <= set(definition.data)
        md5 = dict(zip(definition.data, definition.md5, strict=False))
        assert dataset.md5 == {each["url"]: md5[each["url"]] for each in found}
        paths = [files["path"]] if isinstance(files, dict) else [file.rpartition(":")[2] for file in files]
        # a file of its own is named after its URL, all others are members of archives
        assert {each.get("member") or each["url"].rpartition("/")[2] for each in found} == {
            path if "/" in path or path.endswith(".sgm") or ".sgm" in path else _without_prefix(name, path)
            for path in paths
        }


def _without_prefix(name: str, path: str) -> str:
    return path.removeprefix(name.replace("/", "_") + ".")


@pytest.mark.parametrize("pair", ["en-fr", "fr-en", "en-de", "zh-en"])
def test_a_member_is_in_the_archive_of_its_folder(pair: str) -> None:
    for each in sources(resolve_sacrebleu("iwslt17", Direction(*pair.split("-"))).entry):
        assert each["url"].endswith(f"/{each['member'].partition('/')[0]}.tgz")


def test_members_without_a_folder_are_in_the_archive_that_sacrebleu_says() -> None:
    entry: Any = resolve_sacrebleu("wmt17/ms", Direction("zh", "en")).entry
    update = "https://data.statmt.org/wmt17/translation-task/test-update-1.tgz"
    assert entry["source"] == {"url": update, "member": "newstest2017-zhen-src.zh.sgm"}
    assert entry["target"]["url"] == update
    assert [each["url"].rpartition("/")[2] for each in entry["references"]] == ["master.zip"] * 2


def test_several_references() -> None:
    entry: Any = resolve_sacrebleu("wmt20/tworefs", Direction("en", "de")).entry
    assert entry["target"]["member"] == "sgm/newstest2020-ende-ref.de.sgm"
    assert [each["member"] for each in entry["references"]] == ["sgm/newstestB2020-ende-ref.de.sgm"]


def test_references_by_translator() -> None:
    entry: Any = resolve_sacrebleu("wmt21/AB", Direction("de", "en")).entry
    assert entry["wmt_xml"]["part"] == "ref:A"
    assert [each["part"] for each in entry["references"]] == ["ref:B"]
    entry = resolve_sacrebleu("wmt22", Direction("en", "cs")).entry  # its reference differs from that of other pairs
    assert entry["wmt_xml"]["part"] == "ref:B"


def test_columns_of_a_table() -> None:
    entry = resolve_sacrebleu("mtnt2019", Direction("en", "ja")).entry
    assert (entry["source_column"], entry["target_column"]) == (2, 3)


def test_a_name_with_a_language_pair_and_other_forms_of_codes() -> None:
    named = resolve_sacrebleu("wmt19/en-de", Direction("eng", "deu_Latn"))
    assert named.entry == resolve_sacrebleu("wmt19", Direction("en", "de")).entry
    assert named.name == "sacrebleu: wmt19/en-de"


@pytest.mark.parametrize(
    ("name", "direction", "message"),
    [
        (
            "wmt14/ful",
            ("en", "de"),
            "wmt14/ful: not known as a test set of sacreBLEU; the nearest are wmt14/full",
        ),
        ("wmt14", ("en", "zh"), "sacrebleu: wmt14: no en-zh in this test set; there is cs-en de-en"),
        ("wmt19/en-de", ("de", "en"), "the pipeline is from de to en"),
    ],
)
def test_an_unknown_name_is_refused(name: str, direction: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_sacrebleu(name, Direction(*direction))


def test_all_test_sets_of_a_pair() -> None:
    names = {each.name for each in sacrebleu_pairs(Direction("en", "is"))}
    expected = {f"sacrebleu: {name}" for name, definition in DATASETS.items() if "en-is" in definition.langpairs}
    assert names == expected
    assert "sacrebleu: wmt21" in names
