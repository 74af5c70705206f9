"""Tests of CTC against enumeration of all paths and against PyTorch's loss."""

from __future__ import annotations

import itertools
import math

import nat_oracles as oracle
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdmt.losses import ctc
from kdmt.losses.ctc import ctc_best_alignment, ctc_log_likelihood

V = 3  # number of tokens without the blank
TARGETS = [target for length in (1, 2, 3) for target in itertools.product(range(V), repeat=length)]


@pytest.fixture(params=["native", "recursive"], autouse=True)
def variables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with PyTorch's loss, as on a CPU, and with the recursion, as on a GPU."""
    if request.param == "recursive":
        recursive = ctc._recursive_variables
        monkeypatch.setattr(ctc, "_native_variables", lambda log_probs, tokens, *_: recursive(log_probs, tokens))
        monkeypatch.setattr(ctc, "_followed_in_turn", ctc._followed_by_doubling)


def random_logits(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def arranged(log_probs_BLV: Tensor, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of the blank (the last symbol) and of the target tokens, as the loss takes them."""
    ids_BLT = tokens_BT[:, None, :].expand(-1, log_probs_BLV.size(1), -1)
    return log_probs_BLV[:, :, -1], log_probs_BLV.gather(2, ids_BLT)


def padded(targets: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, targets))
    tokens_BT = torch.tensor([[*target, *[0] * (width - len(target))] for target in targets])
    return tokens_BT, torch.tensor([len(target) for target in targets])


@pytest.mark.parametrize("length", [1, 3, 5])
def test_every_small_target_in_one_batch(length: int) -> None:
    """Some targets are too long for the output, or become too long with the blanks between repeated tokens."""
    tokens_BT, tgt_lengths_B = padded(TARGETS)
    log_probs = random_logits(len(TARGETS), length + 1, V + 1).log_softmax(-1)  # the last position is padding
    lengths_B = torch.full((len(TARGETS),), length)
    blank_BL, match_BLT = arranged(log_probs, tokens_BT)
    found = ctc_log_likelihood(blank_BL, match_BLT, tokens_BT, lengths_B=lengths_B, tgt_lengths_B=tgt_lengths_B)
    states = ctc_best_alignment(blank_BL, match_BLT, tokens_BT, lengths_B=lengths_B, tgt_lengths_B=tgt_lengths_B)
    for row, target in enumerate(TARGETS):
        own = log_probs[row, :length].numpy()
        assert float(found[row]) == pytest.approx(oracle.ctc_log_likelihood(own, target, V), rel=1e-12)
        best = oracle.ctc_best_path(own, target, V)
        path = [target[(state - 1) // 2] if state % 2 else V for state in states[row, :length].tolist()]
        assert int(states[row, length:].sum()) == 0
        if math.isinf(best):
            assert path == [V] * length
            continue
        assert oracle.ctc_collapse(path, V) == target
        assert sum(own[position, symbol] for position, symbol in enumerate(path)) == pytest.approx(best, rel=1e-12)


def test_probabilities_of_all_targets_sum_to_one() -> None:
    length = 3
    targets = [(), *TARGETS]
    log_probs = random_logits(1, length, V + 1).log_softmax(-1)
    tokens_BT, tgt_lengths_B = padded(TARGETS)
    blank_BL, match_BLT = arranged(log_probs.expand(len(TARGETS), -1, -1), tokens_BT)
    lengths_B = torch.full((len(TARGETS),), length)
    found = ctc_log_likelihood(blank_BL, match_BLT, tokens_BT, lengths_B=lengths_B, tgt_lengths_B=tgt_lengths_B)
    nothing = float(log_probs[0, :, -1].sum().exp())
    assert float(found.exp().sum()) + nothing == pytest.approx(1.0, rel=1e-12)
    assert len(targets) == 1 + 3 + 9 + 27


def test_gradcheck() -> None:
    tokens_BT, tgt_lengths_B = padded([(0, 0, 1), (2,), (1, 2)])
    lengths_B = torch.tensor([5, 2, 4])

    def loss(logits: Tensor) -> Tensor:
        blank_BL, match_BLT = arranged(logits.log_softmax(-1), tokens_BT)
        return ctc_log_likelihood(blank_BL, match_BLT, tokens_BT, lengths_B=lengths_B, tgt_lengths_B=tgt_lengths_B)

    assert torch.autograd.gradcheck(loss, (random_logits(3, 5, V + 1, seed=2).requires_grad_(),))


def test_impossible_target_has_zero_gradient() -> None:
    tokens_BT, tgt_lengths_B = padded([(0, 0), (0, 1)])
    logits = random_logits(2, 2, V + 1).requires_grad_()
    blank_BL, match_BLT = arranged(logits.log_softmax(-1), tokens_BT)
    lengths_B = torch.tensor([2, 2])
    found = ctc_log_likelihood(blank_BL, match_BLT, tokens_BT, lengths_B=lengths_B, tgt_lengths_B=tgt_lengths_B)
    assert float(found[0].detach()) == -math.inf
    (gradient,) = torch.autograd.grad(found[1], logits)
    assert torch.equal(gradient[0], torch.zeros_like(gradient[0]))
    assert float(gradient[1].abs().sum()) > 0


def test_equals_torch_ctc_loss() -> None:
    rng = np.random.default_rng(1)
    targets = [tuple(rng.integers(0, 20, rng.integers(1, 12)).tolist()) for _ in range(16)]
    tokens_BT, tgt_lengths_B = padded(targets)
    lengths_B = torch.tensor(rng.integers(24, 40, 16))
    logits = random_logits(16, 40, 21, seed=3).requires_grad_()
    log_probs = logits.log_softmax(-1)
    found = ctc_log_likelihood(
        *arranged(log_probs, tokens_BT), tokens_BT, lengths_B=lengths_B, tgt_lengths_B=tgt_lengths_B
    )
    expected = -F.ctc_loss(log_probs.transpose(0, 1), tokens_BT, lengths_B, tgt_lengths_B, blank=20, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    own, theirs = (torch.autograd.grad(each.sum(), logits, retain_graph=True)[0] for each in (found, expected))
    torch.testing.assert_close(own, theirs, rtol=1e-10, atol=1e-13)


def test_result_does_not_depend_on_padding_and_order() -> None:
    targets = [(0, 1, 2), (1,), (2, 2)]
    lengths = [4, 3, 6]
    log_probs = random_logits(3, 6, V + 1, seed=4).log_softmax(-1)
    alone = []
    for row, (target, length) in enumerate(zip(targets, lengths, strict=True)):
        tokens = torch.tensor([target])
        ends = {"lengths_B": torch.tensor([length]), "tgt_lengths_B": torch.tensor([len(target)])}
        alone.append(ctc_log_likelihood(*arranged(log_probs[row : row + 1, :length], tokens), tokens, **ends)[0])
    order = torch.tensor([2, 0, 1])
    tokens_BT, tgt_lengths_B = padded(targets)
    tokens_BT, tgt_lengths_B, lengths_B = tokens_BT[order], tgt_lengths_B[order], torch.tensor(lengths)[order]
    blank_BL, match_BLT = arranged(log_probs[order], tokens_BT)
    wide = F.pad(blank_BL, (0, 2), value=math.nan), F.pad(match_BLT, (0, 0, 0, 2), value=math.nan)
    found = ctc_log_likelihood(*wide, tokens_BT, lengths_B=lengths_B, tgt_lengths_B=tgt_lengths_B)
    assert torch.equal(found, torch.stack(alone)[order])


def test_equally_probable_paths_are_chosen_from_the_same_state_or_the_nearest_one() -> None:
    """At each position of the path, from its end; all symbols of both positions are equally probable."""
    tokens_BT, tgt_lengths_B = padded([(0, 1, 0), (2, 2, 0)])
    even = torch.zeros(2, 6, V + 1).log_softmax(-1)
    states = ctc_best_alignment(
        *arranged(even, tokens_BT), tokens_BT, lengths_B=torch.tensor([6, 5]), tgt_lengths_B=tgt_lengths_B
    )
    assert states.tolist() == [[1, 3, 5, 5, 5, 5], [1, 2, 3, 5, 5, 0]]


def test_half_precision_is_added_in_float32() -> None:
    tokens_BT, tgt_lengths_B = padded([(0, 1, 2, 0, 1)] * 2)
    half = random_logits(2, 40, V + 1, seed=5).log_softmax(-1).bfloat16().requires_grad_()
    lengths_B = torch.tensor([40, 30])

    def found(log_probs: Tensor) -> Tensor:
        blank_BL, match_BLT = arranged(log_probs, tokens_BT)
        return ctc_log_likelihood(blank_BL, match_BLT, tokens_BT, lengths_B=lengths_B, tgt_lengths_B=tgt_lengths_B)

    own, exact = found(half), found(half.double())
    assert own.dtype == torch.bfloat16
    torch.testing.assert_close(own, exact.bfloat16(), rtol=1e-2, atol=0)
    (gradient,) = torch.autograd.grad(own.sum(), half, retain_graph=True)
    (expected,) = torch.autograd.grad(exact.sum(), half)
    torch.testing.assert_close(gradient, expected, rtol=2e-2, atol=1e-4)


def test_without_a_gradient_the_value_is_the_same() -> None:
    tokens_BT, tgt_lengths_B = padded([(0, 0, 1), (2,), (1, 2)])
    arguments = *arranged(random_logits(3, 5, V + 1).log_softmax(-1).requires_grad_(), tokens_BT), tokens_BT
    lengths = {"lengths_B": torch.tensor([5, 2, 4]), "tgt_lengths_B": tgt_lengths_B}
    with torch.no_grad():
        found = ctc_log_likelihood(*arguments, **lengths)
    assert torch.equal(found, ctc_log_likelihood(*arguments, **lengths).detach())
