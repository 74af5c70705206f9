"""Fast sentence chrF and sentence BLEU of many hypotheses of one sentence, with the same values as sacreBLEU.

sacreBLEU takes one pair at a time and extracts the n-grams of both sides again for each pair. Shapes: H hypotheses, R
references, T texts of either kind, C characters of all texts, O = 6 orders of n-grams.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from kdmt.distill.ngram_counts import (
    MAX_CELLS,
    NgramColumns,
    first_of_run,
    ngram_columns,
    symbols_of,
)
from kdmt.distill.selection import Nearness
from kdmt.score.metrics import bleu_metric

CHAR_ORDER = 6
BETA = 2
WORD_ORDER = 4
MAX_CACHED_WORDS = 200_000  # about 50 MB
_FEW_TEXTS = 24  # for which one product of the matrices of all orders is faster


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
    texts = list(indices)
    if len(texts) <= _FEW_TEXTS:
        matches_OHR = _count_matches(texts)[:, rows_H][:, :, columns_R]
    else:
        matches_OHR = np.stack([columns.matches(rows_H, columns_R) for columns in _char_columns(texts)])
    totals_OT = _char_totals(texts)
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
    squeezed = ["".join(text.split()) for text in texts]
    totals_OT = _char_totals(squeezed)
    matches_OT = np.stack([columns.mean_matches(weights_T) for columns in _char_columns(squeezed)])
    return _f_scores(matches_OT[:, :, None], totals_OT[:, :, None], (totals_OT @ weights_T)[:, None, None])[:, 0]


def _char_totals(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of n-grams of each text by order [O, T]."""
    lengths_T = np.array([len(text) for text in texts], dtype=np.int64)
    return np.maximum(lengths_T - np.arange(CHAR_ORDER)[:, None], 0)


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


