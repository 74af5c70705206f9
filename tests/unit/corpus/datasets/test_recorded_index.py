"""Tests of the recorded index: reading its files, and what the one of the package has."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_index import small_index

from kdmt.corpus.datasets.recorded_index import OpusPair, OpusRelease, recorded_index
from kdmt.errors import UserError


def test_releases_and_pairs_are_read(tmp_path: Path) -> None:
    index = small_index(tmp_path)
    books, _, news = index.opus_releases()
    assert books == OpusRelease("Books", "v1", "Books", has_tmx=True)
    assert news == OpusRelease("News", "v2019", "Wires", has_tmx=True)
    assert list(index.opus_pairs(books)) == [
        OpusPair(books, "de", "en", 51467, 7_000_000),
        OpusPair(books, "en", "zh_CN", 120, 30_000),
    ]


def test_unknown_sizes_are_none(tmp_path: Path) -> None:
    index = small_index(tmp_path)
    first, second = index.opus_pairs(index.opus_releases()[2])
    assert (first.num_pairs, first.size_bytes) == (None, None)
    assert (second.codes, second.num_pairs) == (("de", "en_GB"), 50)


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    index = small_index(tmp_path)
    (tmp_path / "opus.txt.xz").write_bytes(b"no xz")
    with pytest.raises(UserError, match=r"opus\.txt\.xz: the index of data sets cannot be read"):
        index.opus_releases()


def test_the_index_of_the_package_has_the_published_sizes() -> None:
    index = recorded_index()
    release = next(each for each in index.opus_releases() if each.name == "ParaCrawl/v9")
    pair = next(each for each in index.opus_pairs(release) if each.codes == ("de", "en"))
    # opus.nlpl.eu: 278.3M sentence pairs, an archive of 25.9 GB
    assert pair.num_pairs == 278_316_474
    assert pair.size_bytes == 25_855_430_000


def test_the_index_of_the_package_has_every_kind_of_record() -> None:
    index = recorded_index()
    assert len(index.opus_releases()) > 1000
    assert "Statmt-europarl-10-deu-eng" in index.mtdata_records
    assert not any(identifier.startswith("OPUS-paracrawl") for identifier in index.mtdata_records)
    assert len(index.mtdata_records["Flores-flores200_dev-1"]["languages"]) == 204
    assert index.mtdata_codes["zh_CN"] == "zho_CN"
    assert index.citations["tiedemann2012parallel"].startswith("@inproceedings{tiedemann2012parallel,")


def test_citations_of_all_records_are_in_the_bibliography() -> None:
    index = recorded_index()
    keys = {key for record in index.mtdata_records.values() for key in record.get("cite", ())}
    assert keys
    assert keys <= set(index.citations)
