"""Tests of the enumeration oracles against cases worked out by hand and properties of every distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pytest
from nat_oracles import (
    apply_deletions,
    apply_insertions,
    crf_best,
    crf_log_likelihood,
    crf_log_partition,
    crf_log_partition_over,
    ctc_best_output,
    ctc_best_path,
    ctc_collapse,
    ctc_log_likelihood,
    ctc_paths,
    dag_best_path_for_target,
    dag_greedy,
    dag_log_likelihood,
    dag_lookahead,
    dag_paths,
    dag_vertex_posteriors,
    dag_viterbi,
    edit_distance_insert_delete,
    glancing_count,
    hamming_distance,
    is_optimal_edit,
    levenshtein_distance,
    log_sum_exp,
    longest_common_subsequence,
    mask_predict,
)
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def logs(probabilities: Sequence[Sequence[float]] | Matrix) -> Matrix:
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probabilities, dtype=np.float64))


def draw_log_probs(rows: int, columns: int, seed: int) -> Matrix:
    return logs(np.random.default_rng(seed).dirichlet(np.ones(columns), size=rows))


def draw_transitions(vertices: int, seed: int) -> Matrix:
    """Return random log-probabilities of each vertex over the later vertices; the last row has no transition."""
    rng = np.random.default_rng(seed)
    probabilities = np.zeros((vertices, vertices))
    for u in range(vertices - 1):
        probabilities[u, u + 1 :] = rng.dirichlet(np.ones(vertices - 1 - u))
    return logs(probabilities)


def sequences(vocab: Sequence[int], longest: int) -> Iterator[tuple[int, ...]]:
    """Yield all sequences of 0 to `longest` tokens."""
    for length in range(longest + 1):
        yield from product(vocab, repeat=length)


def test_log_sum_exp() -> None:
    assert log_sum_exp([math.log(0.25), math.log(0.5), -math.inf]) == pytest.approx(math.log(0.75), rel=1e-15)
    assert log_sum_exp([-1000.0, -1000.0]) == pytest.approx(-1000 + math.log(2), rel=1e-15)
    assert log_sum_exp([]) == log_sum_exp([-math.inf]) == -math.inf


# CTC. By hand: two frames, blank 0 and one token 1.
#   frame 1: blank .6, token .4;  frame 2: blank .7, token .3
#   paths: -- .42 gives ();  1- .28, -1 .18 and 11 .12 give (1), .58 together
TWO_FRAMES = logs([[0.6, 0.4], [0.7, 0.3]])


def test_ctc_collapse() -> None:
    assert ctc_collapse([1, 1, 0, 1, 2, 2, 0, 0], blank=0) == (1, 1, 2)
    assert ctc_collapse([3, 1, 3, 3, 1, 1], blank=3) == (1, 1)  # blanks are removed after merging: 3 keeps the 1s apart
    assert ctc_collapse([0, 0], blank=0) == ctc_collapse([], blank=0) == ()


def test_ctc_paths() -> None:
    assert list(ctc_paths(2, 2, [1], blank=0)) == [(0, 1), (1, 0), (1, 1)]
    assert list(ctc_paths(3, 2, [1, 1], blank=0)) == [(1, 0, 1)]  # repeated tokens need a blank between them
    assert list(ctc_paths(2, 2, [1, 1], blank=0)) == []
    assert list(ctc_paths(2, 2, [], blank=0)) == [(0, 0)]
    # 2 different tokens in 4 frames: a run of each (>= 1), blanks around: choose 4 borders out of 4 + 2 = 6
    assert len(list(ctc_paths(4, 3, [1, 2], blank=0))) == math.comb(6, 4)


def test_ctc_by_hand() -> None:
    assert ctc_log_likelihood(TWO_FRAMES, [1], blank=0) == pytest.approx(math.log(0.58), rel=1e-14)
    assert ctc_log_likelihood(TWO_FRAMES, [], blank=0) == pytest.approx(math.log(0.42), rel=1e-14)
    assert ctc_log_likelihood(TWO_FRAMES, [1, 1], blank=0) == -math.inf
    assert ctc_best_path(TWO_FRAMES, [1], blank=0) == pytest.approx(math.log(0.28), rel=1e-14)
    assert ctc_best_path(TWO_FRAMES, [1, 1], blank=0) == -math.inf


def test_ctc_best_output_is_not_the_best_path() -> None:
    output, log_prob = ctc_best_output(TWO_FRAMES, blank=0)  # the best single path is --, which gives ()
    assert output == (1,)
    assert log_prob == pytest.approx(math.log(0.58), rel=1e-14)


def test_ctc_impossible_symbols() -> None:
    certain = logs([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert ctc_log_likelihood(certain, [1, 1], blank=0) == 0.0
    assert ctc_log_likelihood(certain, [1], blank=0) == -math.inf
    assert ctc_log_likelihood(certain, [0], blank=0) == -math.inf  # a target cannot hold the blank


@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_sums_to_one(blank: int) -> None:
    log_probs = draw_log_probs(4, 3, seed=1)
    outputs = list(sequences([token for token in range(3) if token != blank], 4))
    found = {output: ctc_log_likelihood(log_probs, output, blank) for output in outputs}
    assert sum(math.exp(log_prob) for log_prob in found.values()) == pytest.approx(1.0, rel=1e-12)
    best = max(found, key=lambda output: found[output])
    assert ctc_best_output(log_probs, blank) == (best, pytest.approx(found[best], rel=1e-14))
    assert all(ctc_best_path(log_probs, output, blank) <= found[output] for output in outputs)


# DAG. By hand: 0 -> 1 -> 3 with .3 * 1 and 0 -> 2 -> 3 with .7 * 1; vertices 0 and 3 always emit token 0.
#   vertex 1: token 1 with .8, token 2 with .2;  vertex 2: .2, .3, .25, .25
DIAMOND = logs([[0, 0.3, 0.7, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
DIAMOND_TOKENS = logs([[1, 0, 0, 0], [0, 0.8, 0.2, 0], [0.2, 0.3, 0.25, 0.25], [1, 0, 0, 0]])


def test_dag_paths() -> None:
    assert list(dag_paths(4, 2)) == [(0, 3)]
    assert list(dag_paths(4, 3)) == [(0, 1, 3), (0, 2, 3)]
    assert list(dag_paths(4, 4)) == [(0, 1, 2, 3)]
    assert [list(dag_paths(4, length)) for length in (0, 1, 5)] == [[], [], []]
    assert list(dag_paths(1, 1)) == [(0,)]
    assert list(dag_paths(1, 2)) == []


def test_dag_by_hand() -> None:
    # (0, 1, 0): .3 * .8 = .24 through vertex 1, .7 * .3 = .21 through vertex 2
    assert dag_log_likelihood(DIAMOND_TOKENS, DIAMOND, [0, 1, 0]) == pytest.approx(math.log(0.45), rel=1e-14)
    assert dag_best_path_for_target(DIAMOND_TOKENS, DIAMOND, [0, 1, 0]) == (
        [0, 1, 3],
        pytest.approx(math.log(0.24), rel=1e-14),
    )
    # (0, 2, 0): .3 * .2 = .06 and .7 * .25 = .175
    assert dag_best_path_for_target(DIAMOND_TOKENS, DIAMOND, [0, 2, 0])[0] == [0, 2, 3]
    posteriors = dag_vertex_posteriors(DIAMOND_TOKENS, DIAMOND, [0, 1, 0])
    expected = np.array([[1, 0, 0, 0], [0, 24 / 45, 21 / 45, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(posteriors, expected, rtol=1e-13)


@pytest.mark.parametrize("target", [[], [0], [0, 0], [0, 1, 1, 0], [1, 1, 0], [0] * 5])
def test_dag_impossible_targets(target: list[int]) -> None:
    assert dag_log_likelihood(DIAMOND_TOKENS, DIAMOND, target) == -math.inf
    assert dag_best_path_for_target(DIAMOND_TOKENS, DIAMOND, target) == ([], -math.inf)
    with pytest.raises(ValueError, match="impossible"):
        dag_vertex_posteriors(DIAMOND_TOKENS, DIAMOND, target)


def test_dag_decoders_by_hand() -> None:
    # greedy looks at transitions alone: .7 > .3. Lookahead: .3 * .8 = .24 > .7 * .3 = .21
    assert dag_greedy(DIAMOND_TOKENS, DIAMOND) == ([0, 2, 3], (0, 1, 0), pytest.approx(math.log(0.21), rel=1e-14))
    assert dag_lookahead(DIAMOND_TOKENS, DIAMOND) == ([0, 1, 3], (0, 1, 0), pytest.approx(math.log(0.24), rel=1e-14))


def test_dag_viterbi_finds_a_better_path_than_lookahead() -> None:
    # tokens are certain; lookahead takes .6 and ends with .6 * .55 * 1 = .33; 0 -> 2 -> 3 has .4 * 1
    edges = logs([[0, 0.6, 0.4, 0], [0, 0, 0.55, 0.45], [0, 0, 0, 1], [0, 0, 0, 0]])
    tokens = logs(np.eye(4))
    assert dag_lookahead(tokens, edges) == ([0, 1, 2, 3], (0, 1, 2, 3), pytest.approx(math.log(0.33), rel=1e-14))
    assert dag_viterbi(tokens, edges, beta=0.0) == ([0, 2, 3], (0, 2, 3), pytest.approx(math.log(0.4), rel=1e-14))


def test_dag_viterbi_length_penalty() -> None:
    # log .55 = -.598 over 2 vertices is -.299 each; log .45 = -.799 over 3 is -.266 each
    edges, tokens = logs([[0, 0.45, 0.55], [0, 0, 1], [0, 0, 0]]), logs(np.eye(3))
    assert dag_viterbi(tokens, edges, beta=0.0) == ([0, 2], (0, 2), pytest.approx(math.log(0.55), rel=1e-14))
    assert dag_viterbi(tokens, edges, beta=1.0) == ([0, 1, 2], (0, 1, 2), pytest.approx(math.log(0.45) / 3, rel=1e-14))
    # the two meet where log .55 / 2 ** beta = log .45 / 3 ** beta: beta = log(log .45 / log .55) / log(3 / 2) = .714
    assert dag_viterbi(tokens, edges, beta=0.71)[0] == [0, 2]
    assert dag_viterbi(tokens, edges, beta=0.72)[0] == [0, 1, 2]


def test_dag_of_one_vertex() -> None:
    tokens, edges = logs([[0.25, 0.75]]), logs([[0.0]])
    expected = ([0], (1,), pytest.approx(math.log(0.75), rel=1e-14))
    assert dag_log_likelihood(tokens, edges, [0]) == pytest.approx(math.log(0.25), rel=1e-14)
    assert dag_greedy(tokens, edges) == dag_lookahead(tokens, edges) == expected
    assert dag_viterbi(tokens, edges, beta=2.0) == expected


def test_invalid_dag_is_refused() -> None:
    tokens = draw_log_probs(3, 2, seed=1)
    with pytest.raises(ValueError, match="forward"):
        dag_log_likelihood(tokens, np.zeros((3, 3)), [0, 1])
    with pytest.raises(ValueError, match="follow vertex 0"):
        dag_greedy(tokens, np.full((3, 3), -math.inf))
    with pytest.raises(ValueError, match="no path"):
        dag_viterbi(tokens, np.full((3, 3), -math.inf), beta=1.0)


def test_dag_sums_to_one() -> None:
    tokens, edges = draw_log_probs(5, 2, seed=2), draw_transitions(5, seed=3)
    total = sum(math.exp(dag_log_likelihood(tokens, edges, target)) for target in sequences(range(2), 5))
    assert total == pytest.approx(1.0, rel=1e-12)


def test_dag_posteriors() -> None:
    tokens, edges = draw_log_probs(6, 3, seed=4), draw_transitions(6, seed=5)
    target = [2, 0, 1, 1]
    posteriors = dag_vertex_posteriors(tokens, edges, target)
    np.testing.assert_allclose(posteriors.sum(1), 1.0, rtol=1e-12)
    assert posteriors[0, 0] == pytest.approx(1.0, rel=1e-12)
    assert posteriors[3, 5] == pytest.approx(1.0, rel=1e-12)
    # each token of each vertex: P(t at v | y) is the derivative of log P(y) in log P(y_t | v), summed over equal tokens
    step, expected = 1e-6, np.zeros_like(tokens)
    for v, w in np.ndindex(tokens.shape):
        change = np.zeros_like(tokens)
        change[v, w] = step
        above = dag_log_likelihood(tokens + change, edges, target)
        expected[v, w] = (above - dag_log_likelihood(tokens - change, edges, target)) / (2 * step)
    summed = np.zeros_like(tokens)
    for t, token in enumerate(target):
        summed[:, token] += posteriors[t]
    np.testing.assert_allclose(summed, expected, atol=1e-8)


def test_dag_viterbi_is_the_best_of_all_targets() -> None:
    tokens, edges = draw_log_probs(5, 3, seed=6), draw_transitions(5, seed=7)
    for beta in (0.0, 1.0):
        options = (
            dag_best_path_for_target(tokens, edges, target)[1] / len(target) ** beta
            for target in sequences(range(3), 5)
            if target
        )
        path, output, score = dag_viterbi(tokens, edges, beta=beta)
        assert score == pytest.approx(max(options), rel=1e-14)
        assert dag_best_path_for_target(tokens, edges, output) == (path, pytest.approx(score * len(path) ** beta))
    for decode in (dag_greedy, dag_lookahead):
        assert decode(tokens, edges)[2] <= dag_viterbi(tokens, edges, beta=0.0)[2]


# CRF. By hand, as weights exp(score): two positions, two tokens.
#   emissions 1, 2 at the first and 3, 1 at the second; transitions 0 -> 0: 1, 0 -> 1: 5, 1 -> 0: 1/2, 1 -> 1: 1
#   00: 1*3*1 = 3;  01: 1*1*5 = 5;  10: 2*3*.5 = 3;  11: 2*1*1 = 2;  Z = 13
CRF_EMISSIONS = logs([[1, 2], [3, 1]])
CRF_TRANSITIONS = logs([[1, 5], [0.5, 1]])


def test_crf_by_hand() -> None:
    assert crf_log_partition(CRF_EMISSIONS, CRF_TRANSITIONS) == pytest.approx(math.log(13), rel=1e-14)
    for target, weight in {(0, 0): 3, (0, 1): 5, (1, 0): 3, (1, 1): 2}.items():
        found = crf_log_likelihood(CRF_EMISSIONS, CRF_TRANSITIONS, target)
        assert found == pytest.approx(math.log(weight / 13), rel=1e-14)
    # the emissions alone would choose 1, 0
    assert crf_best(CRF_EMISSIONS, CRF_TRANSITIONS) == ((0, 1), pytest.approx(math.log(5), rel=1e-14))


def test_crf_candidates() -> None:
    def partition(*candidates: list[int]) -> float:
        return math.exp(crf_log_partition_over(candidates, CRF_EMISSIONS, CRF_TRANSITIONS))

    assert partition([1], [0, 1]) == pytest.approx(3 + 2, rel=1e-14)
    assert partition([0, 1], [0]) == pytest.approx(3 + 3, rel=1e-14)
    assert partition([1, 1], [0]) == pytest.approx(3, rel=1e-14)
    assert partition([1, 0], [0, 1]) == pytest.approx(13, rel=1e-14)
    assert partition([], [0]) == 0.0
    with pytest.raises(ValueError, match="1 positions of 2"):
        partition([0])


def test_crf_sums_to_one() -> None:
    rng = np.random.default_rng(8)
    emissions, transitions = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    found = {y: crf_log_likelihood(emissions, transitions, y) for y in product(range(3), repeat=4)}
    assert sum(math.exp(log_prob) for log_prob in found.values()) == pytest.approx(1.0, rel=1e-12)
    best, score = crf_best(emissions, transitions)
    assert best == max(found, key=lambda y: found[y])
    assert score - crf_log_partition(emissions, transitions) == pytest.approx(found[best], rel=1e-12)


def test_crf_without_transitions_is_a_softmax() -> None:
    log_probs = draw_log_probs(4, 3, seed=9)
    assert crf_log_partition(log_probs, np.zeros((3, 3))) == pytest.approx(0.0, abs=1e-12)
    assert crf_best(log_probs, np.zeros((3, 3)))[0] == tuple(log_probs.argmax(1))


# Edits. By hand: kitten and sitting share i, t, t, n.


def letters(word: str) -> list[int]:
    return [ord(letter) for letter in word]


def test_distances_by_hand() -> None:
    kitten, sitting = letters("kitten"), letters("sitting")
    assert longest_common_subsequence(kitten, sitting) == 4
    assert edit_distance_insert_delete(kitten, sitting) == 2 + 3  # delete k, e; insert s, i, g
    assert levenshtein_distance(kitten, sitting) == 3  # replace k by s, e by i; insert g
    assert hamming_distance(kitten, sitting[:6]) == 2
    assert levenshtein_distance([1, 2, 3], []) == levenshtein_distance([], [1, 2, 3]) == 3
    assert levenshtein_distance([1, 2, 3, 4], [2, 3, 4, 5]) == 2  # shifted by one: the Hamming distance is 4
    assert hamming_distance([1, 2, 3, 4], [2, 3, 4, 5]) == 4
    assert (
        longest_common_subsequence([], [1]) == edit_distance_insert_delete([], []) == levenshtein_distance([], []) == 0
    )
    with pytest.raises(ValueError, match="zip"):
        hamming_distance([1], [1, 2])


def neighbours(tokens: tuple[int, ...], *, substitute: bool) -> Iterator[tuple[int, ...]]:
    """Yield all sequences at a distance of one edit, over the tokens 0 and 1."""
    for i in range(len(tokens) + 1):
        yield from ((*tokens[:i], token, *tokens[i:]) for token in (0, 1))
    for i in range(len(tokens)):
        yield tokens[:i] + tokens[i + 1 :]
        if substitute:
            yield from ((*tokens[:i], token, *tokens[i + 1 :]) for token in (0, 1))


def distances_from(start: tuple[int, ...], *, substitute: bool, longest: int) -> dict[tuple[int, ...], int]:
    """Return the number of edits to each sequence of up to `longest` tokens, by breadth-first search."""
    steps, frontier = {start: 0}, [start]
    while frontier:
        reached = {near: steps[here] + 1 for here in frontier for near in neighbours(here, substitute=substitute)}
        frontier = [near for near in reached if len(near) <= longest and near not in steps]
        steps |= {near: reached[near] for near in frontier}
    return steps


def test_distances_are_the_fewest_steps() -> None:
    for a in sequences((0, 1), 3):
        plain = distances_from(a, substitute=True, longest=4)
        insert_delete = distances_from(a, substitute=False, longest=4)
        for b in sequences((0, 1), 4):
            assert levenshtein_distance(a, b) == plain[b]
            assert edit_distance_insert_delete(a, b) == insert_delete[b]
            assert insert_delete[b] == len(a) + len(b) - 2 * longest_common_subsequence(a, b)


def test_apply_edits() -> None:
    assert apply_deletions([5, 6, 7], [True, False, True]) == (5, 7)
    assert apply_insertions([5, 7], [1, 0, 2], [1, 2, 3]) == (1, 5, 7, 2, 3)
    assert apply_insertions([5, 7], [0, 2, 0], [1, 2]) == (5, 1, 2, 7)
    assert apply_insertions([], [2], [8, 9]) == (8, 9)  # between <s> and </s>
    with pytest.raises(ValueError, match="3 gaps, not 2"):
        apply_insertions([5, 7], [0, 0], [])
    with pytest.raises(ValueError, match="do not take 1 fillers"):
        apply_insertions([5, 7], [0, 2, 0], [1])
    with pytest.raises(ValueError, match="do not take 1 fillers"):
        apply_insertions([5, 7], [-1, 2, 0], [1])


def test_is_optimal_edit() -> None:
    hypothesis, reference = [5, 6, 7], [5, 7, 8]  # delete 6, insert 8
    assert is_optimal_edit(hypothesis, reference, [True, False, True], [0, 0, 1], [8])
    assert not is_optimal_edit(hypothesis, reference, [True, False, True], [0, 0, 1], [9])  # not the reference
    assert not is_optimal_edit(hypothesis, reference, [True, False, False], [0, 2], [7, 8])  # 7 is replaced by 7
    assert not is_optimal_edit(hypothesis, reference, [True, True, True], [0, 0, 0, 0], [])
    assert is_optimal_edit(reference, reference, [True] * 3, [0] * 4, [])
    # from 1 2 to 2 1: either token can be kept, so there are two optimal edits
    assert is_optimal_edit([1, 2], [2, 1], [True, False], [1, 0], [2])
    assert is_optimal_edit([1, 2], [2, 1], [False, True], [0, 1], [1])
    assert not is_optimal_edit([1, 2], [2, 1], [False, False], [2], [2, 1])


MASK = 99


class Script:
    """Predictor that returns prepared answers, one per call, and records its inputs."""

    def __init__(self, *answers: tuple[list[int], list[float]]) -> None:
        self.answers = list(answers)
        self.inputs: list[tuple[int, ...]] = []

    def __call__(self, tokens: tuple[int, ...]) -> tuple[list[int], list[float]]:
        self.inputs.append(tokens)
        return self.answers.pop(0)


def test_mask_predict_by_hand() -> None:
    # 3 positions, 3 iterations: 3, 2, 1 masks
    predict = Script(
        ([5, 6, 7], [0.4, 0.2, 0.3]),
        ([1, 8, 9], [1.0, 0.5, 0.6]),  # position 0 is not masked: it keeps 5 with .4, now the least confident
        ([4, 1, 1], [0.1, 0.0, 0.0]),
    )
    assert mask_predict(predict, 3, 3, MASK) == [(5, 6, 7), (5, 8, 9), (4, 8, 9)]
    assert predict.inputs == [(MASK, MASK, MASK), (5, MASK, MASK), (MASK, 8, 9)]


def test_mask_predict_rounds_down_and_masks_the_leftmost() -> None:
    # 5 positions, 3 iterations: 5, int(10 / 3) = 3, int(5 / 3) = 1 masks
    predict = Script(*[([t] * 5, [0.5] * 5) for t in range(3)])
    assert mask_predict(predict, 5, 3, MASK) == [(0, 0, 0, 0, 0), (1, 1, 1, 0, 0), (2, 1, 1, 0, 0)]


def test_mask_predict_with_more_iterations_than_positions() -> None:
    # 2 positions, 4 iterations: 2, int(6 / 4) = 1, int(4 / 4) = 1, int(2 / 4) = 0 masks
    predict = Script(([0, 0], [0.5, 0.6]), ([1, 1], [0.7, 0.7]), ([2, 2], [0.8, 0.8]))
    assert mask_predict(predict, 2, 4, MASK) == [(0, 0), (1, 0), (1, 2), (1, 2)]
    assert len(predict.inputs) == 3
    assert mask_predict(Script(), 0, 2, MASK) == [(), ()]


def test_glancing_count() -> None:
    prediction, reference = [1, 2, 3, 4], [2, 3, 4, 5]  # Hamming 4, Levenshtein 2
    assert glancing_count(prediction, reference, 0.5, hamming_distance) == 2
    assert glancing_count(prediction, reference, 0.5, levenshtein_distance) == 1
    assert glancing_count(prediction, reference, 0.4, hamming_distance) == 1  # 1.6
    assert glancing_count(reference, reference, 0.5, hamming_distance) == 0
