"""Every search finds the tokens on the GPU that it finds on the CPU, with models in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gpu_cases import SHAPE, UNSHARED, VOCAB, make_decisive, make_model, make_nat_model

from kdmt.config import NAT, Decode, NATDecode
from kdmt.corpus.batching import ParallelData
from kdmt.decode.engines.fairseq_refinement import RefinementEngine
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.families import FAMILIES, FamilyName
from kdmt.models.architecture import NATConfig, architecture
from kdmt.models.build import build_nonautoregressive
from kdmt.types import Hypothesis, Sampling

SETTINGS = {"max_len_a": 1.0, "max_len_b": 4, "batch_size": 16}
CPU = torch.device("cpu")

SEARCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # settings of the model and of the search
    "nat": ({"family": "nat"}, {"length_beam": 3}),
    "nat_soft_copy": ({"family": "nat", "source_copy": "soft"}, {}),
    "cmlm": ({"family": "cmlm"}, {"length_beam": 2}),
    "cmlm_correction": ({"family": "cmlm", "correction": 0.3}, {}),
    "inat": ({"family": "inat"}, {}),
    "nat_crf": ({"family": "nat_crf", "crf_candidates": 8}, {}),
    "ctc_best_path": ({"family": "ctc"}, {}),
    "ctc_beam": ({"family": "ctc"}, {"ctc_beam": 3}),
    "dag_greedy": ({"family": "dag"}, {"dag": "greedy"}),
    "dag_lookahead": ({"family": "dag"}, {"dag": "lookahead"}),
    "dag_viterbi": ({"family": "dag"}, {"dag": "viterbi"}),
    "levenshtein": ({"family": "levenshtein"}, {"eos_penalty": 1.0}),
    "insertion": ({"family": "insertion"}, {"eos_penalty": 1.0}),
}
REFINED = [name for name, family in FAMILIES.items() if family.fairseq is not None]

Found = list[list[Hypothesis]]


def sources_of(pairs: ParallelData, count: int = 24) -> list[np.ndarray]:
    return [np.asarray(pairs[index][0], dtype=np.int64) for index in range(count)]


def assert_same_on(cuda: torch.device, search: Callable[[torch.device], Found]) -> None:
    """Check that a search finds the same tokens and scores on both devices, and several different ones."""
    expected, found = search(CPU), search(cuda)
    tokens = [[each.tokens for each in nbest] for nbest in expected]
    assert [[each.tokens for each in nbest] for nbest in found] == tokens
    scores = [each.score for nbest in expected for each in nbest]
    assert [each.score for nbest in found for each in nbest] == pytest.approx(scores, abs=1e-9)
    assert len({nbest[0] for nbest in tokens}) >= 8


@pytest.mark.parametrize(("beam", "lenpen"), [(1, 1.0), (5, 0.6)])
def test_beam_search_finds_the_tokens_of_the_cpu(
    beam: int, lenpen: float, pairs: ParallelData, cuda: torch.device
) -> None:
    model, settings = make_decisive(make_model(**UNSHARED)), Decode(beam=beam, nbest=beam, lenpen=lenpen, **SETTINGS)

    def search(device: torch.device) -> Found:
        return TorchEngine(copy.deepcopy(model), device=device).decode(sources_of(pairs), settings)

    assert_same_on(cuda, search)


def test_ensemble_finds_the_tokens_of_the_cpu(pairs: ParallelData, cuda: torch.device) -> None:
    def search(device: torch.device) -> Found:
        first, second = (make_decisive(make_model(seed, **UNSHARED)) for seed in (1, 2))
        engine = TorchEngine(first, others=[second], device=device)
        return engine.decode(sources_of(pairs), Decode(beam=3, **SETTINGS))

    assert_same_on(cuda, search)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=9, top_p=0.9, temperature=0.7)], ids=["all", "top"])
def test_samples_are_those_of_the_cpu(sampling: Sampling, pairs: ParallelData, cuda: torch.device) -> None:
    model = make_decisive(make_model(**UNSHARED))

    def search(device: torch.device) -> Found:
        engine = TorchEngine(copy.deepcopy(model), device=device)
        return engine.sample(sources_of(pairs), range(24), Decode(**SETTINGS), sampling, seed=3)

    assert_same_on(cuda, search)


def test_scores_of_pairs_are_those_of_the_cpu(pairs: ParallelData, cuda: torch.device) -> None:
    model, sources = make_decisive(make_model(**UNSHARED)), sources_of(pairs)
    targets = [np.asarray(pairs[index][1], dtype=np.int64) for index in range(24)]
    expected, found = (
        TorchEngine(copy.deepcopy(model), device=device).score_pairs(sources, targets) for device in (CPU, cuda)
    )
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-9)


@pytest.mark.parametrize("name", SEARCHES)
def test_family_finds_the_tokens_of_the_cpu(name: str, pairs: ParallelData, cuda: torch.device) -> None:
    nat, search_settings = SEARCHES[name]
    model = make_decisive(make_nat_model(NAT(**nat), **UNSHARED))

    def search(device: torch.device) -> Found:
        engine = NATEngine(copy.deepcopy(model), device=device, search=NATDecode(**search_settings))
        return engine.decode(sources_of(pairs), Decode(**SETTINGS))

    assert_same_on(cuda, search)


def test_rescored_lengths_are_those_of_the_cpu(pairs: ParallelData, cuda: torch.device) -> None:
    model, teacher = (
        make_decisive(make_nat_model(NAT(family="cmlm"), **UNSHARED)),
        make_decisive(make_model(2, **UNSHARED)),
    )

    def search(device: torch.device) -> Found:
        scorer = TorchEngine(copy.deepcopy(teacher), device=device)
        settings = NATDecode(length_beam=3, rescore=True)
        engine = NATEngine(copy.deepcopy(model), device=device, search=settings, teacher=scorer)
        return engine.decode(sources_of(pairs), Decode(**SETTINGS))

    assert_same_on(cuda, search)


@pytest.mark.parametrize("family", REFINED)
def test_refinement_of_fairseq_finds_the_tokens_of_the_cpu(
    family: FamilyName, pairs: ParallelData, cuda: torch.device
) -> None:
    torch.manual_seed(1)
    model = build_nonautoregressive(
        architecture("transformer_tiny", {**SHAPE, **UNSHARED}),
        NATConfig(family=family, layout="fairseq", crf_candidates=8),
        src_vocab_size=VOCAB,
        tgt_vocab_size=VOCAB,
    )
    make_decisive(model)

    def search(device: torch.device) -> Found:
        engine = RefinementEngine(copy.deepcopy(model), device=device, max_iter=3)
        return engine.decode(sources_of(pairs), Decode(**SETTINGS))

    assert_same_on(cuda, search)
