import gzip
import itertools
import json
import pickle
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.config import Text
from kdmt.corpus.clean import clean_line
from kdmt.corpus.rules.tidying import Invisible, Normalization, Whitespace
from kdmt.corpus.text import TextProcessor
from kdmt.errors import UserError
from kdmt.languages import Direction

MULTI30K = Path(__file__).parents[3] / "../shared/data/multi30k"

moses = Text(normalize=True, moses=True)
lines = st.text(st.characters(codec="utf-8", exclude_characters="\n"))


def test_text_is_unchanged_by_default() -> None:
    processor = TextProcessor(Text(), "en", "de")
    for line in ("  Ein „Test“ , A.  ", "", "a\u2028b"):
        assert processor.preprocess_source(line) == line
        assert processor.preprocess_target(line) == line
        assert processor.postprocess_target(line) == line


def test_each_step_alone() -> None:
    raw = "Er sagt: „Ja!“"
    assert TextProcessor(Text(lowercase=True), "de", "en").preprocess_source(raw) == "er sagt: „ja!“"
    assert TextProcessor(Text(normalize=True), "de", "en").preprocess_source(raw) == 'Er sagt: "Ja!"'
    assert TextProcessor(Text(moses=True), "de", "en").preprocess_source(raw) == "Er sagt : „ Ja ! “"


def test_each_side_is_processed_with_the_rules_of_its_language() -> None:
    processor = TextProcessor(moses, "en", "fr")
    assert processor.preprocess_source("It's Tom's.") == "It 's Tom 's ."
    assert processor.preprocess_target("L'homme s'en va.") == "L' homme s' en va ."
    assert processor.postprocess_target("L' homme s' en va .") == "L'homme s'en va."
    assert processor.postprocess_source("It 's Tom 's .") == "It's Tom's."
    assert TextProcessor(Text(lowercase=True), "en", "fr").postprocess_source("it 's .") == "it 's ."


def test_words_of_a_target_have_one_space_between_them() -> None:
    assert TextProcessor(moses, "en", "fr").target_words("  L'homme\u2003s'en  va.\u00a0") == "L' homme s' en va ."
    assert TextProcessor(Text(), "en", "fr").target_words(" \t ") == ""


def test_rules_of_three_letter_codes_and_unknown_languages() -> None:
    line = "It's No. 5, l'homme z.B. hier"
    german = TextProcessor(moses, "de", "en").preprocess_source(line)
    english = TextProcessor(moses, "en", "de").preprocess_source(line)
    assert german != english
    assert TextProcessor(moses, "deu", "en").preprocess_source(line) == german
    assert TextProcessor(moses, "sw", "en").preprocess_source(line) == english
    assert TextProcessor(moses, "qaa", "qtz").preprocess_source(line) == english


RULES = {form: (Invisible(), Normalization(form), Whitespace()) for form in ("NFC", "NFKC", "none")}


@given(st.text(st.sampled_from("aé กข็ខ។1,\u0301\u200b\u2060\ufeff\u00ad\u200f\x96\x00\t\u00a0"), max_size=20))
def test_raw_lines_are_cleaned_like_training_text(line: str) -> None:
    for form, rules in RULES.items():
        processor = TextProcessor(Text(), "th", "km", form)
        assert processor.preprocess_source(line) == clean_line(line, rules, Counter())
        assert processor.preprocess_target(line) == clean_line(line, rules, Counter())


def test_xml_entities_are_used_only_if_moses_was_already_applied() -> None:
    raw = 'Tom\'s "R&B" <b>'
    ours = TextProcessor(Text(moses=True), "en", "en")
    theirs = TextProcessor(Text(moses=True, already_applied=True), "en", "en")
    assert ours.preprocess_source(raw) == 'Tom \'s " R & B " < b >'
    assert theirs.preprocess_source(raw) == "Tom &apos;s &quot; R &amp; B &quot; &lt; b &gt;"
    assert theirs.postprocess_target("Tom &apos;s &quot; hat &quot; .") == 'Tom\'s "hat".'
    assert ours.postprocess_target("write &quot; so .") == "write &quot; so."


