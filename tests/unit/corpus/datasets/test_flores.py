"""Tests of FLORES-200."""

from __future__ import annotations

import pytest

from kdmt.corpus.datasets.flores import flores_codes, resolve_flores
from kdmt.corpus.datasets.recorded_index import recorded_index
from kdmt.errors import UserError
from kdmt.languages import Direction

URL = "https://dl.fbaipublicfiles.com/nllb/flores200_dataset.tar.gz"


def member(split: str, code: str) -> dict[str, str]:
    return {"url": URL, "member": f"flores200_dataset/{split}/{code}.{split}"}


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("de", "deu_Latn"),
        ("zh", "zho_Hans"),
        ("zh-TW", "zho_Hant"),
        ("fa", "pes_Arab"),
        ("lv", "lvs_Latn"),
        ("ar", "arb_Arab"),
        ("arb_Latn", "arb_Latn"),
        ("nb", "nob_Latn"),
        ("uz", "uzn_Latn"),
        ("mn", "khk_Cyrl"),
        ("ko", "kor_Hang"),
        ("tl", "tgl_Latn"),
        ("fil", "tgl_Latn"),
    ],
)
def test_the_files_of_a_language(language: str, code: str) -> None:
    entry = resolve_flores("devtest", Direction("en", language), recorded_index()).entry
    assert entry == {"source": member("devtest", "eng_Latn"), "target": member("devtest", code)}


def test_facts() -> None:
    dataset = resolve_flores("dev", Direction("en", "de"), recorded_index())
    assert (dataset.num_pairs, dataset.licence) == (997, "CC-BY-SA-4.0")
    assert resolve_flores("devtest", Direction("en", "de"), recorded_index()).num_pairs == 1012
    assert dataset.alternatives == {URL: ("https://tinyurl.com/flores200dataset",)}


def test_it_has_204_varieties_each_of_which_is_found_by_its_own_code() -> None:
    codes = flores_codes(recorded_index())
    assert len(codes) == 204
    for code in codes:
        entry = resolve_flores("dev", Direction(code, "en"), recorded_index()).entry
        assert entry["source"] == member("dev", code)


def test_unknown_splits_and_languages_are_refused() -> None:
    with pytest.raises(UserError, match="flores: test: not known as a split of FLORES-200; the nearest are devtest"):
        resolve_flores("test", Direction("en", "de"), recorded_index())
    with pytest.raises(UserError, match="FLORES-200 has no tlh"):
        resolve_flores("dev", Direction("en", "tlh"), recorded_index())
