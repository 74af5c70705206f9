"""An objective of one rank is not wrapped. For several ranks see tests/pipeline/test_ranks.py."""

from __future__ import annotations

import torch
from copy_task import CPU, make_model

from kdmt.objectives.build import build_objective
from kdmt.ranks import ALONE
from kdmt.train.distributed import ParallelObjective


def made(parallel: str = "ddp") -> ParallelObjective:
    objective = build_objective(make_model(), label_smoothing=0.1)
    return ParallelObjective(objective, parallel=parallel, ranks=ALONE, device=CPU)  # type: ignore[arg-type]


def test_one_rank_calls_the_objective_itself() -> None:
    for parallel in ("ddp", "fsdp"):
        alone = made(parallel)
        assert alone.module is alone.objective
        assert (alone.scale, alone.sharded) == (1.0, False)
        for last in (False, True):
            with alone.accumulating(last=last):
                pass


def test_tensors_of_one_rank_are_whole() -> None:
    alone = made()
    parameter = next(alone.objective.model.parameters())
    assert alone.whole(parameter) is parameter
    part = alone.part_of(torch.ones(parameter.shape), parameter)
    assert torch.equal(part, torch.ones(parameter.shape))
    collected = alone.collect({"name": parameter})
    assert set(collected) == {"name"}
    assert torch.equal(collected["name"], parameter.detach())
    assert not collected["name"].requires_grad


def test_evaluation_uses_the_same_weights_in_evaluation_mode() -> None:
    alone = made()
    alone.objective.train()
    with alone.evaluating() as objective:
        assert objective is alone.objective
        assert not objective.training
        assert not objective.model.training