@pytest.mark.parametrize(
    "line",
    [
        "Two young, White males are outside near many bushes.",
        "A man who's tall costs $3,000.50 (or so).",
        'He said "well-known" things; didn\'t he?',
    ],
)
def test_detokenising_undoes_tokenising(line: str) -> None:
    processor = TextProcessor(Text(moses=True), "de", "en")
    assert processor.postprocess_target(processor.preprocess_target(line)) == line


@cache  # building a tokenizer is slow
def processor_of(lang: str, *, already_applied: bool) -> TextProcessor:
    text = Text(normalize=True, moses=True, lowercase=True, already_applied=already_applied)
    return TextProcessor(text, lang, lang)


@settings(max_examples=40, deadline=None)
@given(lines, st.sampled_from(["en", "de", "fr", "cs", "fi", "zh", "ko", "qaa"]))
def test_processing_adds_no_line_endings(line: str, lang: str) -> None:
    for already_applied in (False, True):
        processor = processor_of(lang, already_applied=already_applied)
        tokenised = processor.preprocess_target(line)
        assert "\n" not in tokenised
        assert tokenised == " ".join(tokenised.split())
        assert "\n" not in processor.postprocess_target(tokenised)


def test_czech_tokens_that_raise_an_error_in_sacremoses() -> None:
    assert TextProcessor(moses, "en", "cs").postprocess_target("e' - mail") == "e' - mail"


@given(st.builds(Text, normalize=st.booleans(), moses=st.booleans(), lowercase=st.booleans()))
def test_dict_and_pickle_round_trips(text: Text) -> None:
    processor = TextProcessor(text, "en", "de")
    assert TextProcessor.from_dict(json.loads(json.dumps(processor.to_dict()))) == processor
    assert pickle.loads(pickle.dumps(processor)) == processor


def test_from_dict_refuses_unknown_and_invalid_keys() -> None:
    good = TextProcessor(Text(), "en", "de").to_dict()
    for bad in ({**good, "truecase": True}, {**good, "text": {"mose": True}}, {**good, "text": {"moses": 1}}):
        with pytest.raises(UserError, match="text processing"):
            TextProcessor.from_dict(bad)


def test_a_model_of_several_directions_is_none_of_one_direction() -> None:
    wanted, several = Direction("en", "de"), (Direction("en", "de"), Direction("en", "fr"))
    TextProcessor(Text(), "eng", "de").check_direction(wanted, "model")
    with pytest.raises(UserError, match=r"^a: model translates de to en, not en to de$"):
        TextProcessor(Text(), "de", "en").check_direction(wanted, "a: model")
    with pytest.raises(UserError, match=r"^model begins sources with language tokens \(en-de, en-fr\): give a model"):
        TextProcessor(Text(), "src", "tgt", directions=several).check_direction(wanted, "model")


@pytest.mark.skipif(not MULTI30K.is_dir(), reason="../shared/data/multi30k is not here")
@pytest.mark.parametrize("lang", ["en", "de"])
def test_output_on_multi30k_equals_the_perl_scripts_of_moses(lang: str) -> None:
    """Compare with the processed files of the authors of Multi30k, made with the Perl scripts of Moses."""
    text = Text(normalize=True, moses=True, lowercase=True, already_applied=True)
    processor = TextProcessor(text, lang, lang)
    with (
        gzip.open(MULTI30K / f"raw/train.{lang}.gz", "rt", encoding="utf-8", newline="\n") as raw,
        gzip.open(MULTI30K / f"tok/train.lc.norm.tok.{lang}.gz", "rt", encoding="utf-8", newline="\n") as tokenised,
    ):
        pairs = list(itertools.islice(zip(raw, tokenised, strict=True), 1000))
    same = sum(processor.preprocess_source(line.rstrip("\n")) == theirs.rstrip("\n") for line, theirs in pairs)
    assert same >= 995
