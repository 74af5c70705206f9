"""Examples of translations: which ones are chosen, and what is marked."""

from __future__ import annotations

from kdmt.score.report_page.examples import MAX_CHARACTERS, Piece, choose_examples, mark_differences


def test_words_that_the_other_text_does_not_have_are_marked() -> None:
    found = mark_differences("the small dog runs.", "the dog runs !", spaced=True)
    assert found == [
        Piece("the"),
        Piece(" small", differs=True),
        Piece(" dog runs"),
        Piece(".", differs=True),
    ]


def test_text_without_spaces_is_compared_by_characters() -> None:
    assert mark_differences("我看狗", "我看猫", spaced=False) == [Piece("我看"), Piece("狗", differs=True)]


def test_equal_and_empty_texts_have_no_marks() -> None:
    assert mark_differences("a b", "a b", spaced=True) == [Piece("a b")]
    assert mark_differences("", "a", spaced=True) == []
    assert mark_differences("a", "", spaced=True) == [Piece("a", differs=True)]


def test_the_pieces_are_the_whole_text_and_a_long_text_is_cut_or_not_compared() -> None:
    text = "a  b\u00a0c <b>,d"
    assert "".join(piece.text for piece in mark_differences(text, "b d", spaced=True)) == text
    long = "ab " * 5_000
    (piece,) = mark_differences(long, "ab", spaced=True)
    assert piece == Piece(f"{long[:MAX_CHARACTERS]}…")


def test_the_worst_translations_come_first_and_random_ones_repeat() -> None:
    references = [f"this is sentence number {number}" for number in range(20)]
    outputs = list(references)
    outputs[7], outputs[3] = "xyz", "this is sentence"
    texts = {"teacher": references, "small": outputs}
    first, second = (
        choose_examples("test", range(20), references, references, texts, system="small", most=2, spaced=True)
        for _ in range(2)
    )
    assert [example.line for example in first.worst] == [8, 4]
    assert first.worst[0].score < first.worst[1].score
    assert first == second
    assert len({example.line for example in first.drawn}) == 2
    labels = [shown.label for shown in first.worst[0].texts]
    assert labels == ["source", "reference", "teacher", "small"]
    assert first.worst[0].texts[3].pieces == [Piece("xyz", differs=True)]
    assert not any(piece.differs for piece in first.worst[0].texts[2].pieces)
    (only,) = choose_examples("test", [5], references, references, texts, system="small", most=3, spaced=True).worst
    assert only.line == 6
