"""Tests of the translation in an answer of a language model, and of its failures."""

from __future__ import annotations

import pickle

import pytest

from kdmt.distill.llm_answers import Answer, LanguageCheck, find_translations, join_sources, split_answer
from kdmt.languages import Direction

SOURCE = "The black dog runs across the field and barks at the other dogs."
TARGET = "Der schwarze Hund rennt über das Feld und bellt die anderen Hunde an."
CHECK = LanguageCheck(Direction("en", "de"))


def parsed(
    text: str, source: str = SOURCE, finish: str | None = "stop", check: LanguageCheck = CHECK
) -> tuple[str, str | None, tuple[str, ...]]:
    (found,) = find_translations([Answer(text, finish)], [source], check)
    return found.text, found.failure, found.cleanings


@pytest.mark.parametrize(
    ("text", "cleanings"),
    [
        (TARGET, ()),
        (f"  {TARGET}\n\n", ()),
        (f'"{TARGET}"', ("removed_quotes",)),
        (f"„{TARGET}“", ("removed_quotes",)),
        (f"«{TARGET}»", ("removed_quotes",)),
        (f"Translation: {TARGET}", ("removed_prefix",)),
        (f"German translation: {TARGET}", ("removed_prefix",)),
        (f"Here is the translation:\n\n{TARGET}", ("removed_prefix",)),
        (f"Sure! Here's the German translation of the text:\n{TARGET}", ("removed_prefix",)),
        (f"**Translation:** {TARGET}", ("removed_prefix",)),
        (f"German: {TARGET}", ("removed_prefix",)),
        (f"Here is the translation:\n**German**: {TARGET}", ("removed_prefix",)),
        (f"<think>\nA dog, der Hund.\n</think>\n\n{TARGET}", ("removed_reasoning",)),
        (
            f'<think></think>Here is the translation: "{TARGET}"',
            ("removed_reasoning", "removed_prefix", "removed_quotes"),
        ),
    ],
)
def test_what_surrounds_a_translation_is_removed_and_counted(text: str, cleanings: tuple[str, ...]) -> None:
    assert parsed(text) == (TARGET, None, cleanings)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("I'm sorry, but I can't translate this text.", "refusal"),
        ("As an AI language model, I cannot assist with that.", "refusal"),
        ("I cannot help with this request.", "refusal"),
        (f"{TARGET}\n\n(Note: 'field' may also mean 'Acker'.)", "chatter"),
        (f"Sure! {TARGET}", "chatter"),
        (f"{TARGET} Let me know if you need anything else.", "chatter"),
        (f"{TARGET}\n{TARGET}", "several_lines"),
        (f"„{TARGET}", "quotes"),
        (f"{SOURCE} - {TARGET}", "echoed"),
        (f"{SOURCE.lower()}\t{TARGET}", "echoed"),
        ("Le chien noir court à travers le champ et aboie après les autres chiens.", "wrong_language"),
        ("Чёрная собака бежит через поле и лает на других собак.", "wrong_language"),
    ],
)
def test_an_answer_that_is_more_or_less_than_a_translation_fails(text: str, failure: str) -> None:
    pytest.importorskip("py3langid")
    assert parsed(text)[1] == failure


def test_reasons_of_the_server_are_failures() -> None:
    assert parsed(TARGET, finish="length")[1] == "truncated"
    assert parsed("<think>A dog", finish="stop")[1] == "truncated"
    assert parsed("", finish="content_filter")[1] == "refusal"
    assert parsed(TARGET, finish=None)[1] is None


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('"Yes," he said.', '"Ja", sagte er.'),
        ('"No!"', '"Nein!"'),
        ("He said yes, then no.", '"Ja", sagte er, dann "Nein"'),  # not one pair around the whole
        ("Translation: a dog", "Übersetzung: ein Hund"),
        ("Language: German", "German: die Sprache"),
        ("Sure! Let me know if you come.", "Sure! Let me know if you come."),  # a copy is found elsewhere
        ("I'm sorry, I cannot translate this.", "Es tut mir leid, ich kann das nicht übersetzen."),
        ("Berlin is large.", "Berlin ist groß."),
        ("New York City", "New York City ist groß"),  # a name may stay
        ("Don't", "Nicht'"),
    ],
)
def test_what_the_source_has_too_is_part_of_the_translation(source: str, text: str) -> None:
    assert parsed(text, source) == (text, None, ())


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Le résultat (note : 15/20) est bon.", "Das Ergebnis (Note: 15/20) ist gut."),
        ("The exam (15 out of 20) went well.", "Die Prüfung (Note: 15/20) lief gut."),
        ("The exam (grade: very good) is over.", "Die Prüfung (Note: sehr gut) ist vorbei."),
        ("He swims [note: badly].", "Er schwimmt [Note: schlecht]."),
        ("* Note: the dog runs.", "* Note: der Hund rennt."),
    ],
)
def test_a_note_in_the_text_is_not_taken_for_one_about_the_translation(source: str, text: str) -> None:
    assert parsed(text, source)[:2] == (text, None)


