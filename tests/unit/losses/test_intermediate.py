"""Tests of the distances of hidden states and of attention maps against loops over the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdmt.losses.intermediate import attention_distance, hidden_distance, match_heads


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(x: list[float]) -> float:
    return math.sqrt(sum(each * each for each in x))


@pytest.mark.parametrize("kind", ["mse", "cosine", "pkd"])
def test_hidden(kind: str) -> None:
    student, teacher = draw(5, 7, seed=1), draw(5, 7, seed=2)
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        pairs = list(zip(s, t, strict=True))
        expected += {
            "mse": sum((x - y) ** 2 for x, y in pairs) / 7,
            "cosine": 1 - sum(x * y for x, y in pairs) / (norm(s) * norm(t)),
            "pkd": sum((x / norm(s) - y / norm(t)) ** 2 for x, y in pairs),
        }[kind]
    assert float(hidden_distance(student, teacher, kind)) == pytest.approx(expected, rel=1e-12)  # type: ignore[arg-type]
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: hidden_distance(s, teacher, kind), (student,))  # type: ignore[arg-type]


def maps(heads: int, seed: int) -> Tensor:
    """Return attention maps of 3 sentences over 5 keys; sentence b has 5 - b real keys."""
    scores = draw(3, heads, 4, 5, seed=seed)
    for sentence in range(3):
        scores[sentence, :, :, 5 - sentence :] = -math.inf
    return scores.softmax(-1)


@pytest.mark.parametrize("kind", ["kl", "squared_error"])
def test_attention(kind: str) -> None:
    student, teacher = maps(2, 1), maps(2, 2)
    keep = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    expected = 0.0
    for b, t in keep.nonzero().tolist():
        for h in range(2):
            for x, y in zip(student[b, h, t].tolist(), teacher[b, h, t].tolist(), strict=True):
                if kind == "kl":
                    expected += y * math.log(y / x) / 2 if y else 0.0
                else:
                    expected += (x - y) ** 2 / 2
    assert float(attention_distance(student, teacher, keep, kind)) == pytest.approx(expected, rel=1e-12)  # type: ignore[arg-type]
    assert float(attention_distance(student, student.clone(), keep, kind)) == 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["kl", "squared_error"])
def test_gradient_is_finite_on_masked_keys(kind: str) -> None:
    scores = draw(3, 2, 4, 5).requires_grad_()
    hidden = torch.zeros(5, dtype=torch.bool)
    hidden[3:] = True
    student = scores.masked_fill(hidden, -math.inf).softmax(-1)
    attention_distance(student, maps(2, 2), torch.ones(3, 4, dtype=torch.bool), kind).backward()  # type: ignore[arg-type]
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_heads() -> None:
    two, four = maps(2, 1), maps(4, 2)
    student, teacher = match_heads(two, four, [3, 0])
    assert torch.equal(student, two)
    assert torch.equal(teacher, four[:, [3, 0]])
    student, teacher = match_heads(two, four, None)
    torch.testing.assert_close(student[:, 0], two.mean(1))
    torch.testing.assert_close(teacher[:, 0], four.mean(1))
    assert match_heads(two, maps(2, 3), None)[1].size(1) == 2
