"""Tests of IWSLT."""

from __future__ import annotations

from typing import Any

import pytest

from kdmt.corpus.datasets.iwslt import iwslt_names, resolve_iwslt
from kdmt.corpus.datasets.sacrebleu_sets import resolve_sacrebleu
from kdmt.errors import UserError
from kdmt.languages import Direction

URL_2014 = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"


@pytest.mark.parametrize(
    ("value", "stem", "ending"),
    [
        ("2014", "train.tags.de-en", ""),
        ("2014/tst2012", "IWSLT14.TED.tst2012.de-en", ".xml"),
        ("2014/dev2012", "IWSLT14.TEDX.dev2012.de-en", ".xml"),
    ],
)
def test_the_files_of_2014_in_both_directions(value: str, stem: str, ending: str) -> None:
    german, english = ({"url": URL_2014, "member": f"de-en/{stem}.{code}{ending}"} for code in ("de", "en"))
    assert resolve_iwslt(value, Direction("de", "en")).entry == {"source": german, "target": english}
    assert resolve_iwslt(value, Direction("en", "de")).entry == {"source": english, "target": german}


def test_the_archive_of_2017_is_that_of_the_direction() -> None:
    entry: Any = resolve_iwslt("2017", Direction("fr", "en")).entry
    assert entry["source"]["url"].endswith("/texts/fr/en/fr-en.tgz")
    assert entry["source"]["member"] == "fr-en/train.tags.fr-en.fr"


@pytest.mark.parametrize("name", ["tst2015", "tst2010", "dev2010"])
def test_source_files_of_2017_are_those_of_sacrebleu(name: str) -> None:
    for direction in (Direction("en", "de"), Direction("zh", "en")):
        expected = resolve_sacrebleu(f"iwslt17/{name}", direction).entry
        assert resolve_iwslt(f"2017/{name}", direction).entry["source"] == expected["source"]


def test_every_name_can_be_resolved() -> None:
    assert {"2014", "2017", "2014/dev2010", "2017/tst2015"} <= set(iwslt_names())
    for name in iwslt_names():
        assert resolve_iwslt(name, Direction("de", "en")).name == f"iwslt: {name}"


def test_unknown_names_and_languages_are_refused() -> None:
    with pytest.raises(UserError, match="iwslt: 2015: not known as a set of IWSLT; the nearest are 20"):
        resolve_iwslt("2015", Direction("de", "en"))
    with pytest.raises(UserError, match="iwslt: 2014: no fr-en; there is de-en"):
        resolve_iwslt("2014", Direction("fr", "en"))
