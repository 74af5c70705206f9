"""Documents: what is translated, what is copied, and where inline markup goes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.documents.document import Document, Mark, Sentence, text_document
from kdmt.languages import Direction

EN_DE = Direction("en", "de")


def upper(document: Document) -> str:
    return document.join([sentence.upper() for sentence in document.sentences])


def test_line_breaks_and_whitespace_are_copied() -> None:
    text = "  Dr. Smith went.  He slept.\n\n\tYes.\r\nNo\x0b. "
    document = text_document(text, EN_DE)
    assert document.sentences == ["Dr. Smith went.", "He slept.", "Yes.", "No"]
    assert upper(document) == text.upper()


def test_text_without_letters_is_copied() -> None:
    document = text_document("* * *\n12.5 %\n---\n", EN_DE)
    assert document.sentences == []
    assert document.join([]) == "* * *\n12.5 %\n---\n"


@settings(max_examples=40)
@given(st.text(st.sampled_from("aB. ?!\t\n\r\x0b\u2028\xa0é😀1-")))
def test_a_document_with_its_own_sentences_is_unchanged(text: str) -> None:
    document = text_document(text, EN_DE)
    sentences = [part.text for part in document.parts if isinstance(part, Sentence)]
    assert document.join(sentences) == text


def test_spaces_between_sentences_follow_the_target_language() -> None:
    to_chinese = text_document("One. Two.\nThree.", Direction("en", "zh"))
    assert to_chinese.join(["一。", "二。", "三。"]) == "一。二。\n三。"
    from_chinese = text_document("一。二。\n三。", Direction("zh", "en"))
    assert from_chinese.join(["One.", "Two.", "Three."]) == "One. Two.\nThree."


def marked(source: str, target: str, direction: Direction = EN_DE) -> str:
    """Translate a sentence with `[` and `]` as markup."""
    marks, text = [], ""
    for character in source:
        if character in "[]*":
            kind = {"[": "open", "]": "close", "*": "single"}[character]
            marks.append(Mark(character, kind, len(text)))  # type: ignore[arg-type]
        else:
            text += character
    return Document((Sentence(text, tuple(marks)),), direction).join([target])


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("A [dog] runs.", "Ein Hund läuft.", "Ein [Hund] läuft."),
        ("A [dog runs].", "Ein Hund läuft.", "Ein [Hund läuft]."),
        ("[A dog runs.]", "Ein Hund läuft.", "[Ein Hund läuft]."),
        ("A dog [runs].", "Läuft.", "[Läuft]."),
        ("A [d]og runs.", "Ein Hund läuft.", "Ein [Hund] läuft."),
        ("[A [dog]] [runs].", "Ein Hund läuft.", "[Ein [Hund]] [läuft]."),
        ("A [] dog.", "Ein Hund.", "Ein []Hund."),
        ("A * dog.", "Ein Hund.", "Ein *Hund."),
        ("One two three [four].", "Eins.", "[Eins]."),
        ("A [dog].", "", "[]"),
        ("A dog].", "Ein Hund.", "Ein Hund]."),
        ("[...] dog", "Hund", "[]Hund"),
    ],
)
def test_markup_is_placed_in_proportion_to_words(source: str, target: str, expected: str) -> None:
    assert marked(source, target) == expected


def test_markup_in_a_language_without_spaces_is_placed_by_characters() -> None:
    assert marked("one [two] three four", "一二三四", Direction("en", "zh")) == "一[二]三四"


@settings(max_examples=40)
@given(st.text(st.sampled_from("ab .[]*"), max_size=20), st.text(st.sampled_from("xy ."), max_size=12))
def test_markup_keeps_its_order_and_the_translation_is_complete(source: str, target: str) -> None:
    result = marked(source, target)
    assert [character for character in result if character in "[]*"] == [each for each in source if each in "[]*"]
    assert "".join(character for character in result if character not in "[]*") == target.strip()


def test_markup_with_spaces_around_it_gets_them_in_the_translation() -> None:
    document = Document((Sentence("Use  now", (Mark("<hr>", "single", 4, is_spaced=True),)),), EN_DE)
    assert document.join(["Jetzt nutzen"]) == "Jetzt <hr> nutzen"
