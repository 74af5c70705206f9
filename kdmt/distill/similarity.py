"""Fast sentence chrF and sentence BLEU of many hypotheses of one sentence, with the same values as sacreBLEU.

sacreBLEU takes one pair at a time and extracts the n-grams of both sides again for each pair. Shapes: H hypotheses, R
references, T texts of either kind, O orders of n-grams.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import cache, lru_cache, partial
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from kdmt.distill.ngram_counts import Symbols
from kdmt.distill.selection import Nearness
from kdmt.score.metrics import bleu_metric

CHAR_ORDER = 6
BETA = 2
WORD_ORDER = 4
MAX_CACHED_WORDS = 200_000  # about 50 MB


# --------------------------------------------------------------------------------------------------------------- chrF


def chrf_nearness(hypotheses: Sequence[str], reference: str) -> list[float]:
    """Return chrF2 of each hypothesis, 0 to 100, with the values of `kdmt.score.metrics.sentence_chrf`."""
    return chrf_matrix(hypotheses, [reference])[:, 0].tolist()


def chrf_matrix(hypotheses: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Return sentence chrF2 (Popović 2015) of each hypothesis against each reference, 0 to 100 [H, R].

    Whitespace is ignored. The memory used is that of `MAX_CELLS` plus about 300 bytes per character.
    """
    indices: dict[str, int] = {}
    rows_H, columns_R = (
        np.array([indices.setdefault("".join(text.split()), len(indices)) for text in texts], dtype=np.int64)
        for texts in (hypotheses, references)
    )
    characters = Symbols.of_characters(list(indices))
    matches_OHR = characters.matches(CHAR_ORDER, rows_H, columns_R)
    totals_OT = characters.totals(CHAR_ORDER)
    return _f_scores(matches_OHR, totals_OT[:, rows_H, None], totals_OT[:, None, columns_R])


def mean_chrf(texts: Sequence[str], weights: Sequence[float]) -> NDArray[np.float64]:
    """Return chrF2 of each text from the mean statistics of its comparisons with all texts, 0 to 100 [T].

    For each order, the matches of a text are Σ_j weight_j matches(text, j), and the n-grams of the reference are
    Σ_j weight_j n-grams(j): both are the exact means of the statistics in `chrf_matrix`, in time and memory linear in
    T. The value is the F-score of the means (reference aggregation: DeNero et al. 2009; Vamvas and Sennrich 2024, who
    clip matches by mean counts instead).

    Args:
        weights: weights of the texts as references, which sum to 1.
    """
    weights_T = np.asarray(weights, dtype=np.float64)
    characters = Symbols.of_characters(["".join(text.split()) for text in texts])
    matches_OT, totals_OT = characters.mean_matches(CHAR_ORDER, weights_T), characters.totals(CHAR_ORDER)
    return _f_scores(matches_OT[:, :, None], totals_OT[:, :, None], (totals_OT @ weights_T)[:, None, None])[:, 0]


def _f_scores(
    matches_OHR: NDArray[np.float64],
    hypothesis_OH1: NDArray[np.integer | np.floating],
    reference_O1R: NDArray[np.integer | np.floating],
) -> NDArray[np.float64]:
    """Return F2 of mean precision and mean recall over the orders for which both texts are long enough [H, R].

    The operations and their order are those of sacreBLEU's `CHRF._compute_f_score` (2.6.0), so that equal scores there
    are equal here.
    """
    num_orders_HR = ((hypothesis_OH1 > 0) & (reference_O1R > 0)).sum(axis=0)
    num_orders_HR = np.maximum(num_orders_HR, 1)
    precision_HR = (matches_OHR / np.maximum(hypothesis_OH1, 1)).sum(axis=0) / num_orders_HR
    recall_HR = (matches_OHR / np.where(reference_O1R > 0, reference_O1R, 1)).sum(axis=0) / num_orders_HR
    factor = BETA**2
    denominator_HR = factor * precision_HR + recall_HR
    denominator_HR[denominator_HR == 0.0] = 1.0
    return 100 * ((1 + factor) * precision_HR * recall_HR / denominator_HR)


# --------------------------------------------------------------------------------------------------------------- BLEU


def bleu_nearness(tokenize: str) -> Nearness:
    """Return a function that computes sentence BLEU, 0 to 100, with the values of `kdmt.score.metrics.sentence_bleu`.

    Args:
        tokenize: name of sacreBLEU's tokenizer: 13a, none, ...
    """
    return partial(_bleu_nearness, tokenize=tokenize)


def _bleu_nearness(hypotheses: Sequence[str], reference: str, *, tokenize: str) -> list[float]:
    cut = _cutter(tokenize)
    reference_words = cut(reference)
    counts = [Counter(_ngrams(reference_words, n)) for n in range(1, WORD_ORDER + 1)]

    @cache
    def score(hypothesis: str) -> float:
        words = cut(hypothesis)
        return _bleu(_word_matches(words, counts), len(words), len(reference_words))

    return [score(hypothesis) for hypothesis in hypotheses]


