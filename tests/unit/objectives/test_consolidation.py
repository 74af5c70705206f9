"""Elastic weight consolidation: the term and the Fisher information by their formulas."""

from __future__ import annotations

import pytest
import torch
from copy_task import terms_of
from small_students import EPSILON, batch_of, logits_of, small

from kdmt.config import Consolidation, Student
from kdmt.corpus.batching import Batch
from kdmt.objectives.build import build_objective
from kdmt.objectives.consolidation import Anchor, ElasticConsolidation, fisher_diagonal
from kdmt.types import PAD


def pairs() -> list[Batch]:
    return [batch_of([length], seed=length) for length in (2, 5, 3)]


def test_fisher_is_the_mean_squared_gradient_of_the_log_probability_of_a_target() -> None:
    model = small(1)
    found = fisher_diagonal(model, pairs())
    wanted = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
    for batch in pairs():
        model.zero_grad()
        assert batch.tgt_tokens_BT is not None
        targets_M = batch.tgt_tokens_BT[batch.tgt_tokens_BT.ne(PAD)]
        logits_of(model, batch).log_softmax(1)[range(len(targets_M)), targets_M].sum().backward()
        for name, each in model.named_parameters():
            assert each.grad is not None
            wanted[name] += each.grad**2 / len(pairs())
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("student", [None, Student()])
def test_the_term_is_the_weighted_distance_to_the_anchor(student: Student | None) -> None:
    model, first = small(1), small(2)
    anchor = Anchor({name: each.detach() for name, each in first.named_parameters()}, fisher_diagonal(first, pairs()))
    settings = Consolidation(weight=0.3, prepared="runs/general/prepare")
    objective = build_objective(model, student, label_smoothing=EPSILON, consolidation=settings).train()
    (term,) = (each for each in objective.terms if isinstance(each, ElasticConsolidation))
    term.use(anchor)
    terms = terms_of(objective, batch_of([4, 3, 2]))
    assert set(terms) == {"loss", "nll", "ewc"}
    assert (terms["ewc"].count, terms["ewc"].weight) == (1.0, 0.3)
    wanted = sum(
        float((anchor.fisher[name] * (each.detach() - anchor.weights[name]) ** 2).sum()) / 2
        for name, each in model.named_parameters()
    )
    assert float(terms["ewc"].sum.detach()) == pytest.approx(wanted, rel=1e-12)
    terms["ewc"].sum.backward()
    for name, each in model.named_parameters():
        torch.testing.assert_close(each.grad, anchor.fisher[name] * (each - anchor.weights[name]))
