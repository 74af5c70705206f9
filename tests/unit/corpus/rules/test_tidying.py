"""Tests of the rules that remove invisible characters, normalise Unicode and collapse whitespace."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config import Clean
from kdmt.corpus.clean import clean_line
from kdmt.corpus.rules.pair_text import LanguagePair
from kdmt.corpus.rules.table import build_rules
from kdmt.corpus.rules.tidying import (
    Invisible,
    Normalization,
    Whitespace,
    collapse_whitespace,
    is_plain,
    normalize_unicode,
    remove_invisible,
)

RULES = (Invisible(), Normalization("NFC"), Whitespace())


def test_invisible_characters() -> None:
    assert remove_invisible("a\x00b\x07c\x7fd\x9fe\u00adf\u200bg\ufeffh\u202ei\u2066j") == "abcdefghij"
    for kept in ("می\u200cخواهم", "क्\u200dष", "👩\u200d🔬", "\u0601\u06dd", "a\tb\x85c\u2028d\u00a0e", "plain"):
        assert remove_invisible(kept) == kept


@pytest.mark.parametrize(
    ("line", "cleaned"),
    [
        ("ខ្ញុំ\u200bចង់\u200bញ៉ាំ\u200bបាយ", "ខ្ញុំ ចង់ ញ៉ាំ បាយ"),  # Khmer: "I want to eat rice"
        ("ฉัน\u200bกิน\u200bข้าว", "ฉัน กิน ข้าว"),  # Thai
        ("ຂ້ອຍ\u200bກິນ\u200bເຂົ້າ", "ຂ້ອຍ ກິນ ເຂົ້າ"),  # Lao
        ("ကျွန်တော်\u200bစား", "ကျွန်တော် စား"),  # Burmese
        ("ฉัน\u200bEnglish\u200b5\u200bคน", "ฉัน English\u200b5 คน"),  # also between two scripts
        ("กิน\u200b\u200b\u2060\u200bข้าว", "กิน ข้าว"),  # several in a row are one boundary
        ("\u200bกิน\u200b \u200bข้าว\u200b", "กิน ข้าว"),
        ("กิน\u200b(ข้าว)", "กิน(ข้าว)"),  # next to punctuation no space is needed
        ("これは\u200bペン", "これはペン"),  # Chinese and Japanese: where a line may be broken
        ("Donau\u200bdampf", "Donaudampf"),  # scripts with spaces between words: the same
        ("กิน\u00adข้าว\u2060\ufeffแล้ว", "กินข้าวแล้ว"),  # characters that mark the inside of a word
        ("1990\x962000, so\x97ja, don\x92t, a \x96 b", "1990 2000, so ja, dont, a b"),  # Windows-1252 dashes
        ("\ufff9東京\ufffaとうきょう\ufffb", "東京 とうきょう"),  # a word and its annotation
    ],
)
def test_invisible_word_separators_become_a_space(line: str, cleaned: str) -> None:
    expected = cleaned.replace("\u200b", "")
    counts: Counter[str] = Counter()
    assert clean_line(line, RULES, counts) == expected
    assert counts["invisible"] == 1
    assert clean_line(expected, RULES, counts) == expected
    assert counts["invisible"] == 1


@given(st.text(st.sampled_from("กขAa1 ,\u200b\u2060\u00ad\x96\x00\t"), max_size=12))
def test_removing_invisible_characters_keeps_the_visible_ones_in_order(line: str) -> None:
    removed = "\u200b\u2060\u00ad\x96\x00"
    cleaned = remove_invisible(line)
    visible = "".join(character for character in line if character not in removed)
    assert not set(cleaned) & set(removed)
    assert cleaned.replace(" ", "") == visible.replace(" ", "")
    assert remove_invisible(cleaned) == cleaned


def test_invisible_covers_every_control_character() -> None:
    """Check that each character of Unicode's category Cc is removed or is whitespace that the next rule collapses."""
    controls = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Cc"]
    assert len(controls) == 65
    for control in controls:
        assert collapse_whitespace(remove_invisible(f"a{control}b")) in ("ab", "a b")


@given(st.text())
def test_collapse_whitespace_equals_split_and_join(line: str) -> None:
    assert collapse_whitespace(line) == " ".join(line.split())


def test_unicode_forms() -> None:
    assert normalize_unicode("e\u0301 ﬁ ２", "NFC") == "\u00e9 ﬁ ２"
    assert normalize_unicode("e\u0301 ﬁ ２", "NFKC") == "\u00e9 fi 2"
    assert normalize_unicode("e\u0301 ﬁ ２", "none") == "e\u0301 ﬁ ２"


@given(st.text(st.sampled_from("ab &<>;\u00e9\u00a0\t\x00\u200b"), max_size=8))
def test_a_plain_line_is_changed_by_no_rule(line: str) -> None:
    clean = Clean.model_validate({"rules": "default"})
    rules = build_rules(clean, LanguagePair((True, True), ("en", "de")))
    assert rules.keeps_plain
    if is_plain(line):
        assert [rule.edit(line) for rule in rules.changing[0]] == [line] * len(rules.changing[0])


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        *[(line, True) for line in ("A plain line.", "", "caf\u00e9", "\u00dcber \u00d6l")],
        *[
            (line, False)
            for line in (
                "cr\u00e9\u00e9",
                "cafe\u0301",
                "\u0434\u0430",
                "\u00b5",
                "a  b",
                " a",
                "a ",
                "a&b",
                "<",
                "a\tb",
            )
        ],
    ],
)
def test_plain_lines(line: str, plain: bool) -> None:
    assert is_plain(line) is plain


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_no_rule_changes_a_plain_line(form: str) -> None:
    clean = Clean.model_validate({"rules": "default", "unicode_form": form})
    rules = build_rules(clean, LanguagePair(codes=("en", "de"))).changing[0]
    characters = [chr(code) for code in range(0x180)]
    lines = [f"{one}{other}" for one in characters for other in characters]
    lines += [f"{one} {other} a" for one in characters for other in characters]
    plain = [line for line in lines if is_plain(line)]
    assert len(plain) > 20_000
    assert all(rule.edit(line) == line for line in plain for rule in rules)