def _count_matches(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return for each order the number of n-grams that two texts share, with multiplicity [O, T, T].

    This is `NgramColumns.matches` of all orders at once, which is faster for few texts.
    """
    characters = _Characters.of(texts)
    if not characters.fit:
        every = np.arange(len(texts))
        return np.stack([columns.matches(every, every) for columns in _char_columns(texts)])
    if not len(characters.ranks_C):
        return np.zeros((CHAR_ORDER, len(texts), len(texts)))
    text_C, column_OC, whole_OC = _window_columns(characters)
    row_OC = text_C + len(texts) * np.arange(CHAR_ORDER)[:, None]
    matches_OTT = np.zeros((CHAR_ORDER, len(texts), len(texts)))
    width = max(min(MAX_CELLS // (CHAR_ORDER * len(texts)), len(text_C)), 1)
    for start in range(0, len(text_C), width):
        here_OC = whole_OC & (column_OC >= start) & (column_OC < start + width)
        has = np.zeros(CHAR_ORDER * len(texts) * width + 1, dtype=np.float32)
        has[np.where(here_OC, row_OC * width + (column_OC - start), -1)] = 1.0  # all others: the last cell, not used
        has_OTW = has[:-1].reshape(CHAR_ORDER, len(texts), width)
        matches_OTT += has_OTW @ has_OTW.transpose(0, 2, 1)
    return matches_OTT


def _char_columns(texts: Sequence[str]) -> list[NgramColumns]:
    """Return the n-grams of characters of each order."""
    characters = _Characters.of(texts)
    if not characters.fit or not len(characters.ranks_C):
        return ngram_columns(characters.ranks_C, characters.text_C, len(texts), CHAR_ORDER)
    text_C, column_OC, whole_OC = _window_columns(characters)
    return [
        NgramColumns(text_C[whole_C], column_C[whole_C], len(text_C), len(texts))
        for column_C, whole_C in zip(column_OC, whole_OC, strict=True)
    ]


@dataclass(frozen=True)
class _Characters:
    """The characters of all texts, one text after the other.

    Attributes:
        ranks_C: rank of each character in the alphabet, from 0.
        text_C: index of the text of each character.
        bits: number of bits of a rank from 1.
    """

    ranks_C: NDArray[np.int64]
    text_C: NDArray[np.int64]
    bits: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Characters:
        codes_C = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
        alphabet = np.unique(codes_C)
        lengths_T = np.array([len(text) for text in texts], dtype=np.int64)
        ranks_C = np.searchsorted(alphabet, codes_C)
        return cls(ranks_C, np.repeat(np.arange(len(texts)), lengths_T), len(alphabet).bit_length())

    @property
    def fit(self) -> bool:
        """Return whether six characters fit into 63 bits."""
        return self.bits * CHAR_ORDER <= 63


def _window_columns(characters: _Characters) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the columns of all orders by one sort: an n-gram is the prefix of a window.

    If c windows in all texts have the same prefix, the k-th of them in a text is assigned to the column (index of the
    first of the c windows) + k. Since k < c, no other n-gram uses that column.

    Returns:
        The text of each n-gram [C], its column in each order [O, C], and a mask without those that extend past the end
        of their text [O, C].
    """
    bits, text_C = characters.bits, characters.text_C
    windows_C = _windows(characters.ranks_C + 1, text_C, bits)
    order_C = np.argsort(windows_C)
    text_C = text_C[order_C]
    ngrams_OC = windows_C[order_C] >> (bits * np.arange(CHAR_ORDER - 1, -1, -1))[:, None]
    first_OC = first_of_run(ngrams_OC[:, 1:] != ngrams_OC[:, :-1])
    by_text_C = np.argsort(text_C, kind="stable")
    text_C, ngrams_OC = text_C[by_text_C], ngrams_OC[:, by_text_C]
    first_in_text_OC = first_of_run((ngrams_OC[:, 1:] != ngrams_OC[:, :-1]) | (text_C[1:] != text_C[:-1]))
    column_OC = first_OC[:, by_text_C] + np.arange(len(text_C)) - first_in_text_OC
    return text_C, column_OC, (ngrams_OC & ((1 << bits) - 1)) != 0


def _windows(ranks_C: NDArray[np.int64], text_C: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Return the six characters that begin at each index, the first in the highest bits, 0 after the text's end [C].

    Args:
        ranks_C: rank of each character, from 1.
    """
    offsets_C = np.arange(len(ranks_C)) + (CHAR_ORDER - 1) * text_C  # with padding between texts
    padded = np.zeros(offsets_C[-1] + CHAR_ORDER, dtype=np.int64)
    padded[offsets_C] = ranks_C
    count = len(padded) - CHAR_ORDER + 1
    windows = np.zeros(count, dtype=np.int64)
    for k in range(CHAR_ORDER):
        windows = (windows << bits) | padded[k : k + count]
    return windows[offsets_C]


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
    columns, words_T = _word_columns(list(indices), tokenize)
    matches_OHR = np.stack([each.matches(rows_H, columns_R) for each in columns])
    return _bleu_of_statistics(matches_OHR, words_T[rows_H][:, None], words_T[columns_R][None])


def mean_bleu(texts: Sequence[str], weights: Sequence[float], *, tokenize: str) -> NDArray[np.float64]:
    """Return BLEU of each text from the mean statistics of its comparisons with all texts, 0 to 100 [T].

    The matches of each order and the length of the reference are the means in `bleu_matrix`. See `mean_chrf`.
    """
    weights_T = np.asarray(weights, dtype=np.float64)
    columns, words_T = _word_columns(texts, tokenize)
    matches_OT = np.stack([each.mean_matches(weights_T) for each in columns])
    return _bleu_of_statistics(matches_OT[:, :, None], words_T[:, None], np.array([[words_T @ weights_T]]))[:, 0]


def _word_columns(texts: Sequence[str], tokenize: str) -> tuple[list[NgramColumns], NDArray[np.int64]]:
    """Return the n-grams of words of each order, and the number of words of each text [T]."""
    cut = _cutter(tokenize)
    words = [cut(text) for text in texts]
    lengths_T = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    return ngram_columns(*symbols_of(words), len(words), WORD_ORDER), lengths_T


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
