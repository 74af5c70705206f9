"""Tests of names of data sets in pipeline files: one origin for each text, and messages with the YAML path."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdmt.config import Corpus, HeldOut
from kdmt.config.corpora import Monolingual
from kdmt.config.datasets import DATASET_KINDS

VALUES = {
    "mtdata": "Statmt-europarl-10-deu-eng",
    "opus": "ParaCrawl/v9",
    "sacrebleu": "wmt14/full",
    "flores": "devtest",
    "ntrex": True,
    "tatoeba": "2023-04-12",
    "hf": "owner/name",
    "iwslt": "2014/tst2012",
}


def test_every_kind_has_a_value_in_these_tests() -> None:
    assert tuple(VALUES) == DATASET_KINDS


@pytest.mark.parametrize("section", [Corpus, HeldOut, Monolingual])
@pytest.mark.parametrize("kind", DATASET_KINDS)
def test_a_name_is_enough(section: type[Corpus | HeldOut | Monolingual], kind: str) -> None:
    assert section(**{kind: VALUES[kind]}).dataset == (kind, VALUES[kind])


def test_a_year_is_a_number_or_text() -> None:
    assert Corpus(iwslt=2014).dataset == Corpus(iwslt="2014").dataset == ("iwslt", "2014")


def test_a_text_with_files_has_no_name() -> None:
    assert Corpus(tsv={"path": "x"}, ntrex=False).dataset is None
    assert Monolingual(path="x").dataset is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("prepare.valid={flores: dev, opus: A/v1}", "prepare.valid: give either 'opus' or 'flores', not both"),
        ("prepare.valid.iwslt=2014", "prepare.valid: 'source' has no effect with 'iwslt', which names the files"),
        ("prepare.valid={ntrex: true, tsv: {path: x}}", "prepare.valid: 'tsv' has no effect with 'ntrex'"),
        ("prepare.valid={ntrex: true, source_column: 1}", "prepare.valid: 'source_column' has no effect with 'ntrex'"),
        ("prepare.valid={ntrex: true, target_column: 2}", "prepare.valid: 'target_column' has no effect with 'ntrex'"),
        ("prepare.valid={ntrex: true, header: true}", "prepare.valid: 'header' has no effect with 'ntrex'"),
        ("prepare.valid={ntrex: true, quoted: true}", "prepare.valid: 'quoted' has no effect with 'ntrex'"),
        (
            "prepare.valid={ntrex: false}",
            "prepare.valid: give 'source' and 'target', or one of 'tsv'",
        ),
        ("prepare.train=[{opus: ParaCrawl}]", "prepare.train.0.opus: not in the form"),
        ("prepare.train=[{hf: x}]", "prepare.train.0.hf: not in the form"),
        ("prepare.train=[{mtdata: a b}]", "prepare.train.0.mtdata: not in the form"),
        ("prepare.test={x: {flores: test}}", "prepare.test.x.flores: should be 'dev' or 'devtest' (it is 'test')"),
        ("prepare.test={x: {iwslt: 14}}", "prepare.test.x.iwslt: not in the form"),
        ("prepare.test={x: {iwslt: true}}", "prepare.test.x.iwslt: should be a valid string (it is True)"),
        ("prepare.monolingual=[{}]", "prepare.monolingual.0: give one of 'path', 'url', 'mtdata', 'opus'"),
        ("prepare.monolingual=[{path: a, url: 'http://x/y'}]", "prepare.monolingual.0: give one of 'path', 'url'"),
        ("prepare.monolingual=[{path: a, mtdata: b}]", "prepare.monolingual.0: 'path' has no effect with 'mtdata'"),
        ("prepare.monolingual=[{mtdata: b, member: c}]", "prepare.monolingual.0: 'member' has no effect with 'mtdata'"),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)
