"""Tests of the records of data sets."""

from __future__ import annotations

from kdmt.corpus.datasets.records import Dataset, in_archive, other_hosts, two_files


def test_an_entry_of_two_files_has_copies_of_their_settings() -> None:
    source = in_archive("http://example.org/a.zip", "a.de")
    entry = two_files(source, {"url": "http://example.org/b"})
    assert entry == {
        "source": {"url": "http://example.org/a.zip", "member": "a.de"},
        "target": {"url": "http://example.org/b"},
    }
    source["member"] = "changed"
    assert entry["source"] == {"url": "http://example.org/a.zip", "member": "a.de"}


def test_unknown_facts_are_none_or_empty() -> None:
    dataset = Dataset("opus: A/v1", {})
    assert (dataset.licence, dataset.citation, dataset.size_bytes, dataset.num_pairs) == (None,) * 4
    assert (dataset.overlaps, dict(dataset.alternatives), dict(dataset.md5)) == ((), {}, {})


def test_statmt_serves_the_same_files_with_and_without_www() -> None:
    assert other_hosts("https://statmt.org/wmt14/x.tgz") == ("https://www.statmt.org/wmt14/x.tgz",)
    assert other_hosts("http://www.statmt.org/x?y=1") == ("http://statmt.org/x?y=1",)
    assert other_hosts("https://data.statmt.org/x") == ()