@pytest.mark.parametrize(
    "note",
    ["(Note: informal)", "(Translator's note: 'field' is ambiguous.)", "\nNote: literal", "*Explanation*: a verb"],
)
def test_a_note_that_the_source_does_not_have_is_chatter(note: str) -> None:
    assert parsed(f"{TARGET} {note}")[1] == "chatter"
    assert parsed(f"(Siehe: Seite 3) {TARGET} {note}", f"(See: page 3) {SOURCE}")[1] == "chatter"


def test_translations_into_english_are_not_taken_for_chatter() -> None:
    english = LanguageCheck(Direction("de", "en"))
    for source, text in (
        ("Wenn Tom erscheint, gib mir bitte Bescheid.", "If Tom comes, please let me know."),
        ("Ich kann diesen Satz nicht übersetzen.", "I can't translate this sentence."),
        ("Sag mir, wenn du Hilfe brauchst.", "Let me know if you need help."),
    ):
        assert parsed(text, source, check=english) == (text, None, ())
    refusal = "I'm sorry, but as an AI language model I cannot translate this text."
    assert parsed(refusal, "Wo ist der Hund?", check=english)[1] == "refusal"
    assert parsed("I cannot translate this.", "Der Hund läuft über das Feld. " * 5, check=english)[1] == "refusal"


def test_language_is_checked_by_script_without_an_identifier(monkeypatch: pytest.MonkeyPatch) -> None:
    check = LanguageCheck(Direction("de", "ru"))
    monkeypatch.setattr("kdmt.distill.llm_answers.is_installed", lambda _: False)
    assert check.method == "script"
    russian = "Чёрная собака бежит через поле и лает на других собак."
    assert check.find_others([russian, TARGET, "Hund"]) == [False, True, False]  # a short text is not checked


def test_languages_that_the_identifier_does_not_know_are_checked_by_script() -> None:
    pytest.importorskip("py3langid")
    assert CHECK.method == "py3langid"
    assert LanguageCheck(Direction("en", "bo")).method == "script"  # Tibetan
    copied = pickle.loads(pickle.dumps(CHECK))
    assert copied == CHECK
    assert len(pickle.dumps(CHECK)) < 1000  # without the model
    assert copied.find_others([TARGET, SOURCE]) == [False, True]


def test_numbered_lines_are_assigned_only_if_all_are_there() -> None:
    assert join_sources(["a", "3. b", "c"], "sentences") == "1. a\n2. 3. b\n3. c"
    whole = [Answer("x"), Answer("3. y"), Answer("z")]
    assert split_answer(Answer("1. x\n2. 3. y\n\n3) z\n"), 3, "sentences") == whole
    assert split_answer(Answer("Here is the translation:\n1. x\n2. 3. y\n3: z"), 3, "sentences") == whole
    assert split_answer(Answer("<think>1. a</think>1. x\n2. 3. y\n3. z"), 3, "sentences") == whole
    for text in (
        "1. x\n2. y",  # two sentences became one, so that no line is safe
        "1. x\n2. y\n3. z\n4. w",
        "1. x\n3. z\n2. y",
        "1. x\n2. y\nand\n3. z",
        "x\ny\nz",
        "1. x\n2. y\n2. z",
        "",
    ):
        assert split_answer(Answer(text), 3, "sentences") == [None] * 3, text


def test_lines_before_the_limit_of_tokens_are_used() -> None:
    assert split_answer(Answer("1. x\n2. y\n3. z", "length"), 4, "sentences") == [Answer("x"), Answer("y"), None, None]
    assert split_answer(Answer("1. x\n2. y", "length"), 2, "sentences") == [Answer("x"), None]
    assert split_answer(Answer("1. x\n2. y\n", "length"), 4, "sentences") == [Answer("x"), Answer("y"), None, None]
    assert split_answer(Answer("1. x\n3. y", "length"), 3, "sentences") == [None] * 3
    assert split_answer(Answer("x\ny", "length"), 2, "paragraph") == [None] * 2


@pytest.mark.parametrize("end", ["3", "3.", "3. ", "- "])
def test_a_list_that_is_cut_within_a_number_keeps_its_whole_lines(end: str) -> None:
    found = split_answer(Answer(f"1. x\n2. y\n{end}", "length"), 4, "sentences")
    assert found == [Answer("x"), Answer("y"), None, None]
    assert split_answer(Answer(f"1. x\n2. y\n{end}"), 4, "sentences") == [None] * 4  # not cut, but of another form


def test_lines_of_a_paragraph_are_assigned_only_if_their_number_is_right() -> None:
    assert join_sources(["a", "b"], "paragraph") == "a\nb"
    assert split_answer(Answer("x\n\ny\n"), 2, "paragraph") == [Answer("x"), Answer("y")]
    assert split_answer(Answer("x y"), 2, "paragraph") == [None] * 2
    assert split_answer(Answer("x\ny\nz"), 2, "paragraph") == [None] * 2