@cache
def _cutter(tokenize: str) -> Callable[[str], list[str]]:
    """Return a function that splits a line into sacreBLEU's words; with 13a it caches the result of each word."""
    tokenizer = bleu_metric(tokenize=tokenize, lowercase=False).tokenizer

    def cut(line: str) -> list[str]:
        return tokenizer(line.rstrip()).split()

    if tokenize != "13a":
        return cut
    cut_word = lru_cache(maxsize=MAX_CACHED_WORDS)(cut)

    def cut_by_words(line: str) -> list[str]:
        if "\n" in line:  # 13a joins words that are split by a hyphen and a line end
            return cut(line)
        return list(chain.from_iterable(map(cut_word, line.split())))

    return cut_by_words


def _ngrams(words: Sequence[str], n: int) -> list[Hashable]:
    if n == 1:
        return list(words)
    return list(pairwise(words) if n == 2 else zip(*(words[k:] for k in range(n)), strict=False))


def _word_matches(words: Sequence[str], counts: Sequence[Counter[Hashable]]) -> list[int]:
    """Return for each order the number of n-grams that the reference has too, clipped to their counts in it."""
    matches = [0] * WORD_ORDER
    for n, of_reference in enumerate(counts, start=1):
        found = [ngram for ngram in _ngrams(words, n) if ngram in of_reference]
        if not found:
            break  # then the reference has no longer n-gram either
        # usually all n-grams are distinct: then each counts once
        matches[n - 1] = len(found) if len(set(found)) == len(found) else (Counter(found) & of_reference).total()
    return matches


def _bleu(matches: Sequence[int], num_words: int, num_reference: int) -> float:
    """Return BLEU over the effective order with exponential smoothing (Chen and Cherry 2014, method 3).

    The operations and their order are those of sacreBLEU's `BLEU.compute_bleu` (2.6.0), so that equal scores there are
    equal here.
    """
    if not matches[0]:
        return 0.0
    penalty = math.exp(1 - num_reference / num_words) if num_words < num_reference else 1.0
    smoothing = 1.0
    log_precisions = []
    for n, correct in enumerate(matches, start=1):
        total = num_words - n + 1
        if total <= 0:
            break
        if correct == 0:
            smoothing *= 2
        precision = 100.0 * correct / total if correct else 100.0 / (smoothing * total)
        log_precisions.append(math.log(precision))
    return penalty * math.exp(sum(log_precisions) / len(log_precisions))


def bleu_matrix(hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str) -> NDArray[np.float64]:
    """Return sentence BLEU of each hypothesis against each reference, 0 to 100 [H, R]. See `bleu_nearness`."""
    indices: dict[str, int] = {}
    rows_H, columns_R = (
        np.array([indices.setdefault(text, len(indices)) for text in texts], dtype=np.int64)
        for texts in (hypotheses, references)
    )
    words = _words(list(indices), tokenize)
    matches_OHR = words.matches(WORD_ORDER, rows_H, columns_R)
    return _bleu_of_statistics(matches_OHR, words.lengths_T[rows_H][:, None], words.lengths_T[columns_R][None])


def mean_bleu(texts: Sequence[str], weights: Sequence[float], *, tokenize: str) -> NDArray[np.float64]:
    """Return BLEU of each text from the mean statistics of its comparisons with all texts, 0 to 100 [T].

    The matches of each order and the length of the reference are the means in `bleu_matrix`. See `mean_chrf`.
    """
    weights_T = np.asarray(weights, dtype=np.float64)
    words = _words(texts, tokenize)
    matches_OT = words.mean_matches(WORD_ORDER, weights_T)
    reference = np.array([[words.lengths_T @ weights_T]])
    return _bleu_of_statistics(matches_OT[:, :, None], words.lengths_T[:, None], reference)[:, 0]


def _words(texts: Sequence[str], tokenize: str) -> Symbols:
    cut = _cutter(tokenize)
    return Symbols.of_words([cut(text) for text in texts])


def _bleu_of_statistics(
    matches_OHR: NDArray[np.float64],
    words_H1: NDArray[np.integer],
    reference_1R: NDArray[np.integer | np.floating],
) -> NDArray[np.float64]:
    """Compute `_bleu` of arrays of statistics [H, R]."""
    log_sum_HR, smoothing_HR = np.zeros(matches_OHR.shape[1:]), np.ones(matches_OHR.shape[1:])
    for n, matches_HR in enumerate(matches_OHR, start=1):
        total_H1 = np.maximum(words_H1 - n + 1, 0)
        is_zero_HR = matches_HR == 0
        smoothing_HR = np.where(is_zero_HR, smoothing_HR * 2, smoothing_HR)
        correct_HR = np.where(is_zero_HR, 1 / smoothing_HR, matches_HR)
        precision_HR = 100.0 * correct_HR / np.maximum(total_H1, 1)
        log_sum_HR += np.where(total_H1 > 0, np.log(precision_HR), 0.0)
    orders_H1 = np.clip(words_H1, 1, WORD_ORDER)
    penalty_HR = np.exp(np.minimum(1 - reference_1R / np.maximum(words_H1, 1), 0.0))
    return np.where(matches_OHR[0] > 0, penalty_HR * np.exp(log_sum_HR / orders_H1), 0.0)
