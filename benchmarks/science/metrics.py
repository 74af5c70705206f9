"""Metrics of the scoreboard as sums over sentences, so that test sets can be resampled.

Each metric returns statistics [sentences, K] of one output and a function from their sums to the score. BLEU is that of
sacreBLEU. For the toy language, the probability of every translation is known:

- expected BLEU: BLEU from expected n-gram matches and the expected reference length over p(target | source). It has no
  noise from the choice of one reference.
- expected chrF: mean of the sentences' chrF2, in expectation over p(target | source): the true value of the utility
  that minimum Bayes risk estimates.
- valid: share of the outputs that are a correct translation.
- mixed: share of the outputs that are incorrect, although each word occurs in a correct translation of the source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from kdmt.distill.similarity import chrf_matrix, chrf_nearness
from kdmt.toy.grammar import target_distribution

Array = NDArray[np.float64]
ORDER = 4  # longest n-gram of BLEU

_tokenizer = Tokenizer13a()


def bleu_statistics(outputs: Sequence[str], references: Sequence[str], tokenize: str) -> Array:
    """Return hypothesis length, reference length, and matches and totals of each n-gram order, float64 [N, 10]."""
    bleu = BLEU(tokenize=tokenize, effective_order=True)  # this affects the scores of sentences, which are not used
    rows = []
    for output, reference in zip(outputs, references, strict=True):
        found = bleu.sentence_score(output, [reference])
        rows.append([found.sys_len, found.ref_len, *found.counts, *found.totals])
    return np.array(rows, dtype=np.float64)


def chrf_statistics(outputs: Sequence[str], references: Sequence[str]) -> Array:
    """Return [sentence chrF2 from 0 to 1, 1] for each output, [N, 2]; `share_score` makes their mean, 0 to 100."""
    pairs = zip(outputs, references, strict=True)
    return np.array([[chrf_nearness([output], reference)[0] / 100, 1] for output, reference in pairs], float)


def bleu_score(sums: Array) -> Array:
    """Return corpus BLEU, 0 to 100, from summed statistics [..., 10]: 'exp' smoothing of sacreBLEU."""
    lengths, references = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    halvings = np.cumsum(matches == 0, axis=-1)
    smoothed = np.where(matches == 0, 0.5**halvings, matches)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_precision = np.log(smoothed / totals).mean(axis=-1)
        log_penalty = np.minimum(0.0, 1.0 - references / lengths)
    scores = 100 * np.exp(log_precision + log_penalty)
    return np.where((totals == 0).any(axis=-1) | (matches.sum(axis=-1) == 0), 0.0, scores)


def share_score(sums: Array) -> Array:
    """Return the share of the cases that have a property, in percent, from sums of [has it, is a case], [..., 2]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] > 0, 100 * sums[..., 0] / sums[..., 1], 0.0)


def value_score(sums: Array) -> Array:
    """Return the only statistic, [..., 1]."""
    return sums[..., 0]


# --------------------------------------------------------------------------------------------------- toy language


def expected_bleu_statistics(sources: Sequence[str], outputs: Sequence[str]) -> Array:
    """Return the statistics of `bleu_statistics` in expectation over the translations of each source, [N, 10].

    The expected number of matches of an n-gram g that occurs c times in the output is sum_{k=1..c} P(count of g in the
    translation >= k).
    """
    rows = []
    for source, output in zip(sources, outputs, strict=True):
        length, at_least = _expected_counts(source)
        words = _tokenizer(output).split()
        matches = [0.0] * ORDER
        for ngram, count in _ngrams(words).items():
            matches[len(ngram) - 1] += sum(at_least.get((ngram, k), 0.0) for k in range(1, count + 1))
        totals = [max(0, len(words) - order) for order in range(ORDER)]
        rows.append([len(words), length, *matches, *totals])
    return np.array(rows, dtype=np.float64)


def expected_chrf_statistics(sources: Sequence[str], outputs: Sequence[str]) -> Array:
    """Return [expected sentence chrF2 from 0 to 1, 1] for each output, [N, 2]; see `chrf_statistics`."""
    rows = []
    for source, output in zip(sources, outputs, strict=True):
        translations = _distribution(source)
        utility = chrf_matrix([output], list(translations))[0] @ np.array(list(translations.values()))
        rows.append([utility / 100, 1])
    return np.array(rows, float)


def valid_statistics(sources: Sequence[str], outputs: Sequence[str]) -> Array:
    """Return [is valid, 1] for each output, [N, 2]."""
    return np.array(
        [[output in _distribution(source), 1] for source, output in zip(sources, outputs, strict=True)], float
    )


def mixed_statistics(sources: Sequence[str], outputs: Sequence[str]) -> Array:
    """Return [is mixed, 1] for each output, [N, 2]."""
    rows = []
    for source, output in zip(sources, outputs, strict=True):
        translations = _distribution(source)
        words = {word for translation in translations for word in translation.split()}
        is_mixed = output not in translations and bool(output.strip()) and set(output.split()) <= words
        rows.append([is_mixed, 1])
    return np.array(rows, float)


@cache
def _distribution(source: str) -> dict[str, float]:
    return target_distribution(source)


@cache
def _expected_counts(source: str) -> tuple[float, dict[tuple[tuple[str, ...], int], float]]:
    """Return the expected length, and for each n-gram and k the probability of at least k occurrences."""
    length, at_least = 0.0, Counter[tuple[tuple[str, ...], int]]()
    for translation, probability in _distribution(source).items():
        words = _tokenizer(translation).split()
        length += probability * len(words)
        for ngram, count in _ngrams(words).items():
            for k in range(1, count + 1):
                at_least[ngram, k] += probability  # type: ignore[assignment]
    return length, dict(at_least)


def _ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(words[start : start + order]) for order in range(1, ORDER + 1) for start in range(len(words) - order + 1)
    )
