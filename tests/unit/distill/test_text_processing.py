"""Tests of text for language models, and of their answers as words of a corpus."""

from __future__ import annotations

import pickle

import numpy as np

from kdmt.config import Text
from kdmt.corpus.text import TextProcessor
from kdmt.distill.llm_answers import Answer, LanguageCheck
from kdmt.distill.text_ids import count_marks, decode_text
from kdmt.distill.text_processing import TextDecoder, TextEncoder, text_hypotheses
from kdmt.languages import Direction

EN_DE = Direction("en", "de")


def test_sources_are_detokenised_and_answers_are_processed_like_the_data() -> None:
    processor = TextProcessor(Text(moses=True, lowercase=True), "en", "de")
    encode, decode = (pickle.loads(pickle.dumps(each)) for each in (TextEncoder(processor), TextDecoder(processor)))
    (ids,) = encode(["a dog , a cat !"])
    assert decode_text(ids) == "a dog, a cat!"
    found = text_hypotheses([[Answer("Ein Hund, eine Katze!")], [Answer("")]], ["a dog", "x"], LanguageCheck(EN_DE))
    tokens = [np.array(own.tokens, dtype=np.int64) for nbest in found for own in nbest]
    sizes = np.array([*map(len, tokens)], dtype=np.int32)
    assert decode(np.concatenate(tokens), sizes) == ["ein hund , eine katze !", ""]


def test_hypotheses_keep_their_sources_and_their_order() -> None:
    answers = [[Answer("eins"), Answer('"zwei"')], [], [Answer("drei", "length")]]
    found = text_hypotheses(answers, ["one", "two", "three"], LanguageCheck(EN_DE))
    texts = [[decode_text(np.array(own.tokens)) for own in nbest] for nbest in found]
    assert texts == [["eins", "zwei"], [], ["drei"]]
    marks = [[count_marks(np.array(own.tokens)) for own in nbest] for nbest in found]
    assert marks == [[{}, {"removed_quotes": 1}], [], [{"truncated": 1}]]
