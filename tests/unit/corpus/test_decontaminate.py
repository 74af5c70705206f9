import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.decontaminate import collect_forbidden, comparison_key
from kdmt.corpus.ngram_overlap import NgramOverlaps, Overlap, index_side


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A man, in a blue shirt.", "a man in  a blue shirt"),
        ("Groß", "GROSS"),
        ("ﬁne", "FINE"),
        ("ＡＢＣ１２３", "abc123"),
        ("caf\u00e9", "cafe\u0301"),
        ("„Ja“, sagte er – nein …", "ja sagte er nein"),
        ("foo_bar", "foo bar"),
        ("a\u00a0b\u200bc\tC", "abcc"),
    ],
)
def test_keys_of_equivalent_sentences_are_equal(one: str, other: str) -> None:
    assert comparison_key(one) == comparison_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Room 12", "Room 13"),
        ("schon", "schön"),
        ("की", "का"),  # differ only in a combining vowel
        ("ไม้", "ไม่"),  # differ only in a tone mark
    ],
)
def test_keys_of_different_sentences_differ(one: str, other: str) -> None:
    assert comparison_key(one) != comparison_key(other)


@given(st.text())
def test_key_keeps_letters_digits_and_marks_of_the_folded_line(line: str) -> None:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", line).casefold())
    assert comparison_key(line).decode() == "".join(
        c for c in folded if c.isalnum() or unicodedata.category(c)[0] == "M"
    )


@given(st.text(st.characters(codec="ascii")))
def test_keys_of_ascii_and_unicode_lines_are_consistent(line: str) -> None:
    beyond_ascii = line + "ä"
    assert comparison_key(beyond_ascii) == comparison_key(line) + "ä".encode()


def test_matches_name_the_held_out_sides() -> None:
    forbidden = collect_forbidden(
        [
            ("valid", [("A dog runs.", "Ein Hund rennt."), ("Yes!", "Ja!"), ("yes", "Jawohl")]),
            ("test_2016", [("a dog runs", "Der Hund läuft."), ("...", "—")]),
        ]
    )
    assert forbidden.sides == ("valid.source", "valid.target", "test_2016.source", "test_2016.target")
    assert forbidden.matches(comparison_key("A dog, runs"), comparison_key("Irgendwas")) == (
        "valid.source",
        "test_2016.source",
    )
    assert forbidden.matches(comparison_key("Something"), comparison_key("der hund läuft")) == ("test_2016.target",)
    assert forbidden.matches(comparison_key("A dog runs"), comparison_key("Ein Hund rennt")) == (
        "valid.source",
        "test_2016.source",
        "valid.target",
    )
    assert forbidden.matches(comparison_key("YES"), comparison_key("Na klar")) == (
        "valid.source",
    )  # short sentences count too
    assert (
        forbidden.matches(comparison_key("Ein Hund rennt."), comparison_key("A dog runs.")) == ()
    )  # only sentences of the same side match
    assert (
        forbidden.matches(comparison_key("A dog runs fast."), comparison_key("Ein Hund rennt schnell.")) == ()
    )  # only whole sentences match
    assert forbidden.matches(comparison_key("?!"), comparison_key("…")) == ()  # only punctuation


def test_copies_are_compared_with_the_ngrams_of_sources_alone() -> None:
    english, german = "one two three four five six", "eins zwei drei vier fünf sechs"
    texts = (("test.source", english), ("test.target", german))
    sides = (index_side([(name, [line])], ngram=5, overlap=0.8) for name, line in texts)
    forbidden = replace(collect_forbidden([("test", [(english, german)])]), overlaps=NgramOverlaps(*sides))
    copies = forbidden.of_copies()
    assert copies.overlaps is not None
    assert forbidden.overlaps is not None
    lines = [f"so {english}", f"so {german}"]
    assert copies.overlaps.find((lines, lines)) == [Overlap(0, "test.source", 1)]
    assert forbidden.overlaps.find((lines, lines)) == [Overlap(0, "test.source", 1), Overlap(1, "test.target", 1)]
    assert copies.matches(comparison_key(english), b"") == ("test.source",)
    assert replace(forbidden, overlaps=None).of_copies().overlaps is None
    assert forbidden.overlaps is not None
    of_target = forbidden.of_copies(1).overlaps
    assert of_target is not None
    assert (of_target.source, of_target.target) == (forbidden.overlaps.target, None)
