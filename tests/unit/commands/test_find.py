"""Tests of `kdmt find`."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from tiny_pipeline import kdmt

from kdmt.commands.find import find, find_lines, size_and_licence
from kdmt.corpus.datasets.catalogue import Found
from kdmt.corpus.datasets.records import Dataset
from kdmt.errors import UserError


def printed(*arguments: str) -> Any:
    """Return what the command prints, as YAML."""
    result = kdmt("find", *arguments)
    assert (result.code, result.err) == (0, "")
    return yaml.safe_load(result.out)


def test_the_output_is_yaml_for_a_pipeline() -> None:
    prepare = printed("en", "is")["prepare"]
    assert {"opus": "ParaCrawl/v9"} in prepare["train"]
    assert prepare["test"]["wmt21"] == {"sacrebleu": "wmt21"}
    assert prepare["test"]["ntrex"] == {"ntrex": True}
    # names of test sets in a pipeline
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_+.-]{0,99}", name) for name in prepare["test"])


def test_comments_have_size_licence_and_overlaps() -> None:
    lines = kdmt("find", "en", "is").out.splitlines()
    line = next(each for each in lines if "opus: ParaCrawl/v9 " in each)
    assert re.search(r"# 2,967,579 pairs, 229 MB; CC0-1\.0 \(packaging; .*\); overlaps with CCMatrix: ", line)
    line = next(each for each in lines if "opus: NLLB/v1 " in each)
    assert "# size unknown; ODC-By-1.0; overlaps with CCMatrix: NLLB contains it" in line


def test_test_sets_alone() -> None:
    assert list(printed("en", "is", "--test")["prepare"]) == ["test"]


def test_limits_on_the_number_of_pairs() -> None:
    found = find("en", "is", min_pairs=1000, max_pairs=3_000_000)
    sizes = {each.dataset.name: each.dataset.num_pairs for each in found}
    assert sizes["opus: ParaCrawl/v9"] == 2_967_579
    assert "opus: CCMatrix/v1" not in sizes  # 8,723,145 pairs
    assert "opus: NLLB/v1" not in sizes  # unknown, which is not 1000 or more
    assert "ntrex: true" in sizes
    assert all(1000 <= (size or 0) <= 3_000_000 for size in sizes.values())
    assert "opus: NLLB/v1" in {each.dataset.name for each in find("en", "is", max_pairs=10)}


def test_json_has_the_same_data_sets_with_their_entries() -> None:
    records = json.loads(kdmt("find", "de", "en", "--json", "--min-pairs", "200000000").out)
    assert [record["name"] for record in records] == ["opus: ParaCrawl/v9", "opus: CCMatrix/v1"]
    assert records[0]["num_pairs"] == 278_316_474
    assert records[0]["entry"]["source"]["member"] == "ParaCrawl.de-en.de"


def test_old_versions_are_listed_on_demand() -> None:
    assert {"opus": "ParaCrawl/v8"} not in printed("en", "is")["prepare"]["train"]
    assert {"opus": "ParaCrawl/v8"} in printed("en", "is", "--all-versions")["prepare"]["train"]


def test_one_language_lists_monolingual_text() -> None:
    prepare = printed("is")["prepare"]
    assert list(prepare) == ["monolingual"]
    assert {"mtdata": "Statmt-news_crawl-2020-isl"} in prepare["monolingual"]


def test_a_pair_without_data_sets() -> None:
    assert kdmt("find", "tlh", "qaa").out == "# the index has no such data set\n"


@pytest.mark.parametrize(("arguments", "message"), [(("xx", "en"), "no ISO 639"), (("en", "en"), "are the same")])
def test_wrong_languages_are_refused(arguments: tuple[str, str], message: str) -> None:
    result = kdmt("find", *arguments)
    assert result.code == 2
    assert message in result.err
    with pytest.raises(UserError, match=message):
        find(*arguments)


def test_names_of_test_sets_have_allowed_characters() -> None:
    found = Found(Dataset("sacrebleu: wmt19/google/ar", {}), "test")
    assert list(find_lines([found]))[2].split("#")[0].strip() == "wmt19-google-ar: {sacrebleu: wmt19/google/ar}"


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [
        (999, "999 bytes"),
        (229_480_000, "229 MB"),
        (999_400_000, "999 MB"),
        (999_700_000, "1 GB"),
        (2_500_000_000_000, "2.5 TB"),
    ],
)
def test_sizes_have_three_digits(num_bytes: int, shown: str) -> None:
    dataset = Dataset("opus: A/v1", {}, licence=None, size_bytes=num_bytes)
    assert size_and_licence(dataset) == f"{shown}; licence unknown"
