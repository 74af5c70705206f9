"""Tests of resolving names of every kind."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from kdmt.config.datasets import DATASET_KINDS
from kdmt.corpus.datasets.resolve import KINDS, resolve, resolve_monolingual
from kdmt.errors import UserError
from kdmt.languages import Direction

NAMES = {
    "mtdata": "Statmt-europarl-10-deu-eng",
    "opus": "ParaCrawl/v9",
    "sacrebleu": "wmt14/full",
    "flores": "devtest",
    "ntrex": True,
    "tatoeba": "2023-04-12",
    "hf": "wmt/wmt14/de-en",
    "iwslt": 2014,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_of_each_kind_is_resolved_without_a_network(kind: str) -> None:
    value = NAMES[kind]
    dataset = resolve(kind, value, Direction("de", "en"))
    assert dataset.name == f"{kind}: {str(value).lower() if value is True else value}"
    assert {"source", "tsv", "parquet"} & set(dataset.entry)
    assert "sha256" not in str(dataset.entry)
    assert (dataset.homepage or "").startswith("https://")


def test_the_kinds_are_those_of_the_settings() -> None:
    assert set(KINDS) == set(DATASET_KINDS)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="mtdat: no such kind of data set; there is mtdata, opus"):
        resolve("mtdat", "x", Direction("de", "en"))


def test_monolingual_text_of_two_kinds() -> None:
    assert resolve_monolingual("opus", "Europarl/v8", "de").entry == {
        "url": "https://object.pouta.csc.fi/OPUS-Europarl/v8/mono/de.txt.gz"
    }
    name = "Statmt-news_crawl-2007-ces"
    assert resolve_monolingual("mtdata", name, "cs").entry == {
        "url": "https://data.statmt.org/news-crawl/cs/news.2007.cs.shuffled.deduped.gz"
    }
    with pytest.raises(UserError, match="flores: dev: there is no monolingual text under names of this kind"):
        resolve_monolingual("flores", "dev", "de")


def test_neither_mtdata_nor_torch_is_loaded() -> None:
    program = (
        "import sys\nfrom kdmt.corpus.datasets.resolve import resolve\nfrom kdmt.languages import Direction\n"
        "resolve('mtdata', 'Statmt-europarl-10-deu-eng', Direction('de', 'en'))\n"
        "assert not {'mtdata', 'torch', 'sacrebleu'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
