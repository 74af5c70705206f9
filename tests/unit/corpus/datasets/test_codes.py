"""Tests of language codes of data sets."""

from __future__ import annotations

import pytest

from kdmt.corpus.datasets.codes import covers_code, find_code, includes_code, known_language, same_code


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ("en", "eng"),
        ("eng_Latn", "en"),
        ("de", "deu_Latn"),
        ("fa", "pes_Arab"),
        ("lv", "lvs_Latn"),
        ("zh", "zho_Hans"),
        ("zh-Hant", "zho_Hant"),
        ("ar", "arb_Arab"),
        ("sr", "srp_Cyrl"),
        ("en_GB", "eng-GB"),
        ("sw", "swh_Latn"),
        ("ko", "kor_Hang"),
    ],
)
def test_codes_of_the_same_language_are_the_same(wanted: str, code: str) -> None:
    assert same_code(wanted, code)
    assert includes_code(wanted, code)


@pytest.mark.parametrize(
    ("wanted", "code"),
    [("ar", "arb_Latn"), ("zh", "zho_Hant"), ("sr", "srp_Latn"), ("no", "nb"), ("pt", "es"), ("en", "ze_zh")],
)
def test_other_languages_and_scripts_are_not(wanted: str, code: str) -> None:
    assert not same_code(wanted, code)
    assert not includes_code(wanted, code)


def test_a_language_includes_its_regional_varieties() -> None:
    assert includes_code("en", "en_GB")
    assert not same_code("en", "en_GB")
    assert not includes_code("en_GB", "en_US")


def test_a_variety_is_covered_by_the_language_in_general_but_not_the_reverse() -> None:
    assert covers_code("en_GB", "en")
    assert covers_code("zh_TW", "zho_Hant")
    assert not covers_code("zh_TW", "zho_Hans")
    assert not covers_code("en", "en_GB")
    assert find_code("en_GB", ["en_US", "en"]) == "en"


def test_a_code_of_another_standard_equals_itself_alone() -> None:
    assert known_language("ze_zh") is None
    assert same_code("ze_zh", "ze_zh")
    assert includes_code("ze_zh", "ze_zh")


def test_the_same_code_is_preferred_then_an_equivalent_one_then_the_only_regional_one() -> None:
    assert find_code("en", ["eng", "en_GB", "en"]) == "en"
    assert find_code("en", ["en_GB", "eng"]) == "eng"
    assert find_code("zh", ["zho-CN", "zho-TW"]) == "zho-CN"  # the other one is in traditional characters
    assert find_code("en", ["en_GB", "en_US"]) is None
    assert find_code("is", ["en", "de"]) is None
