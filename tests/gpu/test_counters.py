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
    from gpu_counting import Count, count_decoding, count_packed_update, count_update, counting_pairs
else:
    pytest.skip("waits and launches are counted on the simulated device", allow_module_level=True)

# Objective: most waits and most launches of an update.
UPDATES: Mapping[str, tuple[int, int]] = {
    "teacher": (0, 1150),
    "word_kd": (0, 1570),
    "word_kd_ensemble": (0, 1960),
    "word_kd_js": (0, 1590),
    "word_kd_batch": (0, 1590),
    "word_kd_global": (0, 1590),
    "word_kd_limits": (0, 1620),
    "word_kd_marginal": (0, 1600),
    "word_kd_cache": (0, 1230),
    "word_kd_cache_limits": (0, 1270),
    "hidden_kd": (0, 1700),
    "hidden_attention_kd": (0, 3230),
    "self_supervised": (0, 1680),
    "denoising": (0, 2370),
    "ema": (0, 1530),
    "joint": (0, 1610),
    "mutual": (0, 2200),
    "convex": (0, 1200),
    "nat": (0, 1230),
    "nat_glancing": (1, 1700),
    "nat_glancing_levenshtein": (1, 1870),
    "nat_glancing_as_published": (1, 1700),
    "nat_soft_copy_deep": (0, 1500),
    "nat_hidden_kd": (0, 1780),
    "cmlm": (0, 1190),
    "cmlm_correction": (0, 1630),
    "cmlm_word_kd_cache": (0, 1290),
    "inat": (0, 4070),
    "nat_crf": (0, 2220),
    "ctc": (0, 1660),
    "ctc_glancing": (0, 2330),
    "ctc_glancing_levenshtein": (0, 2500),
    "ctc_glancing_as_published": (0, 2350),
    "ctc_deep": (0, 4350),
    "ctc_dslp": (0, 6910),
    "nat_dslp": (0, 1570),
    "ctc_encoder_kd": (0, 2290),
    "ctc_nmla": (0, 1720),
    "ctc_convex": (0, 1660),
    "dag": (0, 1680),
    "dag_fuzzy_alignment": (0, 1680),
    "dag_glancing": (0, 2230),
    "dag_glancing_as_published": (0, 2230),
    "dag_upsample": (0, 1690),
    "levenshtein": (0, 3060),
    "levenshtein_deep": (0, 3310),
    "insertion": (0, 1190),
}
# The same with packed sentences.
PACKED_UPDATES: Mapping[str, tuple[int, int]] = {
    "teacher_packed": (0, 1450),
    "word_kd_packed": (0, 2200),
    "word_kd_cache_packed": (0, 1540),
}
# Search: most waits and most launches, per step with a beam or samples, else per batch.
SEARCHES: Mapping[str, tuple[float, int]] = {
    "beam_search": (1, 195),
    "greedy_search": (0.2, 134),
    "sampling": (0.2, 158),
    "score_pairs": (1, 198),
    "decode_nat": (2, 390),
    "decode_cmlm": (2, 2710),
    "decode_cmlm_correction": (2, 2160),
    "decode_inat": (7, 1140),
    "decode_nat_crf": (2, 2914),
    "decode_ctc": (1, 261),
    "decode_ctc_beam": (2, 213),
    "decode_dag_greedy": (3, 276),
    "decode_dag_lookahead": (3, 277),
    "decode_dag_viterbi": (3, 747),
    "decode_levenshtein": (6, 1013),
    "decode_insertion": (19, 2077),
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


@pytest.mark.parametrize("name", PACKED_UPDATES)
def test_update_with_packed_sentences_is_within_its_bounds(
    name: str,
    long_pairs: ParallelData,
    cuda: torch.device,  # noqa: ARG001
) -> None:
    check(count_packed_update(name, long_pairs), *PACKED_UPDATES[name])


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
