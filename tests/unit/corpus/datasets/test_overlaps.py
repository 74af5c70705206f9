"""Tests of overlaps."""

from __future__ import annotations

import pytest

from kdmt.corpus.datasets import overlaps
from kdmt.corpus.datasets.overlaps import overlaps_of
from kdmt.corpus.datasets.recorded_index import recorded_index


def test_every_corpus_is_in_the_index() -> None:
    assert set(overlaps._OVERLAPS) <= {release.corpus for release in recorded_index().opus_releases()}


@pytest.mark.parametrize(
    ("corpus", "other"),
    [
        ("NLLB", "CCMatrix"),
        ("CCMatrix", "NLLB"),
        ("WMT-News", "newstest"),
        ("MultiCCAligned", "CCAligned"),
        ("XLEnt", "CCMatrix"),
        ("TED2020", "IWSLT"),
        ("ELRC-2718-EMEA", "ELRC-EMEA"),
    ],
)
def test_known_overlaps(corpus: str, other: str) -> None:
    assert any(other in each.partition(":")[0] for each in overlaps_of(corpus))


def test_a_corpus_without_known_overlaps_has_none() -> None:
    assert overlaps_of("Books") == ()


def test_corpora_that_contain_each_other_name_each_other() -> None:
    for first, second in (("HPLT", "MultiHPLT"), ("MaCoCu", "MultiMaCoCu"), ("CCAligned", "MultiCCAligned")):
        assert second in str(overlaps_of(first))
        assert first in str(overlaps_of(second))
