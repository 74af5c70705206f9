"""Tests of the likelihood of the directed acyclic decoder against enumeration of all paths."""

from __future__ import annotations

import math
from itertools import product

import nat_oracles as oracle
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdmt.losses.dag import dag_best_alignment, dag_log_likelihood

V = 3
SMALL = [  # all targets of 1 to 4 tokens over a vocabulary of 2, with 2 to 6 vertices
    (vertices, target)
    for vertices in range(2, 7)
    for length in range(1, 5)
    for target in product(range(2), repeat=length)
]
# (vertices, target): as many tokens as vertices (one path), many paths, no path
CASES: list[tuple[int, tuple[int, ...]]] = [
    (4, (0, 1, 1, 2)),
    (6, (2, 0, 1)),
    (5, (1, 0)),
    (6, (0, 0, 2, 1)),
    (3, (0, 1, 2, 0)),
    (4, (1,)),
    (7, (2, 1, 0, 0, 1)),
]


def random_logits(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def links(scores_BLL: Tensor, vertices_B: Tensor) -> Tensor:
    """Return the log-softmax over the later vertices of each sentence."""
    size = scores_BLL.size(1)
    inside = torch.arange(size) < vertices_B[:, None]
    allowed = torch.ones(size, size).triu(1).bool() & inside[:, None, :]
    return scores_BLL.masked_fill(~allowed, -math.inf).log_softmax(-1).masked_fill(~allowed, -math.inf)


def batch(seed: int = 1, cases: list[tuple[int, tuple[int, ...]]] = CASES) -> dict[str, Tensor]:
    size, width = max(vertices for vertices, _ in cases), max(len(target) for _, target in cases)
    token_log_probs = random_logits(len(cases), size, V, seed=seed).log_softmax(-1)
    targets = torch.tensor([[*target, *[0] * (width - len(target))] for _, target in cases])
    vertices_B = torch.tensor([vertices for vertices, _ in cases])
    return {
        "tokens_BLV": token_log_probs,
        "match_BTL": token_log_probs.gather(2, targets[:, None, :].expand(-1, size, -1)).transpose(1, 2),
        "links_BLL": links(random_logits(len(cases), size, size, seed=seed + 1), vertices_B),
        "vertices_B": vertices_B,
        "tgt_lengths_B": torch.tensor([len(target) for _, target in cases]),
    }


def likelihood(given: dict[str, Tensor]) -> Tensor:
    lengths = {"tgt_lengths_B": given["tgt_lengths_B"], "vertices_B": given["vertices_B"]}
    return dag_log_likelihood(given["match_BTL"], given["links_BLL"], **lengths)


def sentence(
    given: dict[str, Tensor], row: int, cases: list[tuple[int, tuple[int, ...]]] = CASES
) -> tuple[list[list[float]], list[list[float]], tuple[int, ...]]:
    vertices, target = cases[row]
    return (
        given["tokens_BLV"][row, :vertices].tolist(),
        given["links_BLL"][row, :vertices, :vertices].tolist(),
        target,
    )


def test_likelihood_and_best_path_equal_enumeration() -> None:
    given = batch()
    found = likelihood(given)
    lengths = {"tgt_lengths_B": given["tgt_lengths_B"], "vertices_B": given["vertices_B"]}
    alignment = dag_best_alignment(given["match_BTL"], given["links_BLL"], **lengths)
    impossible = []
    for row, (vertices, target) in enumerate(CASES):
        own = sentence(given, row)
        assert float(found[row]) == pytest.approx(oracle.dag_log_likelihood(*own), rel=1e-12)
        if float(found[row]) == -math.inf:
            impossible.append(row)
            continue
        path, _ = oracle.dag_best_path_for_target(*own)
        assert alignment[row, : len(target)].tolist() == path
        assert alignment[row, len(target) :].tolist() == [vertices - 1] * (alignment.size(1) - len(target))
    assert impossible == [4, 5]


def test_likelihood_best_path_and_posteriors_of_all_small_cases() -> None:
    given = batch(seed=11, cases=SMALL)
    match = given["match_BTL"].clone().requires_grad_()
    found = likelihood({**given, "match_BTL": match})
    (shares,) = torch.autograd.grad(found.clamp_min(-1e9).sum(), match)
    lengths = {"tgt_lengths_B": given["tgt_lengths_B"], "vertices_B": given["vertices_B"]}
    alignment = dag_best_alignment(given["match_BTL"], given["links_BLL"], **lengths)
    for row, (vertices, target) in enumerate(SMALL):
        own = sentence(given, row, SMALL)
        assert float(found[row].detach()) == pytest.approx(oracle.dag_log_likelihood(*own), rel=1e-12)
        if float(found[row].detach()) > -math.inf:
            assert alignment[row, : len(target)].tolist() == oracle.dag_best_path_for_target(*own)[0]
            posterior = torch.from_numpy(oracle.dag_vertex_posteriors(*own))
            torch.testing.assert_close(shares[row, : len(target), :vertices], posterior, rtol=1e-10, atol=1e-13)


def plain_recursion(match_TL: Tensor, links_LL: Tensor) -> Tensor:
    """Return the log-likelihood by a loop over tokens in log space, which autograd can differentiate."""
    alpha_L = torch.cat([match_TL[0, :1], torch.full_like(match_TL[0, 1:], -1e9)])
    for match_L in match_TL[1:]:
        alpha_L = (alpha_L[:, None] + links_LL).logsumexp(0) + match_L
    return alpha_L[-1]


@pytest.mark.parametrize(
    ("length", "vertices"),
    [(60, 70), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((200, 210), (250, 260), (100, 400)))],
)
def test_gradients_of_long_targets_equal_plain_recursion(length: int, vertices: int) -> None:
    """Paths that cannot reach the end may be hundreds of nats more probable than those that can."""
    match = (random_logits(length, vertices) * 2 - 9).requires_grad_()
    later = torch.ones(vertices, vertices).triu(1).bool()
    step = torch.zeros(vertices, vertices, dtype=torch.float64).masked_fill(~later, -math.inf).log_softmax(1)
    step = step.nan_to_num(neginf=-math.inf, nan=-math.inf).requires_grad_()
    lengths = {"tgt_lengths_B": torch.tensor([length]), "vertices_B": torch.tensor([vertices])}
    found = dag_log_likelihood(match[None], step[None], **lengths)[0]
    finite = step.detach().clamp_min(-1e5).requires_grad_()
    expected = plain_recursion(match, finite)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    mine, theirs = torch.autograd.grad(found, (match, step)), torch.autograd.grad(expected, (match, finite))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    assert float(mine[1].sum()) == pytest.approx(length - 1, rel=1e-10)


