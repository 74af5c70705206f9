"""Upper bounds on the host waits and the kernel launches of an update, and of a step of a search.

A wait is a place where the host waits for the GPU, such as `.item()`, a copy or an index by a mask; while it waits, no
further kernels are queued. A bound that is exceeded names the lines of kdmt. A bound that is much too high fails as
well: lower it, so that nobody loses again what was gained. `make bench-gpu-counters` prints all counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import simulated_guard
import torch

from kdmt.corpus.batching import ParallelData

if simulated_guard.is_loaded():
    from gpu_counting import Count, count_decoding, count_update, counting_pairs
else:
    pytest.skip("waits and launches are counted on the simulated device", allow_module_level=True)

# Objective: most waits and most launches of an update.
UPDATES: Mapping[str, tuple[int, int]] = {
    "teacher": (3, 1180),
    "word_kd": (5, 1610),
    "word_kd_batch": (5, 1630),
    "word_kd_cache": (6, 1260),
    "hidden_attention_kd": (43, 3420),
    "self_supervised": (8, 1740),
    "ema": (5, 1810),
    "mutual": (7, 2260),
    "nat": (5, 1270),
    "nat_glancing": (7, 1740),
    "cmlm": (7, 1250),
    "inat": (14, 4200),
    "nat_crf": (6, 2270),
    "ctc": (8, 5110),
    "ctc_glancing": (12, 7800),
    "dag": (8, 2350),
    "dag_glancing": (12, 3060),
    "levenshtein": (30, 7890),
    "insertion": (14, 3590),
}
# Search: most waits and most launches, per step with a beam or samples, else per batch.
SEARCHES: Mapping[str, tuple[float, int]] = {
    "beam_search": (4.8, 197),
    "greedy_search": (4.8, 182),
    "sampling": (4.8, 178),
}
SLACK = 1.1  # a bound may be this much above the measured launches


@pytest.fixture(scope="module")
def long_pairs(tmp_path_factory: pytest.TempPathFactory) -> ParallelData:
    return counting_pairs(tmp_path_factory.mktemp("long_pairs"))


def check(count: Count, most_waits: float, most_launches: int) -> None:
    waits, launches = count.num_waits / count.steps, count.launches / count.steps
    assert waits <= most_waits, f"{waits:.4g} host waits, at most {most_waits}:\n{count.waiting_lines()}"
    assert launches <= most_launches, (
        f"{launches:.5g} kernel launches, at most {most_launches}; the most at\n{count.launching_lines()}"
    )
    assert waits > most_waits - 1, f"{waits:.4g} host waits: lower the bound of {most_waits}"
    assert launches * SLACK > most_launches, f"{launches:.5g} kernel launches: lower the bound of {most_launches}"


@pytest.mark.parametrize("name", UPDATES)
def test_update_is_within_its_bounds(name: str, long_pairs: ParallelData, cuda: torch.device) -> None:  # noqa: ARG001
    check(count_update(name, long_pairs), *UPDATES[name])


@pytest.mark.parametrize("name", SEARCHES)
def test_search_is_within_its_bounds(name: str, long_pairs: ParallelData, cuda: torch.device) -> None:  # noqa: ARG001
    check(count_decoding(name, long_pairs), *SEARCHES[name])


def test_wait_in_an_objective_is_reported_with_its_line(
    long_pairs: ParallelData,
    cuda: torch.device,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kdmt.models.dropout import Dropout

    expected = count_update("teacher", long_pairs)
    forward = Dropout.forward

    def waiting(self: Dropout, x: torch.Tensor) -> torch.Tensor:
        x.detach().sum().item()
        return forward(self, x)

    monkeypatch.setattr(Dropout, "forward", waiting)
    found = count_update("teacher", long_pairs)
    added = found.waits - expected.waits
    assert sum(added.values()) > 10
    assert all(place.startswith("_local_scalar_dense at kdmt/models/") for place in added)
    with pytest.raises(AssertionError, match=r"_local_scalar_dense at kdmt/models/\w+\.py:\d+"):
        check(found, expected.num_waits, 10_000)
