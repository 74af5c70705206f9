"""Language codes checked against known cases of CLDR, ISO and sacreBLEU, and against the tables of pycountry."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import pycountry
import pytest
from sacrebleu.metrics.bleu import BLEU

from kdmt import languages
from kdmt.languages import (
    Direction,
    Language,
    bleu_tokenizer,
    code_from_yaml,
    missing_extra,
    parse_language,
    same_language,
    script_of,
    writes_spaces,
)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("de", Language("de")),
        ("DEU", Language("de")),
        ("ger", Language("de")),  # the bibliographic code of ISO 639-2
        ("gsw", Language("gsw")),  # with three letters only
        ("zh-hans", Language("zh", "Hans")),
        ("zho_Hans", Language("zh", "Hans")),  # as in NLLB
        ("zh_CN", Language("zh", None, "CN")),
        ("ZH-HANT-tw", Language("zh", "Hant", "TW")),
        ("sr-Latn", Language("sr", "Latn")),
        ("es-419", Language("es", None, "419")),
        ("en_XX", Language("en", None, "XX")),  # as in mBART
        ("en-UK", Language("en", None, "GB")),
        ("de-CH-1996", Language("de", None, "CH", "-1996")),
        ("en-x-Toy", Language("en", None, None, "-x-toy")),
        ("zh-yue", Language("yue")),
        ("iw", Language("he")),  # deprecated in BCP 47
        ("qaa", Language("qaa")),  # for private use
        ("no", Language("no")),
        ("se", Language("se")),  # Northern Sami
    ],
)
def test_codes(code: str, expected: Language) -> None:
    assert parse_language(code) == expected


def test_tags_are_canonical() -> None:
    assert [parse_language(code).tag for code in ("ZHO_hans_cn", "PT-br", "deu", "en-X-TOY")] == [
        "zh-Hans-CN",
        "pt-BR",
        "de",
        "en-x-toy",
    ]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("jp", "'jp' is no ISO 639 or BCP 47 language code: write 'ja'"),
        ("CN", "'CN' is no ISO 639 or BCP 47 language code: write 'zh'"),
        ("ua", "'ua' is no ISO 639 or BCP 47 language code: write 'uk'"),
        ("jp-JP", "'jp-JP' is no ISO 639 or BCP 47 language code: write 'ja'"),
        ("german", "'german' is no ISO 639 or BCP 47 language code: write 'de'"),
        ("zz", "'zz' is no ISO 639 or BCP 47 language code"),
        ("", "'' is no ISO 639 or BCP 47 language code"),
        ("de-", "'de-' is no ISO 639 or BCP 47 language code"),
        ("../de", "'../de' is no ISO 639 or BCP 47 language code"),
        ("de.en", "'de.en' is no ISO 639 or BCP 47 language code"),
        ("de\n", "'de\\n' is no ISO 639 or BCP 47 language code"),
        ("\uff44\uff45", "'\uff44\uff45' is no ISO 639 or BCP 47 language code"),  # full-width letters
        ("zh-Simp", "'zh-Simp': 'Simp' is no ISO 15924 script, as Latn or Hans is"),
        ("pt-BZZ", "'pt-BZZ' is no ISO 639 or BCP 47 language code"),
        ("de-YY", "'de-YY': 'YY' is no ISO 3166 region, as BR or CN is"),
        ("a" * 5000, f"'{'a' * 60}...' is no ISO 639 or BCP 47 language code"),
    ],
)
def test_invalid_codes_are_refused(code: str, message: str) -> None:
    with pytest.raises(ValueError, match="is no") as error:
        parse_language(code)
    assert str(error.value) == message


@pytest.mark.parametrize("mistake", sorted(languages._MISTAKES))
def test_common_mistakes_are_invalid_and_their_corrections_valid(mistake: str) -> None:
    assert not pycountry.languages.get(alpha_2=mistake)
    assert not pycountry.languages.get(alpha_3=mistake)
    assert parse_language(languages._MISTAKES[mistake])


def test_tables_have_no_duplicates_and_only_canonical_codes() -> None:
    codes = [code for written in languages._WRITTEN_IN.values() for code in written.split()]
    assert len(codes) == len(set(codes))
    assert [code for code in codes if parse_language(code).tag != code] == []
    scripts = {*languages._WRITTEN_IN, *languages._WRITTEN_IN_REGION.values(), *languages._WITHOUT_SPACES}
    assert [script for script in sorted(scripts) if not pycountry.scripts.get(alpha_4=script)] == []


def test_the_range_of_private_use() -> None:
    assert parse_language("qtz") == Language("qtz")
    with pytest.raises(ValueError, match="is no ISO 639"):
        parse_language("qua1")


def test_yaml_reads_no_as_false() -> None:
    assert [code_from_yaml(value) for value in ("no", True, 3, None)] == ["no", True, 3, None]
    with pytest.raises(ValueError, match='write "no" in quotes for Norwegian'):
        code_from_yaml(False)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("en", "EN", True),
        ("en", "eng", True),
        ("zh-hans", "zh_Hans", True),
        ("zh", "zh-Hans", True),
        ("sr-Latn", "sr-Cyrl", False),
        ("zh-Hans", "zh-Hant", False),
        ("zh-TW", "zh-CN", False),
        ("pt-PT", "pt-BR", False),
        ("de", "de-x-toy", False),
        ("nb", "nn", False),
        ("src", "src", True),  # names that are not codes
        ("src!", "SRC!", False),
    ],
)
def test_same_language(first: str, second: str, same: bool) -> None:
    assert same_language(first, second) is same
    assert same_language(second, first) is same


@pytest.mark.parametrize(
    ("code", "script", "spaces"),
    [
        ("de", "Latn", True),
        ("ru", "Cyrl", True),
        ("sr", "Cyrl", True),
        ("sr-ME", "Latn", True),
        ("vi", "Latn", True),
        ("ko", "Kore", True),
        ("am", "Ethi", True),
        ("hi", "Deva", True),
        ("zh", "Hans", False),
        ("zh-TW", "Hant", False),
        ("zh-Latn", "Latn", True),  # pinyin
        ("yue", "Hant", False),
        ("ja", "Jpan", False),
        ("ja-Latn", "Latn", True),
        ("th", "Thai", False),
        ("lo", "Laoo", False),
        ("km", "Khmr", False),
        ("my", "Mymr", False),
        ("bo", "Tibt", False),
        ("dz", "Tibt", False),
        ("ii", "Yiii", False),
        ("jv", "Latn", True),
        ("jv-Java", "Java", False),
        ("ban-Bali", "Bali", False),
        ("nod", "Lana", False),
    ],
)
def test_scripts_and_spaces(code: str, script: str, spaces: bool) -> None:
    assert script_of(code) == script
    assert writes_spaces(code) is spaces


@pytest.mark.parametrize("code", ["de", "ru", "zh", "ja", "ko", "vi"])
def test_tokenizer_is_the_one_that_sacrebleu_chooses(code: str) -> None:
    assert bleu_tokenizer(code) == BLEU(trg_lang=code).tokenizer_signature.split("-0.")[0].split("-1.")[0]


@pytest.mark.parametrize(
    ("code", "tokenizer"),
    [
        ("zh-TW", "zh"),
        ("yue", "zh"),
        ("cmn", "zh"),
        ("zh-Latn", "13a"),
        ("ja-Latn", "13a"),
        ("th", "char"),
        ("km", "char"),
        ("my", "char"),
        ("bo", "char"),
    ],
)
def test_tokenizers(code: str, tokenizer: str) -> None:
    assert bleu_tokenizer(code) == tokenizer


def test_tokenizers_without_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without_mecab(name: str, package: str | None = None) -> Any:
        return None if name in ("ipadic", "mecab_ko") else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_mecab)
    assert [missing_extra(name) for name in ("ja-mecab", "ko-mecab", "zh", "13a")] == ["ja", "ko", None, None]
    assert [bleu_tokenizer(code) for code in ("ja", "ko", "zh")] == ["char", "13a", "zh"]


def test_direction_is_formatted_as_in_data_bin_names() -> None:
    direction = Direction("en", "zh-Hans")
    assert str(direction) == "en-zh-Hans"
    assert direction.sides == ("en", "zh-Hans")
    assert direction.reversed() == Direction("zh-Hans", "en")
    assert direction.reversed().reversed() == direction


@pytest.mark.parametrize(
    ("other", "matches"),
    [
        (("en", "de"), True),
        (("eng", "DE"), True),
        (("de", "en"), False),
        (("en", "de-AT"), False),
        (("fr", "de"), False),
    ],
)
def test_directions_match_in_every_form_of_their_codes(other: tuple[str, str], matches: bool) -> None:
    assert Direction("en", "de").matches(Direction(*other)) is matches


def test_identities_are_equal_for_the_same_languages() -> None:
    """Compare with `matches` for all pairs of directions among codes, and names that are none."""
    codes = ["en", "eng", "zh", "zh-Hans", "zh-TW", "pt", "pt_BR", "src", "tgt", "no such", "nothing"]
    directions = [Direction(*sides) for sides in itertools.product(codes, codes)]
    for one, other in itertools.product(directions, directions):
        same = all(a == b or _same_by_tags(a, b) for a, b in zip(one.sides, other.sides, strict=True))
        assert (one.identity == other.identity) is same
        assert one.matches(other) is same


def _same_by_tags(first: str, second: str) -> bool:
    try:
        one, other = parse_language(first), parse_language(second)
    except ValueError:
        return False
    return (one.language, one.written_in, one.region) == (other.language, other.written_in, other.region)
