"""Tests of names of OPUS."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_index import small_index

from kdmt.corpus.datasets.opus import parse_opus, resolve_opus, resolve_opus_monolingual
from kdmt.corpus.datasets.recorded_index import recorded_index
from kdmt.errors import UserError
from kdmt.languages import Direction

PARACRAWL = "https://object.pouta.csc.fi/OPUS-ParaCrawl/v9/moses/de-en.txt.zip"


@pytest.mark.parametrize("codes", [("de", "en"), ("deu_Latn", "eng"), ("ger", "eng_Latn")])
def test_both_directions_and_all_forms_of_codes_have_the_same_archive(codes: tuple[str, str]) -> None:
    german = {"url": PARACRAWL, "member": "ParaCrawl.de-en.de"}
    english = {"url": PARACRAWL, "member": "ParaCrawl.de-en.en"}
    direction = Direction(*codes)
    assert resolve_opus("ParaCrawl/v9", direction, recorded_index()).entry == {"source": german, "target": english}
    reverse = resolve_opus("ParaCrawl/v9", direction.reversed(), recorded_index())
    assert reverse.entry == {"source": english, "target": german}


def test_facts_of_a_release() -> None:
    dataset = resolve_opus("NLLB/v1", Direction("en", "is"), recorded_index())
    assert dataset.name == "opus: NLLB/v1"
    assert dataset.licence == "ODC-By-1.0"
    assert [line for line in (dataset.citation or "").splitlines() if line.startswith("@")] == [
        "@inproceedings{schwenk-etal-2021-ccmatrix,",
        "@article{heffernan2022bitext,",
        "@misc{nllb-2022,",
        "@inproceedings{tiedemann2012parallel,",
    ]
    assert any("CCMatrix" in each for each in dataset.overlaps)


def test_the_tmx_file_of_a_release(tmp_path: Path) -> None:
    dataset = resolve_opus("Books/v1/tmx", Direction("en", "de"), small_index(tmp_path))
    assert dataset.entry == {"tmx": {"url": "https://object.pouta.csc.fi/OPUS-Books/v1/tmx/de-en.tmx.gz"}}
    assert dataset.size_bytes is None
    with pytest.raises(UserError, match="News/v2018/tmx: this release has no TMX files"):
        resolve_opus("News/v2018/tmx", Direction("en", "de"), small_index(tmp_path))


def test_a_folder_with_another_name_and_the_url_with_the_name_of_the_corpus(tmp_path: Path) -> None:
    dataset = resolve_opus("News/v2019", Direction("de", "en"), small_index(tmp_path))
    url = "https://object.pouta.csc.fi/OPUS-Wires/v2019/moses/de-en.txt.zip"
    assert dataset.entry["source"] == {"url": url, "member": "Wires.de-en.de"}
    assert dataset.alternatives == {url: ("https://object.pouta.csc.fi/OPUS-News/v2019/moses/de-en.txt.zip",)}
    assert (dataset.num_pairs, dataset.size_bytes) == (None, None)


def test_a_regional_variety_is_used_only_by_name(tmp_path: Path) -> None:
    index = small_index(tmp_path)
    with pytest.raises(UserError, match="no en-zh in the index, but regional varieties: write Books/v1/en-zh_CN"):
        resolve_opus("Books/v1", Direction("en", "zh"), index)
    dataset = resolve_opus("Books/v1/en-zh_CN", Direction("zh", "en"), index)
    assert dataset.entry["source"] == {
        "url": "https://object.pouta.csc.fi/OPUS-Books/v1/moses/en-zh_CN.txt.zip",
        "member": "Books.en-zh_CN.zh_CN",
    }
    assert resolve_opus("Books/v1", Direction("en", "zh_CN"), index).entry["target"] == dataset.entry["source"]


@pytest.mark.parametrize(
    ("value", "direction", "message"),
    [
        ("Books", ("de", "en"), "expected CORPUS/VERSION"),
        ("Books/v1/de", ("de", "en"), "expected CORPUS/VERSION"),
        ("Boks/v1", ("de", "en"), "not known as a release of OPUS; the nearest are Books/v1"),
        ("News/v2020", ("de", "en"), "no such release in the index; there is News/v2018, News/v2019"),
        ("news/v2018", ("de", "en"), "no such release in the index; there is News/v2018, News/v2019"),
        ("Books/v1", ("de", "is"), "no text in is; there is de en zh_CN"),
        ("Books/v1", ("de", "zh_CN"), "no de-zh_CN in the index, although there are other pairs with both"),
        ("Books/v1/de-en", ("en", "fr"), "its languages are not those of the pipeline, en-fr"),
        ("Books/v1/de-eng", ("de", "en"), "no pair de-eng; the nearest are de-en"),
    ],
)
def test_an_unknown_name_is_refused(tmp_path: Path, value: str, direction: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        resolve_opus(value, Direction(*direction), small_index(tmp_path))
    assert str(refused.value).startswith("opus: ")


def test_monolingual_text(tmp_path: Path) -> None:
    index = small_index(tmp_path)
    dataset = resolve_opus_monolingual("News/v2019", "eng", index)
    assert dataset.entry == {"url": "https://object.pouta.csc.fi/OPUS-Wires/v2019/mono/en.txt.gz"}
    with pytest.raises(UserError, match="opus: Books/v1: no text in is; there is de en zh_CN"):
        resolve_opus_monolingual("Books/v1", "is", index)


def test_a_name_has_up_to_four_parts() -> None:
    assert parse_opus("A-b/v1.2/tmx/en-pt_BR") == ("A-b", "v1.2", True, ("en", "pt_BR"))
    assert parse_opus("A/v1") == ("A", "v1", False, None)
