"""Changes of text: scripts, properties of each change, and errors that are counted by hand."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.modifiers import (
    PLACEHOLDERS,
    TAG_PAIRS,
    has_case,
    join_texts,
    noise_line,
    to_title_case,
    to_upper_case,
    with_typos,
    without_end_punctuation,
)

GERMAN = "Ein kleines Mädchen klettert in ein Spielhaus aus Holz ."
LINES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1).filter(str.strip)


@pytest.mark.parametrize(
    ("text", "language", "upper", "title"),
    [
        ("der Hund läuft", "de", "DER HUND LÄUFT", "Der Hund Läuft"),
        ("straße", "de", "STRASSE", "Straße"),
        ("ılık istanbul", "tr", "ILIK İSTANBUL", "Ilık İstanbul"),
        ("in istanbul", "en", "IN ISTANBUL", "In Istanbul"),
        ("ένα σπίτι ϊ", "el", "ΕΝΑ ΣΠΙΤΙ Ϊ", "Ένα Σπίτι Ϊ"),
        ("джинсы", "ru", "ДЖИНСЫ", "Джинсы"),
        ("(d'accord)", "fr", "(D'ACCORD)", "(D'accord)"),
        ("mp3 2nd", "en", "MP3 2ND", "Mp3 2nd"),
        ("see <b>it</b> at http://a.de/b", "en", "SEE <b>IT</b> AT http://a.de/b", "See <b>It</b> At http://a.de/b"),
        ("call __PH0__ now", "en", "CALL __PH0__ NOW", "Call __PH0__ Now"),
    ],
)
def test_case_follows_the_language(text: str, language: str, upper: str, title: str) -> None:
    assert to_upper_case(text, language) == upper
    assert to_title_case(text, language) == title


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("ein Hund", "de", True),
        ("собака", "ru", True),
        ("狗在跑 .", "zh", False),
        ("我用iPhone", "zh", False),
        ("ภาษาไทย", "th", False),
        ("كلب", "ar", False),
        ("ძაღლი", "ka", False),
        ("कुत्ता", "hi", False),
        ("123 .", "de", False),
        ("狗 狗 a", "de", False),
    ],
)
def test_case_needs_a_script_with_case(text: str, language: str, expected: bool) -> None:
    assert has_case(text, language) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ein Hund .", "ein Hund"),
        ("ein Hund?!", "ein Hund"),
        ("狗在跑。", "狗在跑"),
        ("كلب؟", "كلب"),
        ("कुत्ता।", "कुत्ता"),
        ("ein Hund", "ein Hund"),
        ("...", "..."),
        ("z. B. so", "z. B. so"),
    ],
)
def test_end_punctuation_is_removed(text: str, expected: str) -> None:
    assert without_end_punctuation(text) == expected


@pytest.mark.parametrize("text", ["我用苹果电脑工作", "これはいぬです", "a bc def", "12345 67890", "<strong> __PH0__"])
def test_text_without_words_for_typos_is_unchanged(text: str) -> None:
    assert all(with_typos(text, 1.0, Random(seed)) == text for seed in range(20))


def test_each_kind_of_typo_occurs_about_equally_often() -> None:
    """A word with different neighbours loses a letter in a quarter of the draws, and gets one in half of them."""
    sizes = Counter(len(with_typos("Planet", 1.0, Random(seed))) - 6 for seed in range(4000))
    assert set(sizes) == {-1, 0, 1}
    for change, share in ((-1, 0.25), (0, 0.25), (1, 0.5)):
        assert abs(sizes[change] / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5
    swapped = {text for seed in range(4000) if len(text := with_typos("Planet", 1.0, Random(seed))) == 6}
    assert swapped == {"Palnet", "Plnaet", "Plaent", "Plante"}


def test_typos_are_in_the_share_of_words() -> None:
    words = ["Wort"] * 5000
    changed = sum(word != "Wort" for word in with_typos(" ".join(words), 0.2, Random(1)).split())
    assert abs(changed - 1000) < 5 * (5000 * 0.2 * 0.8) ** 0.5


def test_inserted_letters_are_neighbours_on_the_keyboard() -> None:
    """A letter that is in the word already may be a repetition."""
    new = {letter for seed in range(4000) for letter in with_typos("oooo", 1.0, Random(seed)) if letter != "o"}
    assert new == set("ipkl")


def test_combining_marks_stay_with_their_letters() -> None:
    text = unicodedata.normalize("NFD", "Mädchenkönig")
    for seed in range(200):
        changed = with_typos(text, 1.0, Random(seed))
        marked = [changed[place - 1] for place, char in enumerate(changed) if unicodedata.combining(char)]
        assert set(marked) <= {"a", "o"}


@given(LINES, st.integers(0, 2**32))
def test_no_change_makes_a_text_empty(text: str, seed: int) -> None:
    changes: list[Callable[[str], str]] = [
        lambda line: to_upper_case(line, "de"),
        lambda line: to_upper_case(line, "el"),
        lambda line: to_title_case(line, "tr"),
        without_end_punctuation,
        lambda line: with_typos(line, 0.5, Random(seed)),
    ]
    for change in changes:
        assert change(text).strip()


@given(st.text(st.characters(categories=("Lo",))), st.sampled_from(["zh", "th", "ar", "ka", "hi", "ja", "ko"]))
def test_text_in_scripts_without_case_has_no_case(text: str, language: str) -> None:
    assert not has_case(text, language)


@given(st.lists(st.text("abc", min_size=1), min_size=1), st.integers(0, 2**32))
def test_typos_keep_words_and_first_letters(words: list[str], seed: int) -> None:
    changed = with_typos(" ".join(words), 0.5, Random(seed)).split(" ")
    assert len(changed) == len(words)
    assert all(new[0] == old[0] for new, old in zip(changed, words, strict=True))
    assert all(abs(len(new) - len(old)) <= 1 for new, old in zip(changed, words, strict=True))
    assert all(new == old for new, old in zip(changed, words, strict=True) if len(old) < 4)


def test_noise_has_characters_of_the_alphabet() -> None:
    for seed in range(100):
        line = noise_line("xyz", Random(seed))
        assert set(line) <= set("xyz ")
        assert 1 <= len(line.split()) <= 8
        assert all(1 <= len(word) <= 12 for word in line.split())


def test_texts_are_joined_with_a_space_if_the_language_has_spaces() -> None:
    assert join_texts("a .", "b .", spaced=True) == "a . b ."
    assert join_texts("狗。", "猫。", spaced=False) == "狗。猫。"


def test_no_escaped_character_of_tokenised_text_is_changed() -> None:
    text = "he doesn &apos;t say &quot; yes &quot; &amp; no &#91; sic &#93; &#39;s"
    escaped = ["&apos;", "&quot;", "&quot;", "&amp;", "&#91;", "&#93;", "&#39;"]
    assert to_upper_case(text, "en") == "HE DOESN &apos;T SAY &quot; YES &quot; &amp; NO &#91; SIC &#93; &#39;S"
    assert to_title_case(text, "en") == "He Doesn &apos;t Say &quot; Yes &quot; &amp; No &#91; Sic &#93; &#39;s"
    assert without_end_punctuation(text) == text
    for seed in range(50):
        changed = with_typos(text, 1.0, Random(seed))
        assert changed != text
        assert re.findall(r"&[^ ;]*;", changed) == escaped


def test_no_placeholder_or_tag_is_changed() -> None:
    marks = [*PLACEHOLDERS, *(mark for pair in TAG_PAIRS for mark in pair)]
    for mark in marks:
        assert to_upper_case(mark, "en") == to_title_case(mark, "en") == mark
        assert with_typos(f"{mark} planet", 1.0, Random(1)).startswith(mark)


@pytest.mark.parametrize(
    "markup",
    [  # as Moses divides them, with and without escaped characters
        "&lt; b &gt;",
        "&lt; / strong &gt;",
        "< em >",
        "< / em >",
        "&lt; a href = &quot; http : / / x.org / a ? b = 1 &amp; c = 2 &quot; &gt;",
        '< x id = " one " / >',
        "&lt; br / &gt;",
        "http : / / www.example.com / path / to-page.html ? query = one # top",
        "https : / / example.org / some / page",
        "john.doe @ example.com",
        "_ _ PH0 _ _",
        "_ _ name _ _",
    ],
)
def test_no_markup_of_tokenised_text_is_changed(markup: str) -> None:
    text = f"longer words before {markup} , different words afterwards"
    for changed in (to_upper_case(text, "en"), to_title_case(text, "en"), with_typos(text, 1.0, Random(1))):
        assert changed != text
        assert f" {markup} , " in changed
    assert to_upper_case(text, "en") == f"LONGER WORDS BEFORE {markup} , DIFFERENT WORDS AFTERWARDS"


def test_signs_of_comparison_are_not_tags() -> None:
    assert to_upper_case("a < b and c > d", "en") == "A < B AND C > D"
    assert to_upper_case("a &lt; b and c &gt; d", "en") == "A &lt; B AND C &gt; D"
