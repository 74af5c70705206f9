"""Tests of licences: they are for corpora in the index and cite publications of the bibliography."""

from __future__ import annotations

from kdmt.corpus.datasets.recorded_index import recorded_index
from kdmt.corpus.datasets.terms import OPUS_LICENCES, licence_of_opus


def test_every_corpus_is_in_the_index() -> None:
    assert set(OPUS_LICENCES) <= {release.corpus for release in recorded_index().opus_releases()}


def test_every_publication_is_in_the_bibliography() -> None:
    assert {key for terms in OPUS_LICENCES.values() for key in terms.cite} <= set(recorded_index().citations)


def test_an_unknown_licence_is_none() -> None:
    assert licence_of_opus("Tatoeba") == "CC-BY-2.0-FR"
    assert licence_of_opus("CCMatrix") is None
    assert licence_of_opus("no corpus") is None
