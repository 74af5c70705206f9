"""Tests of the n-gram similarities against enumeration of all paths and all outputs."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import nat_oracles as oracle
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdmt.losses.ngram_matching import ctc_ngram_similarity, dag_ngram_similarity

V = 3  # number of tokens; the blank of CTC is the token after them
TARGETS = [target for length in range(5) for target in itertools.product(range(2), repeat=length)] + [(2, 0, 2)]
Weighted = Iterable[tuple[float, Sequence[int]]]  # probability and tokens of each output


def ngrams(tokens: Sequence[int], order: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1))


def expected_ngrams(outputs: Weighted, order: int) -> tuple[Counter[tuple[int, ...]], float, float]:
    """Return the expected number of times of each n-gram, the expected number of n-grams, and the expected length."""
    counts: Counter[tuple[int, ...]] = Counter()
    number, length = 0.0, 0.0
    for probability, tokens in outputs:
        for gram, times in ngrams(tokens, order).items():
            counts[gram] += probability * times  # type: ignore[assignment]
        number += probability * max(len(tokens) - order + 1, 0)
        length += probability * len(tokens)
    return counts, number, length


def ctc_outputs(probs_LV: np.ndarray) -> Iterator[tuple[float, Sequence[int]]]:
    for path in itertools.product(range(V + 1), repeat=len(probs_LV)):
        probability = math.prod(float(row[symbol]) for row, symbol in zip(probs_LV, path, strict=True))
        yield probability, oracle.ctc_collapse(path, V)


def dag_outputs(probs_LV: np.ndarray, links_LL: np.ndarray) -> Iterator[tuple[float, Sequence[int]]]:
    for length in range(1, len(probs_LV) + 1):
        for path in oracle.dag_paths(len(probs_LV), length):
            way = math.prod(float(links_LL[u, v]) for u, v in itertools.pairwise(path))
            for tokens in itertools.product(range(V), repeat=length):
                yield way * math.prod(float(probs_LV[v, w]) for v, w in zip(path, tokens, strict=True)), tokens


def ctc_similarity(probs_LV: np.ndarray, target: Sequence[int], order: int) -> float:
    counts, number, _ = expected_ngrams(ctc_outputs(probs_LV), order)
    wanted = ngrams(target, order)
    matched = sum(min(counts[gram], times) for gram, times in wanted.items())
    return 2.0 * matched / (number + wanted.total()) if wanted else 0.0


def dag_similarity(probs_LV: np.ndarray, links_LL: np.ndarray, target: Sequence[int], order: int) -> float:
    counts, number, length = expected_ngrams(dag_outputs(probs_LV, links_LL), order)
    matched = sum(min(counts[gram], times) for gram, times in ngrams(target, order).items())
    return matched / number * min(1.0, math.exp(1.0 - len(target) / length)) if matched else 0.0


def random_logits(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def padded(targets: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    width = max(1, *map(len, targets))
    tokens_BT = torch.tensor([[*target, *[0] * (width - len(target))] for target in targets])
    return tokens_BT, torch.tensor([len(target) for target in targets])


def ctc_found(log_probs_BLV: Tensor, targets: Sequence[tuple[int, ...]], lengths_B: Tensor, order: int) -> Tensor:
    tokens_BT, tgt_lengths_B = padded(targets)
    words_BLV = log_probs_BLV[:, :, :V].exp()
    overlap_BL = F.pad((words_BLV[:, :-1] * words_BLV[:, 1:]).sum(2), (0, 1), value=math.nan)
    return ctc_ngram_similarity(
        log_probs_BLV[:, :, V],
        log_probs_BLV.gather(2, tokens_BT[:, None].expand(-1, log_probs_BLV.size(1), -1)),
        overlap_BL,
        tokens_BT,
        lengths_B=lengths_B,
        tgt_lengths_B=tgt_lengths_B,
        order=order,
    )


def links(scores_BLL: Tensor, vertices_B: Tensor) -> Tensor:
    """Return the log-softmax over the later vertices of each sentence, with a gradient that is finite."""
    size = scores_BLL.size(1)
    inside = torch.arange(size) < vertices_B[:, None]
    allowed = torch.ones(size, size).triu(1).bool() & inside[:, None]
    return scores_BLL.masked_fill(~allowed, -1e9).log_softmax(-1).masked_fill(~allowed, -math.inf)


def dag_found(
    log_probs_BLV: Tensor, links_BLL: Tensor, targets: Sequence[tuple[int, ...]], vertices_B: Tensor, order: int
) -> Tensor:
    tokens_BT, tgt_lengths_B = padded(targets)
    match_BTL = log_probs_BLV.gather(2, tokens_BT[:, None].expand(-1, log_probs_BLV.size(1), -1)).transpose(1, 2)
    return dag_ngram_similarity(
        match_BTL, links_BLL, tokens_BT, tgt_lengths_B=tgt_lengths_B, vertices_B=vertices_B, order=order
    )


# ---------------------------------------------------------------------------------------------------------------- CTC


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_ctc_similarity_equals_enumeration_of_all_paths(length: int, order: int, scale: float) -> None:
    """All targets of up to four tokens over two words: empty ones, repeated tokens, targets that are too long."""
    log_probs = (scale * random_logits(len(TARGETS), length, V + 1)).log_softmax(-1)
    found = ctc_found(log_probs, TARGETS, torch.full((len(TARGETS),), length), order)
    for row, target in enumerate(TARGETS):
        assert float(found[row]) == pytest.approx(ctc_similarity(log_probs[row].exp().numpy(), target, order), abs=1e-9)
    assert bool((found >= 0).all())
    assert bool((found <= 1.0 + 1e-12).all())
    assert [float(value) for value, target in zip(found, TARGETS, strict=True) if len(target) < order] == [0.0] * (
        1 if order == 1 else 3
    )


def test_ctc_similarity_of_certain_outputs() -> None:
    """The output a a _ b _ b is a b b: its bigrams are ab and bb. Twice the same word needs a blank in between."""
    a, b, blank = 0, 1, V
    log_probs = F.one_hot(torch.tensor([[a, a, blank, b, blank, b]]), V + 1).double().clamp_min(1e-30).log()
    for target, expected in [((a, b, b), 1.0), ((a, b), 2 / 3), ((a, a, b), 1 / 2), ((b, a), 0.0)]:
        assert float(ctc_found(log_probs, [target], torch.tensor([6]), 2)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_ctc_gradcheck(order: int) -> None:
    lengths_B = torch.tensor([5, 2, 4, 1])
    targets = [(0, 0, 1), (2, 1), (1, 1, 1, 2), (0,)]

    def similarity(logits: Tensor) -> Tensor:
        log_probs = logits.log_softmax(-1)
        words = log_probs[:, :, :V].exp()
        tokens_BT, tgt_lengths_B = padded(targets)
        return ctc_ngram_similarity(
            log_probs[:, :, V],
            log_probs.gather(2, tokens_BT[:, None].expand(-1, log_probs.size(1), -1)),
            F.pad((words[:, :-1] * words[:, 1:]).sum(2), (0, 1)),
            tokens_BT,
            lengths_B=lengths_B,
            tgt_lengths_B=tgt_lengths_B,
            order=order,
        )

    assert torch.autograd.gradcheck(similarity, (random_logits(4, 5, V + 1, seed=2).requires_grad_(),))


@pytest.mark.parametrize("order", [1, 2])
def test_ctc_similarity_does_not_depend_on_padding_and_batch(order: int) -> None:
    targets, lengths = [(0, 1, 2), (1,), (2, 2)], [4, 3, 6]
    log_probs = random_logits(3, 6, V + 1, seed=4).log_softmax(-1)
    alone = [
        ctc_found(log_probs[row : row + 1, :length], [target], torch.tensor([length]), order)[0]
        for row, (target, length) in enumerate(zip(targets, lengths, strict=True))
    ]
    wide = F.pad(log_probs, (0, 0, 0, 2))
    for row, length in enumerate(lengths):
        wide[row, length:] = math.nan
    found = ctc_found(wide.flip(0), targets[::-1], torch.tensor(lengths[::-1]), order)
    torch.testing.assert_close(found, torch.stack(alone[::-1]), rtol=1e-12, atol=1e-14)


def test_ctc_similarity_is_exact_in_float32_after_many_blanks() -> None:
    """The logarithms of the blank add up to thousands; the gap between two words is still found exactly."""
    log_probs = (12.0 * random_logits(1, 700, V + 1, seed=5)).log_softmax(-1)
    for target in [(0, 1, 2), (1, 1, 0, 0)]:
        exact = ctc_found(log_probs, [target], torch.tensor([700]), 2)
        near = ctc_found(log_probs.float(), [target], torch.tensor([700]), 2)
        torch.testing.assert_close(near.double(), exact, rtol=2e-5, atol=0)


# ------------------------------------------------------------------------------------------ directed acyclic decoder


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("vertices", [1, 2, 3, 5])
def test_dag_similarity_equals_enumeration_of_all_paths_and_tokens(vertices: int, order: int) -> None:
    count = len(TARGETS)
    vertices_B = torch.full((count,), vertices)
    log_probs = random_logits(count, vertices, V).log_softmax(-1)
    links_BLL = links(random_logits(count, vertices, vertices, seed=2), vertices_B)
    found = dag_found(log_probs, links_BLL, TARGETS, vertices_B, order)
    for row, target in enumerate(TARGETS):
        expected = dag_similarity(log_probs[row].exp().numpy(), links_BLL[row].exp().numpy(), target, order)
        assert float(found[row]) == pytest.approx(expected, abs=1e-9)
    assert bool((found >= 0).all())
    assert bool((found <= 1.0 + 1e-12).all())
    assert float(found.max()) > 0.0 or vertices < order


def test_dag_similarity_of_certain_outputs() -> None:
    """The path 0 1 3 emits a b c; the vertex 2 is skipped. A short output has a brevity penalty."""
    log_probs = F.one_hot(torch.tensor([[0, 1, 0, 2]]), V).double().clamp_min(1e-30).log()
    links_BLL = torch.full((1, 4, 4), -math.inf, dtype=torch.float64)
    for u, v in [(0, 1), (1, 3), (2, 3)]:
        links_BLL[0, u, v] = 0.0
    for target, expected in [((0, 1, 2), 1.0), ((0, 1), 1 / 2), ((0, 1, 1, 2), math.exp(-1 / 3)), ((2, 1, 0), 0.0)]:
        assert float(dag_found(log_probs, links_BLL, [target], torch.tensor([4]), 2)) == pytest.approx(expected)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_dag_gradcheck(order: int) -> None:
    vertices_B = torch.tensor([5, 2, 4, 1])
    targets = [(0, 0, 1), (2, 1), (1, 1, 1, 2), (0, 1)]

    def similarity(logits: Tensor, scores: Tensor) -> Tensor:
        return dag_found(logits.log_softmax(-1), links(scores, vertices_B), targets, vertices_B, order)

    given = random_logits(4, 5, V, seed=2).requires_grad_(), random_logits(4, 5, 5, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(similarity, given)


def test_dag_similarity_does_not_depend_on_padding_and_batch() -> None:
    targets, vertices = [(0, 1, 2), (1,), (2, 2)], [4, 3, 6]
    log_probs, scores = random_logits(3, 6, V, seed=4).log_softmax(-1), random_logits(3, 6, 6, seed=5)
    vertices_B = torch.tensor(vertices)
    links_BLL = links(scores, vertices_B)
    alone = [
        dag_found(log_probs[row, :size][None], links_BLL[row, :size, :size][None], [target], torch.tensor([size]), 2)[0]
        for row, (target, size) in enumerate(zip(targets, vertices, strict=True))
    ]
    wide, wide_links = F.pad(log_probs, (0, 0, 0, 2)), F.pad(links_BLL, (0, 2, 0, 2), value=math.nan)
    for row, size in enumerate(vertices):
        wide[row, size:] = math.nan
        wide_links[row, size:], wide_links[row, :, size:] = math.nan, math.nan
    found = dag_found(wide.flip(0), wide_links.flip(0), targets[::-1], vertices_B.flip(0), 2)
    torch.testing.assert_close(found, torch.stack(alone[::-1]), rtol=1e-12, atol=1e-14)
