"""Tests of chrF and BLEU of many hypotheses at once: the values equal sacreBLEU's of each pair exactly."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.distill import ngram_counts
from kdmt.distill.similarity import bleu_matrix, bleu_nearness, chrf_matrix, chrf_nearness, mean_bleu, mean_chrf
from kdmt.score.metrics import bleu_metric, chrf_metric, sentence_bleu, sentence_chrf

WORDS = [
    "a",
    "ab",
    "aba",
    "Haus",
    "haus.",
    "größer",
    "3.5",
    "1,",
    "-",
    "x-3",
    "3-x",
    "ひら",
    "😀",
    "&quot;b",
    "U.S.",
    "?!",
]
lines = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text("ab .", max_size=20)
# difficult for a tokenizer: entities, line ends, other spaces, digits next to punctuation
any_line = lines | st.text("aé1. ,-'\"&;<>\t\n\r\u00a0\u2028()$€", max_size=20) | st.text(max_size=12)


def chrf_by_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    scores = [[sentence_chrf(hypothesis, reference).value for reference in references] for hypothesis in hypotheses]
    return np.array(scores).reshape(len(hypotheses), len(references))


@settings(max_examples=80)
@given(st.lists(any_line, max_size=5), st.lists(any_line, max_size=5))
def test_chrf_matrix_equals_single_pairs(hypotheses: list[str], references: list[str]) -> None:
    assert np.array_equal(chrf_matrix(hypotheses, references), chrf_by_pairs(hypotheses, references))


@given(st.lists(any_line, min_size=1, max_size=6))
def test_chrf_of_all_pairs_of_a_list(texts: list[str]) -> None:
    assert np.array_equal(chrf_matrix(texts, texts), chrf_by_pairs(texts, texts))


@given(st.lists(lines, min_size=1, max_size=4), st.integers(1, 200))
def test_chrf_does_not_depend_on_max_cells(texts: list[str], max_cells: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_counts, "MAX_CELLS", max_cells)
        assert np.array_equal(chrf_matrix(texts, texts), chrf_by_pairs(texts, texts))


def test_chrf_of_large_alphabets() -> None:
    """Up to 2000 different characters are used; ten bits per character hold 1023."""
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 2000)))
    for size in (1022, 1023, 1024, 2000):
        texts = [many[:size], many[5 : size - 3] + "ab", "ab" + many[size - 9 : size]]
        assert np.array_equal(chrf_matrix(texts, texts), chrf_by_pairs(texts, texts)), size


def test_chrf_of_no_text() -> None:
    assert chrf_matrix([], []).shape == (0, 0)
    assert chrf_matrix(["a"], []).shape == (1, 0)
    assert chrf_nearness([], "a") == []


@given(st.lists(any_line, max_size=4), any_line)
def test_chrf_against_a_reference(hypotheses: list[str], reference: str) -> None:
    expected = [sentence_chrf(hypothesis, reference).value for hypothesis in hypotheses]
    assert chrf_nearness(hypotheses, reference) == expected


@pytest.mark.parametrize("tokenize", ["13a", "none", "intl"])
@settings(max_examples=80)
@given(hypotheses=st.lists(any_line, max_size=4), reference=any_line)
def test_bleu_against_a_reference(tokenize: str, hypotheses: list[str], reference: str) -> None:
    expected = [sentence_bleu(hypothesis, reference, tokenize=tokenize).value for hypothesis in hypotheses]
    assert bleu_nearness(tokenize)(hypotheses, reference) == expected


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=14).map(" ".join), max_size=4))
def test_bleu_of_repeated_words(texts: list[str]) -> None:
    for reference in texts:
        expected = [sentence_bleu(text, reference, tokenize="none").value for text in texts]
        assert bleu_nearness("none")(texts, reference) == expected


def test_functions_can_be_pickled() -> None:
    for nearness in (bleu_nearness("13a"), chrf_nearness):
        assert pickle.loads(pickle.dumps(nearness))(["a b c", "c d"], "c d") == nearness(["a b c", "c d"], "c d")


# ------------------------------------------------------------------------------------------------- lists of candidates


@settings(max_examples=60)
@given(st.lists(any_line, min_size=1, max_size=5), st.lists(any_line, max_size=4))
def test_bleu_matrix_equals_single_pairs(texts: list[str], others: list[str]) -> None:
    expected = [[sentence_bleu(text, other).value for other in others] for text in texts]
    found = bleu_matrix(texts, others, tokenize="13a")
    assert found.shape == (len(texts), len(others))
    np.testing.assert_allclose(found, np.array(expected).reshape(found.shape), rtol=1e-12)


def weights_of(count: int) -> st.SearchStrategy[list[float]]:
    numbers = st.lists(st.integers(1, 9), min_size=count, max_size=count)
    return numbers.map(lambda drawn: [number / sum(drawn) for number in drawn])


@given(st.lists(any_line, min_size=1, max_size=5), st.data())
def test_aggregated_chrf_is_the_f_score_of_the_mean_statistics_of_all_pairs(
    texts: list[str], data: st.DataObject
) -> None:
    weights = data.draw(weights_of(len(texts)))
    metric = chrf_metric(lowercase=False)
    expected = []
    for text in texts:
        # per order: n-grams of the hypothesis, n-grams of the reference, matches
        pairs = [metric._extract_corpus_statistics([text], [[other]])[0] for other in texts]
        totals = [max(len("".join(other.split())) - n, 0) for other in texts for n in range(6)]
        mean = np.average(np.array(pairs, dtype=float), axis=0, weights=weights)
        # sacreBLEU sets the counts of orders without a match in a short text to zero
        mean[1::3] = np.average(np.array(totals, dtype=float).reshape(len(texts), 6), axis=0, weights=weights)
        mean[0::3] = [max(len("".join(text.split())) - n, 0) for n in range(6)]
        expected.append(metric._compute_f_score(mean.tolist()))
    np.testing.assert_allclose(mean_chrf(texts, weights), expected, atol=1e-9)


def bleu_by_hand(matches: list[float], totals: list[float], length: float, reference: float) -> float:
    if matches[0] == 0:
        return 0.0
    logs, zeros = [], 0
    for matched, total in zip(matches, totals, strict=True):
        if total > 0:
            zeros += matched == 0
            logs.append(math.log((matched or 1 / 2**zeros) / total))
    return 100 * math.exp(sum(logs) / len(logs) + min(1 - reference / length, 0))


@given(st.lists(lines, min_size=1, max_size=5), st.data())
def test_aggregated_bleu_is_that_of_the_mean_statistics_of_all_pairs(texts: list[str], data: st.DataObject) -> None:
    weights = data.draw(weights_of(len(texts)))
    metric = bleu_metric(tokenize="13a", lowercase=False, effective_order=True)
    expected = []
    for text in texts:
        pairs = [metric._extract_corpus_statistics([text], [[other]])[0] for other in texts]
        length, reference, *counts = np.average(np.array(pairs, dtype=float), axis=0, weights=weights).tolist()
        expected.append(bleu_by_hand(counts[:4], counts[4:], length, reference))
    np.testing.assert_allclose(mean_bleu(texts, weights, tokenize="13a"), expected, rtol=1e-9, atol=1e-9)


def test_aggregation_of_equal_texts_is_their_similarity() -> None:
    assert mean_chrf(["ab c", "abc"], [0.5, 0.5]).tolist() == [100.0, 100.0]
    assert mean_bleu(["a b c d"] * 2, [0.5, 0.5], tokenize="none").tolist() == pytest.approx([100.0, 100.0])
    assert mean_chrf(["", ""], [0.5, 0.5]).tolist() == [0.0, 0.0]
