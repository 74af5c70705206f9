"""Tests of fairseq-generate's output lines and BLEU, against values worked out by hand and sacreBLEU."""

from __future__ import annotations

import math

import pytest
from sacrebleu.metrics.bleu import BLEU

from kdmt.corpus.vocabulary import Dictionary
from kdmt.interop.fairseq.output import TokenBleu, base_2, hypothesis_lines, spell, spell_reference
from kdmt.types import BOS, EOS, PAD, UNK, Hypothesis

WORDS = Dictionary.from_counts({"a": 3, "b": 2, "c": 1}, padding_factor=1)
A, B, C = 4, 5, 6


def test_tokens_are_spelled_without_special_symbols() -> None:
    assert spell(WORDS, [PAD, BOS, A, UNK, C, EOS]) == "a <unk> c"
    assert spell_reference(WORDS, [A, UNK, C, EOS]) == "a <<unk>> c"
    assert spell_reference(WORDS, [A, B, EOS]) == "a b"
    assert spell(WORDS, [EOS]) == ""


def test_scores_are_logarithms_to_base_2() -> None:
    assert base_2(math.log(0.25)) == pytest.approx(-2.0)
    assert base_2(0.0) == 0.0


def test_lines_of_a_hypothesis() -> None:
    hypothesis = Hypothesis((A, B), math.log(0.5), (math.log(0.5), math.log(0.25), 0.0))
    lines = hypothesis_lines(7, hypothesis, "a@@ b", "ab")
    assert [line.split("\t")[0] for line in lines] == ["H-7", "D-7", "P-7"]
    assert lines[0].split("\t")[2] == "a@@ b"
    assert lines[1].split("\t")[2] == "ab"
    assert float(lines[0].split("\t")[1]) == pytest.approx(-1.0)
    assert lines[2] == "P-7\t-1.0000 -2.0000 0.0000"
    assert len(hypothesis_lines(7, Hypothesis((A,), 0.0), "a", "a")) == 2  # an engine without log-probabilities


def test_bleu_equals_sacrebleu_without_smoothing_and_tokenizer() -> None:
    hypotheses = ["a b c d e f", "c c d e a b c"]
    references = ["a b c d f e g", "c d e a b c c"]
    expected = BLEU(tokenize="none", smooth_method="none", force=True).corpus_score(hypotheses, [references])
    shown = str(TokenBleu.of(hypotheses, references))
    assert shown.startswith(f"BLEU4 = {expected.score:.2f}, ")
    assert "/".join(f"{each:.1f}" for each in expected.precisions) in shown
    assert f"BP={expected.bp:.3f}" in shown
    assert f"syslen={expected.sys_len}, reflen={expected.ref_len}" in shown


def test_unknown_word_in_reference_never_matches() -> None:
    same = TokenBleu.of(["a <unk> b"], ["a <unk> b"])
    assert (same.matches[0], same.counts[0]) == (2, 3)
    assert str(TokenBleu.of(["x"], ["y"])).startswith("BLEU4 = 0.00")


def test_empty_line_counts_as_one_word() -> None:
    bleu = TokenBleu.of(["", "a"], ["a", ""])
    assert (bleu.hypothesis_words, bleu.reference_words, bleu.matches[0]) == (2, 2, 0)
