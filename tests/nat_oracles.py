"""The losses and decoders of non-autoregressive translation by enumeration, from the papers' definitions alone.

They take one sentence at a time, without padding, use natural logarithms and plain loops, and enumerate every path,
target or edit. The time is exponential: use about 7 positions, 4 tokens and targets of 4. Impossible outputs have
log-probability -inf; an undefined result (the posterior of an impossible target) raises a ValueError. Where candidates
tie exactly, each function documents which one it takes; two sums that are mathematically equal may still differ in the
last bit.

Shapes: L decoder length (frames or vertices), T target length, V vocabulary. u, v are vertices; w, i, j are tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, groupby, pairwise, product

import numpy as np
from numpy.typing import ArrayLike, NDArray

Predict = Callable[[tuple[int, ...]], tuple[Sequence[int], Sequence[float]]]  # tokens, some masked -> argmax and its p
Distance = Callable[[Sequence[int], Sequence[int]], int]


def log_sum_exp(values: Iterable[float]) -> float:
    """Return log Σ exp(x); -inf for an empty sum."""
    values = list(values)
    highest = max(values, default=-math.inf)
    if highest == -math.inf:
        return -math.inf
    return highest + math.log(math.fsum(math.exp(value - highest) for value in values))


def _table(values: ArrayLike) -> list[list[float]]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"expected a matrix, got shape {array.shape}")
    rows: list[list[float]] = array.tolist()
    return rows


# CTC: Graves et al. 2006; for translation, Libovický and Helcl 2018


def ctc_collapse(path: Sequence[int], blank: int) -> tuple[int, ...]:
    """Return B(path) of Graves et al. 2006, section 3.1: merge equal neighbours, then drop blanks."""
    return tuple(symbol for symbol, _ in groupby(path) if symbol != blank)


def ctc_paths(length: int, vocab: int, target: Sequence[int], blank: int) -> Iterator[tuple[int, ...]]:
    """Return B⁻¹(target): the paths of `length` symbols in 0..vocab-1, blank included, that collapse to the target."""
    for path in product(range(vocab), repeat=length):
        if ctc_collapse(path, blank) == tuple(target):
            yield path


def _ctc_path_log_prob(rows: list[list[float]], path: Sequence[int]) -> float:
    """Return log p(π | x) = Σ_l log y_l(π_l), Graves et al. 2006, equation 2: frames are independent."""
    return math.fsum(row[symbol] for row, symbol in zip(rows, path, strict=True))


def _ctc_path_log_probs_of(rows: list[list[float]], target: Sequence[int], blank: int) -> list[float]:
    return [_ctc_path_log_prob(rows, path) for path in ctc_paths(len(rows), len(rows[0]), target, blank)]


def ctc_log_likelihood(log_probs_LV: ArrayLike, target: Sequence[int], blank: int) -> float:
    """Return log Σ_{π ∈ B⁻¹(target)} p(π | x), Graves et al. 2006, equation 3; -inf if no path gives the target."""
    return log_sum_exp(_ctc_path_log_probs_of(_table(log_probs_LV), target, blank))


def ctc_best_path(log_probs_LV: ArrayLike, target: Sequence[int], blank: int) -> float:
    """Return max over π ∈ B⁻¹(target) of log p(π | x): the best alignment of a known target; -inf if there is none."""
    return max(_ctc_path_log_probs_of(_table(log_probs_LV), target, blank), default=-math.inf)


def ctc_best_output(log_probs_LV: ArrayLike, blank: int) -> tuple[tuple[int, ...], float]:
    """Return argmax over outputs of Σ_{π ∈ B⁻¹(output)} p(π | x), and its log: Graves et al. 2006, equation 4.

    This is the exact result, which best path decoding misses and a prefix beam search of unlimited width finds. Ties go
    to the output that is first in lexicographic order, where a prefix precedes its continuations.
    """
    rows = _table(log_probs_LV)
    found: dict[tuple[int, ...], list[float]] = {}
    for path in product(range(len(rows[0])), repeat=len(rows)):
        found.setdefault(ctc_collapse(path, blank), []).append(_ctc_path_log_prob(rows, path))
    totals = {output: log_sum_exp(log_probs) for output, log_probs in found.items()}
    best = max(sorted(totals), key=lambda output: totals[output])
    return best, totals[best]


# DA-Transformer: Huang et al. 2022; joint-Viterbi decoding: Shao et al. 2022


def dag_paths(num_vertices: int, length: int) -> Iterator[tuple[int, ...]]:
    """Return all 0 = a_1 < a_2 < ... < a_length = num_vertices - 1, in lexicographic order."""
    if num_vertices == 1 or length < 2:
        yield from [(0,)] if num_vertices == length == 1 else []
        return
    for inner in combinations(range(1, num_vertices - 1), length - 2):
        yield (0, *inner, num_vertices - 1)


def _dag_path_log_prob(
    emissions: list[list[float]], edges: list[list[float]], path: Sequence[int], tokens: Sequence[int]
) -> float:
    """Return log P(Y, A | X) = Σ_t log P(y_t | a_t) + Σ_{t>1} E[a_{t-1}][a_t], Huang et al. 2022, section 3."""
    spoken = [emissions[vertex][token] for vertex, token in zip(path, tokens, strict=True)]
    moved = [edges[u][v] for u, v in pairwise(path)]
    return math.fsum(spoken + moved)


def _dag_tables(
    token_log_probs_LV: ArrayLike, transitions_LL: ArrayLike
) -> tuple[list[list[float]], list[list[float]]]:
    emissions, edges = _table(token_log_probs_LV), _table(transitions_LL)
    if len(edges) != len(emissions) or len(edges[0]) != len(emissions):
        raise ValueError(f"{len(emissions)} vertices, but transitions are {len(edges)} by {len(edges[0])}")
    if any(edges[u][v] > -math.inf for u in range(len(edges)) for v in range(u + 1)):
        raise ValueError("a transition that does not go forward must be -inf")
    return emissions, edges


def _dag_scored_paths(
    token_log_probs_LV: ArrayLike, transitions_LL: ArrayLike, target: Sequence[int]
) -> list[tuple[tuple[int, ...], float]]:
    emissions, edges = _dag_tables(token_log_probs_LV, transitions_LL)
    paths = dag_paths(len(emissions), len(target))
    return [(path, _dag_path_log_prob(emissions, edges, path, target)) for path in paths]


def dag_log_likelihood(token_log_probs_LV: ArrayLike, transitions_LL: ArrayLike, target: Sequence[int]) -> float:
    """Return log P(Y | X) = log Σ_A P(Y | A, X) P(A | X) over the paths of |Y| vertices from the first to the last.

    Huang et al. 2022, section 3. The first vertex always emits the target's first token and the last vertex its last
    (the paper's <bos> and <eos>, which the target therefore includes if the model emits them).
    """
    return log_sum_exp(log_prob for _, log_prob in _dag_scored_paths(token_log_probs_LV, transitions_LL, target))


def dag_best_path_for_target(
    token_log_probs_LV: ArrayLike, transitions_LL: ArrayLike, target: Sequence[int]
) -> tuple[list[int], float]:
    """Return argmax over A of P(Y, A | X) = argmax of P(A | X, Y), and log P(Y, A | X).

    Huang et al. 2022 assign the target to vertices this way for glancing. Ties go to the lexicographically first path.
    An impossible target gives ([], -inf).
    """
    scored = _dag_scored_paths(token_log_probs_LV, transitions_LL, target)
    path, log_prob = max(scored, key=lambda each: each[1], default=((), -math.inf))
    return (list(path), log_prob) if log_prob > -math.inf else ([], -math.inf)


def dag_vertex_posteriors(
    token_log_probs_LV: ArrayLike, transitions_LL: ArrayLike, target: Sequence[int]
) -> NDArray[np.float64]:
    """Return P(a_t = v | X, Y) = Σ_{A: a_t = v} P(Y, A | X) / P(Y | X), as [T, L]; ValueError if Y is impossible."""
    scored = _dag_scored_paths(token_log_probs_LV, transitions_LL, target)
    total = log_sum_exp(log_prob for _, log_prob in scored)
    if total == -math.inf:
        raise ValueError("the target is impossible: it has no posterior")
    posteriors_TL = np.zeros((len(target), len(_table(token_log_probs_LV))))
    for path, log_prob in scored:
        for t, vertex in enumerate(path):
            posteriors_TL[t, vertex] += math.exp(log_prob - total)
    return posteriors_TL


def _best_token(row: list[float]) -> int:
    return max(range(len(row)), key=lambda token: row[token])  # the lowest id on ties


def _dag_walk(
    emissions: list[list[float]], edges: list[list[float]], bonus: Sequence[float]
) -> tuple[list[int], tuple[int, ...], float]:
    """Walk from vertex 0 to the last, each time to argmax_v E[u][v] + bonus[v], the lowest v on ties."""
    path, last = [0], len(emissions) - 1
    while path[-1] != last:
        u = path[-1]
        ahead = {v: edges[u][v] + bonus[v] for v in range(u + 1, last + 1)}
        best = max(ahead, key=lambda v: ahead[v])
        if ahead[best] == -math.inf:
            raise ValueError(f"no vertex can follow vertex {u}")
        path.append(best)
    tokens = tuple(_best_token(emissions[vertex]) for vertex in path)
    return path, tokens, _dag_path_log_prob(emissions, edges, path, tokens)


def dag_greedy(token_log_probs_LV: ArrayLike, transitions_LL: ArrayLike) -> tuple[list[int], tuple[int, ...], float]:
    """Return path, tokens and log P(Y, A | X) of greedy decoding, Huang et al. 2022.

    a_{t+1} = argmax_v E[a_t][v], then y_t = argmax_w log P(w | a_t). Ties go to the lowest vertex and token.
    """
    emissions, edges = _dag_tables(token_log_probs_LV, transitions_LL)
    return _dag_walk(emissions, edges, [0.0] * len(emissions))


def dag_lookahead(token_log_probs_LV: ArrayLike, transitions_LL: ArrayLike) -> tuple[list[int], tuple[int, ...], float]:
    """Return path, tokens and log P(Y, A | X) of lookahead decoding, Huang et al. 2022.

    a_{t+1}, y_{t+1} = argmax_{v, w} E[a_t][v] + log P(w | v): next vertex and token together. The first vertex is 0
    and emits its most probable token. Ties go to the lowest vertex, then to the lowest token.
    """
    emissions, edges = _dag_tables(token_log_probs_LV, transitions_LL)
    return _dag_walk(emissions, edges, [max(row) for row in emissions])


def dag_viterbi(
    token_log_probs_LV: ArrayLike, transitions_LL: ArrayLike, *, beta: float
) -> tuple[list[int], tuple[int, ...], float]:
    """Return path, tokens and score of joint-Viterbi decoding, Shao et al. 2022.

    This follows the paper's definition: for each length n, take the A and Y that maximise log P(Y, A | X) among all
    paths of n vertices from the first to the last; among lengths, take the one that maximises log P(Y, A | X) / n **
    beta. Because n ** beta is the same within a length, this is one maximum over all paths. n counts every vertex of
    the path, the first and the last (<bos>, <eos>) included; beta = 0 is no penalty, and a greater beta favours longer
    outputs.

    The score is the maximised value, so it is divided by n ** beta. Ties go to the shorter, then the lexicographically
    first path, and to the lowest token.
    """
    emissions, edges = _dag_tables(token_log_probs_LV, transitions_LL)
    found = []
    for length in range(1, len(emissions) + 1):
        for path in dag_paths(len(emissions), length):
            tokens = tuple(_best_token(emissions[vertex]) for vertex in path)
            found.append((path, tokens, _dag_path_log_prob(emissions, edges, path, tokens) / length**beta))
    path, tokens, score = max(found, key=lambda each: each[2])
    if score == -math.inf:
        raise ValueError("no path leads from the first vertex to the last")
    return list(path), tokens, score


# Linear-chain CRF: Sun et al. 2019


def _crf_score(emissions: list[list[float]], transitions: list[list[float]], tokens: Sequence[int]) -> float:
    """Return Σ_{t=1}^T s(y_t, x, t) + Σ_{t=2}^T M[y_{t-1}][y_t], Sun et al. 2019, without scores for start and end."""
    spoken = [row[token] for row, token in zip(emissions, tokens, strict=True)]
    moved = [transitions[i][j] for i, j in pairwise(tokens)]
    return math.fsum(spoken + moved)


def crf_log_partition(emissions_TV: ArrayLike, transitions_VV: ArrayLike) -> float:
    """Return log Z = log Σ_y exp(score(y)) over all V ** T sequences."""
    emissions = _table(emissions_TV)
    return crf_log_partition_over([range(len(row)) for row in emissions], emissions, transitions_VV)


def crf_log_partition_over(
    candidates: Sequence[Sequence[int]], emissions_TV: ArrayLike, transitions_VV: ArrayLike
) -> float:
    """Return log Z over the sequences whose token at t is in candidates[t]: the beam approximation of Sun et al. 2019.

    The caller chooses the candidates; the paper takes the k highest emissions of each position. A token listed twice
    counts once.
    """
    emissions, transitions = _table(emissions_TV), _table(transitions_VV)
    choices = [sorted(set(each)) for each in candidates]
    if len(choices) != len(emissions):
        raise ValueError(f"candidates for {len(choices)} positions of {len(emissions)}")
    return log_sum_exp(_crf_score(emissions, transitions, tokens) for tokens in product(*choices))


def crf_log_likelihood(emissions_TV: ArrayLike, transitions_VV: ArrayLike, target: Sequence[int]) -> float:
    """Return log P(y | x) = score(y) - log Z, Sun et al. 2019."""
    score = _crf_score(_table(emissions_TV), _table(transitions_VV), target)
    return score - crf_log_partition(emissions_TV, transitions_VV)


def crf_best(emissions_TV: ArrayLike, transitions_VV: ArrayLike) -> tuple[tuple[int, ...], float]:
    """Return argmax_y score(y), and its score (without log Z). Ties go to the lexicographically first sequence."""
    emissions, transitions = _table(emissions_TV), _table(transitions_VV)
    sequences = product(range(len(transitions)), repeat=len(emissions))
    scored = [(tokens, _crf_score(emissions, transitions, tokens)) for tokens in sequences]
    return max(scored, key=lambda each: each[1])


# Levenshtein Transformer: Gu et al. 2019


def longest_common_subsequence(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest sequence that remains of both a and b after some deletions."""
    for length in range(min(len(a), len(b)), 0, -1):
        if set(combinations(a, length)) & set(combinations(b, length)):
            return length
    return 0


def edit_distance_insert_delete(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the smallest number of deletions and insertions of single tokens that turn a into b.

    A substitution counts as one deletion and one insertion. The order of edits does not matter, so all deletions come
    first: over every subset of a that is kept and is a subsequence of b, take the minimum of (tokens deleted from a) +
    (tokens inserted to reach b).
    """
    return min(
        (len(a) - kept) + (len(b) - kept)
        for kept in range(len(a) + 1)
        for left in combinations(a, kept)
        if _is_subsequence(left, b)
    )


def _is_subsequence(short: Sequence[int], long: Sequence[int]) -> bool:
    rest = iter(long)
    return all(token in rest for token in short)  # `in` consumes the iterator up to the token


def apply_deletions(tokens: Sequence[int], keep: Sequence[bool]) -> tuple[int, ...]:
    """Return the tokens whose `keep` is true. `tokens` excludes <s> and </s>, which the paper never deletes."""
    return tuple(token for token, kept in zip(tokens, keep, strict=True) if kept)


def apply_insertions(tokens: Sequence[int], placeholders: Sequence[int], fillers: Sequence[int]) -> tuple[int, ...]:
    """Insert placeholders[g] placeholders into gap g, then replace all placeholders by the fillers from left to right.

    The paper's sentence is <s> y_1 ... y_n </s>, with a gap between every two neighbours: n + 1 in all. `tokens` is y_1
    ... y_n without the two: gap 0 is between <s> and y_1, gap g between y_g and y_{g+1}, gap n between y_n and </s>; an
    empty sentence has the one gap between <s> and </s>. The placeholders of a gap are not limited (in the paper: 255).
    """
    if len(placeholders) != len(tokens) + 1:
        raise ValueError(f"{len(tokens)} tokens have {len(tokens) + 1} gaps, not {len(placeholders)}")
    if min(placeholders) < 0 or sum(placeholders) != len(fillers):
        raise ValueError(f"placeholders {list(placeholders)} do not take {len(fillers)} fillers")
    waiting = iter(fillers)
    result = [next(waiting) for _ in range(placeholders[0])]
    for token, count in zip(tokens, placeholders[1:], strict=True):
        result += [token, *(next(waiting) for _ in range(count))]
    return tuple(result)


def is_optimal_edit(
    hypothesis: Sequence[int],
    reference: Sequence[int],
    keep: Sequence[bool],
    placeholders: Sequence[int],
    fillers: Sequence[int],
) -> bool:
    """Return whether these deletions, then these insertions, give exactly the reference with the fewest edits.

    This is the expert policy of Gu et al. 2019, where edits are counted as the model makes them: by deletion and
    insertion alone. There may be several optimal edits. An edit that does not fit the tokens (a wrong number of gaps)
    raises a ValueError.
    """
    edited = apply_insertions(apply_deletions(hypothesis, keep), placeholders, fillers)
    edits = sum(not kept for kept in keep) + len(fillers)
    return edited == tuple(reference) and edits == edit_distance_insert_delete(hypothesis, reference)


def levenshtein_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the smallest number of deletions, insertions and substitutions of single tokens that turn a into b.

    Each costs 1. This is the minimum over every way to pair k tokens of a with k of b in order: an unequal pair is a
    substitution, an unpaired token of a a deletion, one of b an insertion.
    """
    return min(
        (len(a) - pairs) + (len(b) - pairs) + hamming_distance(from_a, from_b)
        for pairs in range(min(len(a), len(b)) + 1)
        for from_a in combinations(a, pairs)
        for from_b in combinations(b, pairs)
    )


def hamming_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Return Σ_t [a_t ≠ b_t], for sequences of the same length."""
    return sum(x != y for x, y in zip(a, b, strict=True))


# Mask-Predict: Ghazvininejad et al. 2019


def mask_predict(predict: Predict, length: int, iterations: int, mask: int) -> list[tuple[int, ...]]:
    """Return the sequence after each iteration t = 0 .. T-1 of Ghazvininejad et al. 2019, section 3.

    t = 0: everything is masked. t > 0: the n = int(length * (T - t) / T) positions of least confidence are masked
    (on ties the leftmost first). Masked positions take the predicted token, and its probability as their confidence;
    the others keep both, so their confidence is that of the iteration that last predicted them. Where n = 0 (fewer
    positions than iterations), nothing changes and `predict` is not called.
    """
    tokens, confidences = [mask] * length, [0.0] * length
    history = []
    for t in range(iterations):
        masked = sorted(range(length), key=lambda i: confidences[i])[: length * (iterations - t) // iterations]
        for i in masked:
            tokens[i] = mask
        if masked:
            predicted, probabilities = predict(tuple(tokens))
            for i in masked:
                tokens[i], confidences[i] = int(predicted[i]), float(probabilities[i])
        history.append(tuple(tokens))
    return history


# Glancing Transformer: Qian et al. 2021


def glancing_count(prediction: Sequence[int], reference: Sequence[int], ratio: float, distance: Distance) -> int:
    """Return the number of reference tokens to reveal: int(ratio * d(prediction, reference)), Qian et al. 2021.

    This is the paper's λ · d(Y, Ŷ), rounded down (the product is float64: 0.29 * 100 gives 28). d is
    `hamming_distance`, the paper's choice, or `levenshtein_distance`, its alternative.
    """
    return int(ratio * distance(prediction, reference))
