"""Diagnostics of a distilled corpus: complexity and faithfulness from word alignments, and counts.

Lines are split at spaces and should be tokenised; lowercase them if case should not distinguish words. The entropies
are in nats.

Source: Zhou, Gu, Neubig, "Understanding Knowledge Distillation in Non-autoregressive Machine Translation", 2020,
sections 3.2 and 3.3. The paper aligns with fast_align; `kdmt.corpus.alignment` implements essentially the same model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.alignment import EM_ITERATIONS, align, spread

MAX_SENTENCES = 10_000  # takes a few seconds for sentences of 25 words
SMOOTHING = 0.1

# source word -> how often each target word is linked to it
LinkCounts = dict[str, Counter[str]]


@dataclass(frozen=True)
class Diagnostics:
    """Figures of a distilled corpus, with those of the real corpus for comparison."""

    complexity_real: float
    complexity_distilled: float
    faithfulness: float
    length_ratio: float  # number of distilled words divided by number of real words
    types_real: int
    types_distilled: int
    identical_fraction: float  # share of lines, 0 to 1


def diagnose(
    src_lines: Sequence[str],
    real_tgt_lines: Sequence[str],
    distilled_tgt_lines: Sequence[str],
    *,
    count_real: Callable[[], LinkCounts] | None = None,
) -> Diagnostics:
    """Return all figures. Each corpus is aligned once.

    Args:
        count_real: function that returns the links of the real corpus, if they are counted elsewhere at the same time.

    Raises:
        ValueError: if the corpora differ in length or have no word pair to align.
    """
    distilled = count_links(src_lines, distilled_tgt_lines)
    real = count_real() if count_real is not None else count_links(src_lines, real_tgt_lines)
    return Diagnostics(
        complexity_real=conditional_entropy(real),
        complexity_distilled=conditional_entropy(distilled),
        faithfulness=divergence(real, distilled),
        length_ratio=length_ratio(distilled_tgt_lines, real_tgt_lines),
        types_real=type_count(real_tgt_lines),
        types_distilled=type_count(distilled_tgt_lines),
        identical_fraction=identical_fraction(distilled_tgt_lines, real_tgt_lines),
    )


def complexity(src_lines: Sequence[str], tgt_lines: Sequence[str]) -> float:
    """Return C(d) = 1/|V_x| Σ_x H_d(y|x): lower is easier to learn for a decoder that predicts words independently.

    At most `MAX_SENTENCES` pairs, evenly spread over the corpus, are aligned.

    Raises:
        ValueError: if the corpora differ in length or have no word pair to align.
    """
    return conditional_entropy(count_links(src_lines, tgt_lines))


def faithfulness(src_lines: Sequence[str], real_tgt_lines: Sequence[str], distilled_tgt_lines: Sequence[str]) -> float:
    """Return F(d) = 1/|V_x| Σ_x KL(p_real(·|x) ‖ p_d(·|x)): 0 for the real data, larger is less faithful.

    The counts are smoothed as in `divergence`; the sentences are selected as in `complexity`.

    Raises:
        ValueError: if the corpora differ in length or have no word pair to align.
    """
    return divergence(count_links(src_lines, real_tgt_lines), count_links(src_lines, distilled_tgt_lines))


def conditional_entropy(links: LinkCounts) -> float:
    """Return 1/|V_x| Σ_x H(y|x) in nats; V_x are the source words with at least one link."""
    return math.fsum(_entropy(targets) for targets in links.values()) / len(links)


def divergence(real: LinkCounts, other: LinkCounts, *, smoothing: float = SMOOTHING) -> float:
    """Return 1/|V_x| Σ_x KL(p_real(·|x) ‖ p_other(·|x)) in nats; V_x are the source words with a link in `real`.

    A target word missing from one side would make the divergence infinite, so `smoothing` is added to the counts of
    both, for every target word that is linked to x on either side.
    """
    return math.fsum(_kl(targets, other.get(x, Counter()), smoothing) for x, targets in real.items()) / len(real)


def length_ratio(lines: Sequence[str], reference_lines: Sequence[str]) -> float:
    """Return the number of words in `lines` divided by the number of words in `reference_lines`.

    Raises:
        ValueError: if the references contain no word.
    """
    reference_words = sum(len(line.split()) for line in reference_lines)
    if not reference_words:
        raise ValueError("the reference lines hold no word")
    return sum(len(line.split()) for line in lines) / reference_words


def type_count(lines: Sequence[str]) -> int:
    """Return the number of different words."""
    return len({word for line in lines for word in line.split()})


def identical_fraction(lines: Sequence[str], reference_lines: Sequence[str]) -> float:
    """Return the share of lines, 0 to 1, that equal the reference: large for a teacher that memorised its training set.

    Raises:
        ValueError: if the corpora differ in length or are empty.
    """
    _check_lines(lines, reference_lines)
    same = sum(a.split() == b.split() for a, b in zip(lines, reference_lines, strict=True))
    return same / len(lines)


def count_links(
    src_lines: Sequence[str],
    tgt_lines: Sequence[str],
    *,
    iterations: int = EM_ITERATIONS,
    max_sentences: int = MAX_SENTENCES,
) -> LinkCounts:
    """Align words and count the links between source and target words.

    Each target word is linked to the source word, or to the empty word, that most likely produced it. Links to the
    empty word are not counted.

    Args:
        src_lines: lines of words separated by spaces.
        tgt_lines: line i is the translation of source line i.
        iterations: number of iterations of expectation maximisation, starting from a uniform t.
        max_sentences: maximum number of pairs to align, spread evenly over the corpus.

    Raises:
        ValueError: if the corpora differ in length or have no word pair to align.
    """
    _check_lines(src_lines, tgt_lines)
    chosen = spread(len(src_lines), max_sentences)
    src_words, src_sentences = _encode([["", *src_lines[i].split()] for i in chosen])  # with the empty word, id 0
    tgt_words, tgt_sentences = _encode([tgt_lines[i].split() for i in chosen])
    pairs = align(src_sentences, tgt_sentences, iterations=iterations)
    links: LinkCounts = {}
    for pair in np.flatnonzero((pairs.links_P > 0) & (pairs.src_ids_P != 0)).tolist():
        x, y = src_words[pairs.src_ids_P[pair]], tgt_words[pairs.tgt_ids_P[pair]]
        links.setdefault(x, Counter())[y] = int(pairs.links_P[pair])
    if not links:
        raise ValueError("no word pair could be aligned")
    return links


def _encode(sentences: list[list[str]]) -> tuple[list[str], list[NDArray[np.int64]]]:
    """Return the words of all ids, in order of first appearance, and each sentence as ids."""
    ids: dict[str, int] = {}
    encoded = [np.array([ids.setdefault(word, len(ids)) for word in s], dtype=np.int64) for s in sentences]
    return list(ids), encoded


def _entropy(counts: Counter[str]) -> float:
    total = counts.total()
    return -math.fsum(n / total * math.log(n / total) for n in counts.values())


def _kl(real: Counter[str], other: Counter[str], smoothing: float) -> float:
    words = real.keys() | other.keys()
    real_total = real.total() + smoothing * len(words)
    other_total = other.total() + smoothing * len(words)
    terms = []
    for word in words:
        p_real = (real[word] + smoothing) / real_total
        p_other = (other[word] + smoothing) / other_total
        terms.append(p_real * math.log(p_real / p_other))
    return math.fsum(terms)


def _check_lines(lines: Sequence[str], others: Sequence[str]) -> None:
    if len(lines) != len(others):
        raise ValueError(f"corpora of different length: {len(lines)} and {len(others)} lines")
    if not lines:
        raise ValueError("the corpora are empty")
