"""Tests of counting characters of held-out text that cleaned text cannot contain."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.characters import find_foreign_forms
from kdmt.corpus.rules.tidying import collapse_whitespace, normalize_unicode, remove_invisible


def test_lines_with_each_kind_are_counted() -> None:
    lines = [
        "plain",
        "caf\u00e9",
        "cafe\u0301",  # NFD
        "\ufeffStart",
        "Schiff\u00adfahrt, Dampf\u00adschiff",  # two soft hyphens, one line
        "e\u0301 \u200f\u00ad",  # all kinds in one line
        "ខ្ញុំ\u200bចង់",
        "a\u00a0b\u3000c",  # not counted, as every metric reads spaces of other widths as spaces
    ]
    found = find_foreign_forms(lines, "NFC")
    invisible = {"U+00AD": 2, "U+200B": 1, "U+200F": 1, "U+FEFF": 1}
    assert found.as_dict() == {"lines": 8, "changed": 5, "unicode": 2, "invisible": invisible}
    assert found.explain() == "5 of 8 lines (not in NFC 2, U+00AD 2, U+200B 1, U+200F 1, U+FEFF 1)"


def test_the_count_depends_on_the_unicode_form() -> None:
    lines = ["ｆｕｌｌ", "ﬁ", "e\u0301"]
    assert [find_foreign_forms(lines, form).unicode for form in ("NFC", "NFKC", "none")] == [1, 3, 0]


@given(st.lists(st.text()))
def test_the_count_is_the_number_of_lines_that_cleaning_changes(lines: list[str]) -> None:
    clean = [collapse_whitespace(normalize_unicode(remove_invisible(line), "NFC")) for line in lines]
    assert find_foreign_forms(clean, "NFC").changed == 0
    expected = sum(unicodedata.normalize("NFC", remove_invisible(line)) != line for line in lines)
    assert find_foreign_forms(lines, "NFC").changed == expected