def test_gradient_equals_posterior() -> None:
    """The gradient by the match is the vertex posterior; gradients by all inputs equal finite differences."""
    given = batch(seed=3)
    match = given["match_BTL"].clone().requires_grad_()
    (found,) = torch.autograd.grad(likelihood({**given, "match_BTL": match}).clamp_min(-1e9).sum(), match)
    for row, (vertices, target) in enumerate(CASES):
        if row in (4, 5):
            assert torch.equal(found[row], torch.zeros_like(found[row]))
            continue
        posterior = torch.from_numpy(oracle.dag_vertex_posteriors(*sentence(given, row)))
        torch.testing.assert_close(found[row, : len(target), :vertices], posterior, rtol=1e-10, atol=1e-13)
    scores = random_logits(len(CASES), 7, 7, seed=5).requires_grad_()
    possible = [row for row in range(len(CASES)) if row not in (4, 5)]

    def loss(match_BTL: Tensor, scores_BLL: Tensor) -> Tensor:
        whole = {**given, "match_BTL": match_BTL, "links_BLL": links(scores_BLL, given["vertices_B"])}
        return likelihood(whole)[possible]

    assert torch.autograd.gradcheck(loss, (match, scores))


def test_result_does_not_depend_on_padding_and_order() -> None:
    given = batch(seed=7)
    order = torch.tensor([3, 0, 6, 2, 1, 5, 4])
    moved = {name: tensor[order] for name, tensor in given.items()}
    moved["match_BTL"] = F.pad(moved["match_BTL"], (0, 2, 0, 1), value=-1.0)
    moved["links_BLL"] = F.pad(moved["links_BLL"], (0, 2, 0, 2), value=-math.inf)
    torch.testing.assert_close(likelihood(moved), likelihood(given)[order], rtol=1e-13, atol=0)


def test_improbable_path_is_not_lost_in_float32() -> None:
    """The only path to the end is 300 nats less probable than a path that cannot reach the end."""
    match = torch.tensor([[[0.0, -1e3, -1e3, -1e3], [-1e3, -300.0, 0.0, -1e3], [-1e3, -1e3, -1e3, 0.0]]])
    step = torch.full((1, 4, 4), -math.inf)
    step[0, 0, 1:3] = math.log(0.5)
    step[0, 1, 3] = 0.0
    lengths = {"tgt_lengths_B": torch.tensor([3]), "vertices_B": torch.tensor([4])}
    step.requires_grad_()
    found = dag_log_likelihood(match, step, **lengths)
    assert float(found.detach()) == pytest.approx(-300 + math.log(0.5), rel=1e-6)
    (shares,) = torch.autograd.grad(found.sum(), step)
    expected = torch.zeros(4, 4)
    expected[0, 1] = expected[1, 3] = 1.0
    torch.testing.assert_close(shares[0], expected)


def test_without_a_gradient_the_value_is_the_same() -> None:
    given = batch(seed=13)
    given["match_BTL"].requires_grad_()
    with torch.no_grad():
        found = likelihood(given)
    assert torch.equal(found, likelihood(given).detach())
