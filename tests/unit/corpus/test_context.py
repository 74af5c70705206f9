"""Tests of the context of sentences: joining, splitting, documents, reading and cleaning."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from tiny_pipeline import read_lines, write_lines

from kdmt.config import Clean, Context, ParallelText, Text
from kdmt.corpus.clean import clean_corpora
from kdmt.corpus.context import Document, join_context, map_sentences, split_context, without_context
from kdmt.corpus.first_pass import TrainingCorpus
from kdmt.corpus.reading import Documents, read_pairs
from kdmt.corpus.text import TextProcessor
from kdmt.errors import UserError
from kdmt.languages import Direction

ONE, TWO = Context(), Context(sentences=2)
EN_DE = Direction("en", "de")


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_previous_sentence_comes_before_the_sentence() -> None:
    """Check the form of Tiedemann & Scherrer (2017): the extended source, with a separator."""
    assert join_context(["It rained ."], "We stayed in .", ONE) == "It rained . <sep> We stayed in ."
    assert join_context([], "It rained .", ONE) == "<sep> It rained ."
    assert join_context(["a", "b", "c"], "d", TWO) == "b <sep> c <sep> d"
    assert join_context(["a"], "d", TWO) == "a <sep> d"
    assert join_context(["a"], "", ONE) == ""
    assert join_context(["a <sep> b"], "<sep> c", ONE) == "a   b <sep>   c"
    assert join_context(["a"], "<sep>", ONE) == " "


@pytest.mark.parametrize("previous", [[], ["a b"], ["a b", "c"]])
def test_a_line_is_split_into_the_sentences_that_it_was_joined_from(previous: list[str]) -> None:
    assert split_context(join_context(previous, "d e", TWO), TWO) == (previous, "d e")


def test_a_line_without_a_separator_is_a_sentence() -> None:
    assert split_context("a b ", ONE) == ([], "a b ")
    assert without_context("x <sep> a b", ONE) == "a b"
    assert without_context("x <sep> a b", None) == "x <sep> a b"
    assert map_sentences(str.upper, "a b", ONE) == "<sep> A B"
    assert map_sentences(str.upper, "x y <sep> a b", ONE) == "X Y <sep> A B"


def test_a_document_begins_after_a_line_without_words() -> None:
    lines = ["a", "b", "c", " ", "d", "", "", "e"]
    assert Document(ONE).add_lines(lines) == ["<sep> a", "a <sep> b", "b <sep> c", " ", "<sep> d", "", "", "<sep> e"]
    document = Document(TWO)
    assert document.add_lines(lines[:2]) == ["<sep> a", "a <sep> b"]
    assert document.add_lines(["c", "d"]) == ["a <sep> b <sep> c", "b <sep> c <sep> d"]


def test_a_separator_in_the_text_is_no_separator() -> None:
    assert Document(ONE).add_lines(["a <sep> b", "c<sep>d"]) == ["<sep> a   b", "a   b <sep> c d"]


def test_text_processing_applies_to_each_sentence_and_is_recorded() -> None:
    processor = TextProcessor(Text(moses=True, lowercase=True), "en", "de", "NFC", context=ONE)
    line = processor.preprocess_source("It rained.  <sep>  We stayed in.")
    assert line == "it rained . <sep> we stayed in ."
    assert processor.postprocess_source(line) == "we stayed in."
    assert processor.preprocess_source("We stayed in.") == "<sep> we stayed in ."
    assert processor.preprocess_target("Wir blieben.") == "wir blieben ."
    assert TextProcessor.from_dict(processor.to_dict()) == processor
    assert "context" not in TextProcessor(Text(), "en", "de").to_dict()
    with pytest.raises(UserError, match="sentences"):
        TextProcessor.from_dict(processor.to_dict() | {"context": {"sentences": 0}})


# ------------------------------------------------------------------------------------------------------------ reading


def read(sources: list[str], targets: list[str], *, names: list[str] | None = None, **settings: object) -> list[str]:
    """Return the sources of a corpus with their contexts; the files are in the current folder."""
    write_lines(Path("a.en"), sources)
    write_lines(Path("a.de"), targets)
    text = {"source": {"path": "a.en"}, "target": {"path": "a.de"}, **settings}
    if names is not None:
        write_lines(Path("names"), names)
        text["documents"] = {"path": "names"}
    corpus = ParallelText.model_validate(text)
    documents = Documents(ONE, None if names is None else Path("names"))
    return [source for source, _ in read_pairs(corpus, [Path("a.en"), Path("a.de")], EN_DE, documents=documents)]


@pytest.mark.usefixtures("empty_folder")
def test_documents_end_at_empty_lines() -> None:
    assert read(["a", "b", "", "c", "d"], ["1", "2", "", "3", "4"]) == ["<sep> a", "a <sep> b", "<sep> c", "c <sep> d"]


@pytest.mark.usefixtures("empty_folder")
def test_a_line_that_is_empty_on_one_side_does_not_end_a_document() -> None:
    assert read(["a", "", "c"], ["1", "2", "3"]) == ["<sep> a", "", "a <sep> c"]
    assert read(["a", "b", "c"], ["1", "", "3"]) == ["<sep> a", "a <sep> b", "b <sep> c"]


@pytest.mark.usefixtures("empty_folder")
def test_documents_end_where_their_names_change() -> None:
    lines = ["a", "b", "c", "d"]
    assert read(lines, lines, names=["x", "x", "y", "x"]) == ["<sep> a", "a <sep> b", "<sep> c", "<sep> d"]


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize("names", [["x"], ["x", "x", "x"]])
def test_there_is_a_name_for_each_line(names: list[str]) -> None:
    with pytest.raises(UserError, match="names has "):
        read(["a", "b"], ["1", "2"], names=names)


@pytest.mark.usefixtures("empty_folder")
def test_selected_pairs_keep_the_context_of_the_lines_of_the_file() -> None:
    lines = ["a", "b", "c", "d"]
    assert read(lines, lines, only_every=2) == ["a <sep> b", "c <sep> d"]
    assert read(lines, lines, except_every=2) == ["<sep> a", "b <sep> c"]


@pytest.mark.usefixtures("empty_folder")
def test_a_source_with_the_separator_is_refused() -> None:
    with pytest.raises(UserError, match=r"a\.en line 2: .*'<sep>'.*prepare\.context\.separator"):
        read(["a", "b <sep> c"], ["1", "2"])


@pytest.mark.usefixtures("empty_folder")
def test_a_line_that_cannot_be_read_is_no_context() -> None:
    Path("a.en").write_bytes(b"a\nb\n\xff\nc\nd\n")
    write_lines(Path("a.de"), list("12345"))
    sides = {"source": {"path": "a.en"}, "target": {"path": "a.de"}, "malformed": "drop"}
    corpus = ParallelText.model_validate(sides)
    found = read_pairs(corpus, [Path("a.en"), Path("a.de")], EN_DE, documents=Documents(ONE))
    assert list(found) == [("<sep> a", "1"), ("a <sep> b", "2"), ("<sep> c", "4"), ("c <sep> d", "5")]


@pytest.mark.usefixtures("empty_folder")
def test_markup_names_its_documents() -> None:
    for name, kind, texts in (("a.sgm", "srcset", "abcd"), ("b.sgm", "refset", "1234")):
        segments = [f'<seg id="{number % 2 + 1}">{text}</seg>' for number, text in enumerate(texts)]
        documents = [f'<doc docid="{i}">{"".join(segments[2 * i : 2 * i + 2])}</doc>' for i in range(2)]
        Path(name).write_text(f"<{kind}>{''.join(documents)}</{kind}>", encoding="utf-8")
    corpus = ParallelText.model_validate({"source": {"path": "a.sgm"}, "target": {"path": "b.sgm"}})
    found = read_pairs(corpus, [Path("a.sgm"), Path("b.sgm")], EN_DE, documents=Documents(ONE))
    assert [source for source, _ in found] == ["<sep> a", "a <sep> b", "<sep> c", "c <sep> d"]


# ----------------------------------------------------------------------------------------------------------- cleaning


def clean(pairs: list[tuple[str, str]], settings: Clean | Literal["none"]) -> list[tuple[str, str]]:
    """Return cleaned pairs; the files are in the current folder."""
    clean_corpora(
        [TrainingCorpus("corpus", pairs)],
        clean=settings,
        forbidden=None,
        out_source=Path("source"),
        out_target=Path("target"),
        out_tags=Path("tags"),
        workdir=Path("work"),
        context=ONE,
    )
    return list(zip(read_lines(Path("source")), read_lines(Path("target")), strict=True))


@pytest.mark.usefixtures("empty_folder")
def test_a_dropped_pair_is_still_the_context_of_the_next_one() -> None:
    pairs = [("<sep> one two three", "1 2 3"), ("one two three <sep> a", "A"), ("a <sep> b c", "B C")]
    assert clean(pairs, Clean(max_words=2)) == [("one two three <sep> a", "A"), ("a <sep> b c", "B C")]


@pytest.mark.usefixtures("empty_folder")
def test_rules_judge_the_sentence_without_its_context() -> None:
    long = "word " * 40
    pairs = [(f"{long}<sep> house door", "haus tür"), (f"{long}<sep> same", "same"), ("<sep> a b c", "A B C")]
    assert clean(pairs, Clean(max_words=3)) == [
        (f"{long.strip()} <sep> house door", "haus tür"),
        ("<sep> a b c", "A B C"),
    ]


@pytest.mark.usefixtures("empty_folder")
def test_pairs_with_different_contexts_are_no_duplicates() -> None:
    pairs = [("x <sep> it falls", "er fällt"), ("y <sep> it falls", "er fällt"), ("x <sep> it falls", "er fällt")]
    assert clean(pairs, Clean()) == pairs[:2]


@pytest.mark.usefixtures("empty_folder")
def test_the_sentences_of_a_context_are_cleaned_as_sources_are() -> None:
    pairs = [("caf\u0065\u0301   noir <sep> a\u200b  b", "A  B")]
    assert clean(pairs, Clean()) == [("caf\u00e9 noir <sep> a b", "A B")]


@pytest.mark.usefixtures("empty_folder")
def test_without_cleaning_lines_are_unchanged() -> None:
    pairs = [("x  y <sep> a", "A"), ("", "")]
    assert clean(pairs, "none") == pairs


@pytest.mark.usefixtures("empty_folder")
def test_a_rule_that_writes_the_separator_does_not_shift_contexts() -> None:
    pairs = [("x <sep> a &lt;sep&gt; b", "A B")]
    assert clean(pairs, Clean.model_validate({"rules": [{"entities": {}}]})) == [("x <sep> a   b", "A B")]
