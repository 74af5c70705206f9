"""Fast sentence chrF and sentence BLEU of many hypotheses of one sentence, with the same values as sacreBLEU.

sacreBLEU takes one pair at a time and extracts the n-grams of both sides again for each pair. Shapes: H hypotheses, R
references, T texts of either kind, C characters of all texts, O = 6 orders of n-grams.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import cache, lru_cache, partial
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from kdmt.distill.selection import Nearness
from kdmt.score.metrics import bleu_metric

CHAR_ORDER = 6
BETA = 2
WORD_ORDER = 4
MAX_CACHED_WORDS = 200_000  # about 50 MB
MAX_CELLS = 1 << 22  # maximum size of a matrix of n-grams by texts: 16 MB


# --------------------------------------------------------------------------------------------------------------- chrF


def chrf_nearness(hypotheses: Sequence[str], reference: str) -> list[float]:
    """Return chrF2 of each hypothesis, 0 to 100, with the values of `kdmt.score.metrics.sentence_chrf`."""
    return chrf_matrix(hypotheses, [reference])[:, 0].tolist()


def chrf_matrix(hypotheses: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Return sentence chrF2 (Popović 2015) of each hypothesis against each reference, 0 to 100 [H, R].

    Whitespace is ignored. The memory used is that of `MAX_CELLS` plus about 300 bytes per character.
    """
    indices: dict[str, int] = {}
    rows, columns = (
        [indices.setdefault("".join(text.split()), len(indices)) for text in texts]
        for texts in (hypotheses, references)
    )
    matches_OTT = _count_matches(list(indices))
    lengths_T = np.array([len(text) for text in indices], dtype=np.int64)
    totals_OT = np.maximum(lengths_T - np.arange(CHAR_ORDER)[:, None], 0)
    matches_OHR = matches_OTT[:, rows][:, :, columns]
    return _f_scores(matches_OHR, totals_OT[:, rows, None], totals_OT[:, None, columns])


def _f_scores(
    matches_OHR: NDArray[np.float64], hypothesis_OH1: NDArray[np.int64], reference_O1R: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return F2 of mean precision and mean recall over the orders for which both texts are long enough [H, R].

    The operations and their order are those of sacreBLEU's `CHRF._compute_f_score` (2.6.0), so that equal scores there
    are equal here.
    """
    num_orders_HR = ((hypothesis_OH1 > 0) & (reference_O1R > 0)).sum(axis=0)
    num_orders_HR = np.maximum(num_orders_HR, 1)
    precision_HR = (matches_OHR / np.maximum(hypothesis_OH1, 1)).sum(axis=0) / num_orders_HR
    recall_HR = (matches_OHR / np.maximum(reference_O1R, 1)).sum(axis=0) / num_orders_HR
    factor = BETA**2
    denominator_HR = factor * precision_HR + recall_HR
    denominator_HR[denominator_HR == 0.0] = 1.0
    return 100 * ((1 + factor) * precision_HR * recall_HR / denominator_HR)


def _count_matches(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return for each order the number of n-grams that two texts share, with multiplicity [O, T, T]."""
    joined = "".join(texts)
    if not joined:
        return np.zeros((CHAR_ORDER, len(texts), len(texts)))
    codes_C = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    alphabet = np.unique(codes_C)
    bits = len(alphabet).bit_length()
    if bits * CHAR_ORDER > 63:
        return _count_matches_by_hand(texts)
    lengths_T = np.array([len(text) for text in texts], dtype=np.int64)
    text_C = np.repeat(np.arange(len(texts)), lengths_T)
    windows_C = _windows(np.searchsorted(alphabet, codes_C) + 1, text_C, bits)
    return _count_equal(windows_C, text_C, bits, len(texts))


def _windows(ranks_C: NDArray[np.int64], text_C: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Return the six characters that begin at each index, the first in the highest bits, 0 after the text's end [C]."""
    offsets_C = np.arange(len(ranks_C)) + (CHAR_ORDER - 1) * text_C  # with padding between texts
    padded = np.zeros(offsets_C[-1] + CHAR_ORDER, dtype=np.int64)
    padded[offsets_C] = ranks_C
    count = len(padded) - CHAR_ORDER + 1
    windows = np.zeros(count, dtype=np.int64)
    for k in range(CHAR_ORDER):
        windows = (windows << bits) | padded[k : k + count]
    return windows[offsets_C]


def _count_equal(
    windows_C: NDArray[np.int64], text_C: NDArray[np.int64], bits: int, num_texts: int
) -> NDArray[np.float64]:
    """Compute `_count_matches` by sorting: an n-gram is the prefix of a window, and equal prefixes become adjacent.

    If c windows in all texts have the same prefix, the k-th of them in a text is assigned to the column (index of the
    first of the c windows) + k. Since k < c, no other n-gram uses that column. The number of matches of two texts is
    the number of columns that they share.
    """
    order_C = np.argsort(windows_C)
    text_C = text_C[order_C]
    ngrams_OC = windows_C[order_C] >> (bits * np.arange(CHAR_ORDER - 1, -1, -1))[:, None]
    first_OC = _first_of_run(ngrams_OC[:, 1:] != ngrams_OC[:, :-1])
    by_text_C = np.argsort(text_C, kind="stable")
    text_C, ngrams_OC = text_C[by_text_C], ngrams_OC[:, by_text_C]
    first_in_text_OC = _first_of_run((ngrams_OC[:, 1:] != ngrams_OC[:, :-1]) | (text_C[1:] != text_C[:-1]))
    column_OC = first_OC[:, by_text_C] + np.arange(len(text_C)) - first_in_text_OC
    whole_OC = (ngrams_OC & ((1 << bits) - 1)) != 0  # otherwise the n-gram extends past the end of the text
    row_OC = text_C + num_texts * np.arange(CHAR_ORDER)[:, None]
    matches_OTT = np.zeros((CHAR_ORDER, num_texts, num_texts))
    width = max(min(MAX_CELLS // (CHAR_ORDER * num_texts), len(text_C)), 1)
    for start in range(0, len(text_C), width):
        here_OC = whole_OC & (column_OC >= start) & (column_OC < start + width)
        has = np.zeros(CHAR_ORDER * num_texts * width + 1, dtype=np.float32)
        has[np.where(here_OC, row_OC * width + (column_OC - start), -1)] = 1.0  # all others: the last cell, not used
        has_OTW = has[:-1].reshape(CHAR_ORDER, num_texts, width)
        matches_OTT += has_OTW @ has_OTW.transpose(0, 2, 1)
    return matches_OTT


def _first_of_run(differs_OC: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the first index of each element's run of equal elements [O, C].

    Args:
        differs_OC: mask of elements that differ from the one before [O, C - 1].
    """
    starts_OC = np.zeros((len(differs_OC), differs_OC.shape[1] + 1), dtype=np.int64)
    np.multiply(differs_OC, np.arange(1, starts_OC.shape[1]), out=starts_OC[:, 1:])
    return np.maximum.accumulate(starts_OC, axis=1)


def _count_matches_by_hand(texts: Sequence[str]) -> NDArray[np.float64]:
    """Compute `_count_matches` for an alphabet so large that six characters do not fit into 63 bits."""
    counts = [
        [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in texts] for n in range(1, CHAR_ORDER + 1)
    ]
    return np.array([[[(a & b).total() for b in of_order] for a in of_order] for of_order in counts], dtype=np.float64)


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
