"""Tests of the CTranslate2 engine: its search compared with the PyTorch engine, on random models of every shape.

CTranslate2 forbids <pad> and renormalises the distribution, so <pad> has almost no probability in these models.
Complete n-best lists must then equal those of PyTorch, also if </s> is likely as the first token or a search ends at
the maximum length.
"""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import beam_oracle as oracle
import numpy as np
import pytest
import torch
from slow_parameters import some_of
from small_transformers import (
    CONFIGS,
    POSITIONS,
    make_model,
    make_sources,
    symbols,
    vocabulary_sizes,
)

from kdmt.config import Decode
from kdmt.decode.engines import ctranslate2 as ctranslate2_engine
from kdmt.decode.engines import pytorch
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.ctranslate2_devices import MemoryLimit
from kdmt.decode.engines.engine import length_batches
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.search.lengths import max_lengths
from kdmt.decode.search.sampling import truncated
from kdmt.distill.shortlist import Shortlist
from kdmt.errors import UserError
from kdmt.interop.ctranslate2_export import export_model
from kdmt.interop.ctranslate2_folder import add_shortlist
from kdmt.models.architecture import TransformerConfig
from kdmt.models.transformer import Transformer
from kdmt.types import BOS, EOS, PAD, UNK, Hypothesis, Sampling

SOURCES = make_sources([5, 1, 9, 1, 3, 7, 3, 12])
LONG = {"max_len_a": 0.0, "max_len_b": POSITIONS}
LENGTHS = [LONG, {"max_len_a": 0.5, "max_len_b": 2}, {"max_len_a": 0.0, "max_len_b": 2}]
SETTINGS = [(1, 1.0), (5, 0.6), (5, 0.0), (3, 1.7), (8, 1.0)]
TOLERANCE = 1e-4
LONG_ONE = Decode.model_validate(LONG)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def load(model: Transformer, folder: Path) -> CTranslate2Engine:
    src_size, tgt_size = vocabulary_sizes(model.config)
    src, tgt = symbols(src_size, "s"), symbols(tgt_size, "s" if model.config.share_all_embeddings else "t")
    export_model(model, folder, src_symbols=src, tgt_symbols=tgt)
    return CTranslate2Engine(folder, compute_type="float32")


@pytest.fixture
def engine(tmp_path: Path) -> CTranslate2Engine:
    """Return the engine of `make_model()`."""
    return load(make_model(), tmp_path / "model")


def settings(**values: float) -> Decode:
    return Decode.model_validate({**LONG, **values})


def at_limit(nbest: list[Hypothesis], limit: int) -> bool:
    return any(len(hypothesis.tokens) == limit for hypothesis in nbest)


def assert_same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]], tolerance: float = TOLERANCE) -> None:
    assert [[h.tokens for h in nbest] for nbest in found] == [[h.tokens for h in nbest] for nbest in expected]
    for mine, reference in zip(chain(*found), chain(*expected), strict=True):
        assert mine.score == pytest.approx(reference.score, abs=tolerance)


def next_log_probs(model: Transformer, source: np.ndarray) -> oracle.NextLogProbs:
    @torch.no_grad()
    def of_prefix(prefix: tuple[int, ...]) -> list[float]:
        logits = model(torch.from_numpy(source).long()[None], torch.tensor([[EOS, *prefix]]))
        return logits[0, -1].log_softmax(dim=-1).tolist()

    return of_prefix


# ------------------------------------------------------------------------------------------------------- beam search


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_nbest_equals_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: TransformerConfig) -> None:
    monkeypatch.setattr(pytorch, "_searches_like_marian", lambda _: False)  # CTranslate2 has no such search
    model = make_model(config)
    engine, peer, cut = load(model, tmp_path / "model"), TorchEngine(model), 0
    for beam, lenpen in SETTINGS:
        for lengths in LENGTHS:
            wanted = Decode.model_validate({"beam": beam, "nbest": beam, "lenpen": lenpen, **lengths})
            expected = peer.decode(SOURCES, wanted)
            assert_same(engine.decode(SOURCES, wanted), expected)
            limits = max_lengths([len(source) for source in SOURCES], wanted.max_len_a, wanted.max_len_b, limit=23)
            cut += sum(map(at_limit, expected, limits))
    assert cut


def test_prefixes_that_continue_after_a_finished_hypothesis_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[int] = []  # the steps from which the search was made in Python
    advance = CTranslate2Engine._advance

    def counting(self: CTranslate2Engine, source: Any, ended: Any, live: Any, beam: int) -> Any:
        walks.append(len(live[0].tokens))
        return advance(self, source, ended, live, beam)

    monkeypatch.setattr(CTranslate2Engine, "_advance", counting)
    model, sources = make_model(eos_logit=2.0), make_sources(list(range(1, 20)), seed=2)
    engine, peer = load(model, tmp_path / "model"), TorchEngine(model)
    for max_len in range(1, 9):
        wanted = Decode(beam=5, nbest=5, max_len_a=0.0, max_len_b=max_len)
        assert_same(engine.decode(sources, wanted), peer.decode(sources, wanted))
    assert min(walks) == 1
    assert max(walks) > 3


@pytest.mark.parametrize("beam", [9, 10, 16, 20])  # the first step has 16 candidates, the vocabulary 18
def test_nbest_equals_pytorch_with_a_beam_as_large_as_the_vocabulary(tmp_path: Path, beam: int) -> None:
    model = make_model(eos_logit=3.0)
    engine, peer = load(model, tmp_path / "model"), TorchEngine(model)
    for max_len in (1, 2, 6):
        wanted = Decode(beam=beam, nbest=beam, max_len_a=0.0, max_len_b=max_len)
        assert_same(engine.decode(SOURCES, wanted), peer.decode(SOURCES, wanted))


def test_a_search_in_which_no_hypothesis_reaches_the_limit_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(eos_logit=4.0)
    engine, searches = load(model, tmp_path / "model"), []
    search = CTranslate2Engine._search

    def counting(self: CTranslate2Engine, sources: Any, *others: Any, **named: Any) -> Any:
        searches.append(len(sources))
        return search(self, sources, *others, **named)

    monkeypatch.setattr(CTranslate2Engine, "_search", counting)
    found = engine.decode(SOURCES, settings(beam=2, nbest=2, lenpen=1.0))
    ends = [nbest for nbest in found if not at_limit(nbest, POSITIONS - 1)]
    again = sum(searches) - len(SOURCES)
    first = TorchEngine(model).score_pairs(SOURCES, [np.array([EOS])] * len(SOURCES))
    assert len(ends) == len(SOURCES)
    assert again <= sum(float(log_prob[0]) > math.log(1e-3) for log_prob in first)  # </s> is likely first


@pytest.mark.parametrize("eos_logit", [-1.0, 1.0, 3.0])  # </s> is or is not among the best first tokens
def test_searching_for_one_more_hypothesis_equals_a_second_search(
    tmp_path: Path, eos_logit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(eos_logit=eos_logit)
    engine, peer = load(model, tmp_path / "model"), TorchEngine(model)
    counts = []
    search = CTranslate2Engine._search

    def counted(self, sources, *arguments, **options):
        counts.append(options.get("spare", 0))
        return search(self, sources, *arguments, **options)

    monkeypatch.setattr(CTranslate2Engine, "_search", counted)
    monkeypatch.setattr("kdmt.decode.engines.ctranslate2._OFTEN", -1)
    for beam, lenpen in SETTINGS:
        for lengths in LENGTHS:
            wanted = Decode.model_validate({"beam": beam, "nbest": beam, "lenpen": lenpen, "batch_size": 2, **lengths})
            assert_same(engine.decode(SOURCES, wanted), peer.decode(SOURCES, wanted))
    assert 1 in counts


@pytest.mark.parametrize("eos_logit", [-6.0, 1.0, 3.0])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_single_search_has_the_hypotheses_that_end_in_time(
    tmp_path: Path, eos_logit: float, lengths: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls = make_model(eos_logit=eos_logit), list[int]()
    load(model, tmp_path / "model")
    engine, peer = CTranslate2Engine(tmp_path / "model", compute_type="float32", exact=False), TorchEngine(model)
    search = CTranslate2Engine._search

    def counted(self: CTranslate2Engine, sources: list[list[str]], *arguments: Any, **options: Any) -> Any:
        calls.append(len(sources))
        return search(self, sources, *arguments, **options)

    monkeypatch.setattr(CTranslate2Engine, "_search", counted)
    limits = max_lengths([len(source) for source in SOURCES], lengths["max_len_a"], lengths["max_len_b"], limit=23)
    for beam in (1, 4):
        wanted, done = Decode.model_validate({"beam": beam, "nbest": beam, "batch_size": 3, **lengths}), list[int]()
        calls.clear()
        found = engine.decode(SOURCES, wanted, progress=done.append)
        assert calls == done == [3, 3, 2]
        for source, mine, exact, limit in zip(SOURCES, found, peer.decode(SOURCES, wanted), limits, strict=True):
            assert len(mine) == beam
            marked = any(len(hypothesis.tokens) >= limit for hypothesis in mine)
            assert marked == at_limit(exact, limit)
            first = next_log_probs(model, source)(())
            remainder = math.log1p(-math.exp(first[EOS]) - math.exp(first[PAD]))
            if not marked:  # the same hypotheses, with probabilities among the translations that are not empty
                scores = {hypothesis.tokens: hypothesis.score for hypothesis in exact}
                assert {hypothesis.tokens for hypothesis in mine} == set(scores)
                for tokens, score in ((hypothesis.tokens, hypothesis.score) for hypothesis in mine):
                    expected = scores[tokens] - remainder / (len(tokens) + 1)
                    assert score == pytest.approx(expected, abs=TOLERANCE)


def test_a_single_search_scores_what_is_cut_off_with_its_eos(tmp_path: Path) -> None:
    model = make_model(eos_logit=-40.0)
    load(model, tmp_path / "model")
    engine = CTranslate2Engine(tmp_path / "model", compute_type="float32", exact=False)
    found = engine.decode(SOURCES[:3], Decode(beam=2, nbest=2, max_len_a=1.0, max_len_b=2))
    # the largest maximum length of the batch is that of its longest source
    assert {len(hypothesis.tokens) for nbest in found for hypothesis in nbest} == {12}
    for source, nbest in zip(SOURCES, found, strict=False):
        targets = [np.array([*hypothesis.tokens, EOS]) for hypothesis in nbest]
        for hypothesis, log_probs in zip(nbest, TorchEngine(model).score_pairs([source] * 2, targets), strict=True):
            assert hypothesis.score == pytest.approx(log_probs.mean(), abs=TOLERANCE)


def test_a_single_search_does_not_depend_on_other_blocks(tmp_path: Path) -> None:
    load(make_model(eos_logit=-1.0), tmp_path / "model")
    engine = CTranslate2Engine(tmp_path / "model", compute_type="float32", exact=False)
    wanted = Decode(beam=3, nbest=3, max_len_a=1.0, max_len_b=1)
    alone = engine.decode(SOURCES[:4], wanted)
    engine.decode(SOURCES, wanted)
    assert engine.decode(SOURCES[:4], wanted) == alone


@pytest.mark.parametrize("name", ["other depths", "post-norm"])
@pytest.mark.parametrize(("beam", "lenpen"), SETTINGS)
def test_nbest_equals_the_reference_search(tmp_path: Path, name: str, beam: int, lenpen: float) -> None:
    model = make_model(CONFIGS[name])
    sources = SOURCES[:3]
    found = load(model, tmp_path / "model").decode(sources, settings(beam=beam, nbest=beam, lenpen=lenpen))
    for source, mine in zip(sources, found, strict=True):
        step = next_log_probs(model, source)
        assert_same([mine], [oracle.search(step, max_len=POSITIONS - 1, beam=beam, lenpen=lenpen)])


@pytest.mark.parametrize("eos_logit", [-12.0, 1.0, 4.0])  # </s> is rare or likely, also as the first token
def test_scores_equal_teacher_forced_scores(tmp_path: Path, eos_logit: float) -> None:
    model = make_model(eos_logit=eos_logit)
    engine = load(model, tmp_path / "model")
    for lenpen in (0.0, 0.6, 1.0):
        found = engine.decode(SOURCES, Decode(beam=4, nbest=4, lenpen=lenpen, max_len_a=0.5, max_len_b=2))
        pairs = [(source, hypothesis) for source, nbest in zip(SOURCES, found, strict=True) for hypothesis in nbest]
        forced = TorchEngine(model).score_pairs(
            [source for source, _ in pairs], [np.array([*hypothesis.tokens, EOS]) for _, hypothesis in pairs]
        )
        for (_, hypothesis), log_probs in zip(pairs, forced, strict=True):
            assert hypothesis.score == pytest.approx(log_probs.sum() / len(log_probs) ** lenpen, abs=TOLERANCE)
        assert all(nbest == sorted(nbest, key=lambda h: -h.score) for nbest in found)


def test_each_sentence_has_its_own_maximum_length(tmp_path: Path) -> None:
    model = make_model(eos_logit=-40.0)
    engine = load(model, tmp_path / "model")
    wanted = Decode(beam=1, max_len_a=1.5, max_len_b=2)
    found = engine.decode(SOURCES, wanted)
    assert [len(nbest[0].tokens) for nbest in found] == [int(1.5 * len(source) + 2) for source in SOURCES]
    assert_same(found, TorchEngine(model).decode(SOURCES, wanted))  # a beam of 1 has only one hypothesis
    longest = engine.decode(SOURCES[:2], Decode(beam=2, max_len_a=0.0, max_len_b=500))
    assert [len(nbest[0].tokens) for nbest in longest] == [POSITIONS - 1] * 2


def test_pad_is_never_generated(tmp_path: Path) -> None:
    model = make_model(pad_logit=20.0, eos_logit=18.0)  # <pad> is the most likely token
    found = load(model, tmp_path / "model").decode(SOURCES, settings(beam=5, nbest=5))
    assert all(h.tokens and PAD not in h.tokens for nbest in found for h in nbest)


@pytest.mark.parametrize("nbest", [1, 2])
def test_nbest_is_a_prefix_of_a_longer_nbest(engine: CTranslate2Engine, nbest: int) -> None:
    whole = engine.decode(SOURCES, settings(beam=4, nbest=4))
    assert engine.decode(SOURCES, settings(beam=4, nbest=nbest)) == [hypotheses[:nbest] for hypotheses in whole]


# ---------------------------------------------------------------------------------------------------- pairs and samples


@pytest.mark.parametrize("name", ["post-norm", "pre-norm", "all embeddings shared"])
def test_pair_scores_equal_pytorch(tmp_path: Path, name: str) -> None:
    model = make_model(CONFIGS[name])
    targets = make_sources([4, 2, 0, 11, 3, 1, 8, 23], seed=1)
    engine, expected = load(model, tmp_path / "model"), TorchEngine(model).score_pairs(SOURCES, targets)
    for limits in ({}, {"max_tokens": 40, "batch_size": 3}, {"batch_size": 1}):
        for mine, reference in zip(engine.score_pairs(SOURCES, targets, **limits), expected, strict=True):
            assert mine == pytest.approx(reference, abs=TOLERANCE)
    assert engine.score_pairs([np.array([EOS])], targets[:1])[0] == pytest.approx(
        TorchEngine(model).score_pairs([np.array([EOS])], targets[:1])[0], abs=TOLERANCE
    )
    assert engine.score_pairs([], []) == []


def test_invalid_pairs_are_refused(engine: CTranslate2Engine) -> None:
    with pytest.raises(ValueError, match="2 sources and 1 targets"):
        engine.score_pairs(SOURCES[:2], SOURCES[:1])
    with pytest.raises(UserError, match="target 0 has 31 tokens"):
        engine.score_pairs(SOURCES[:1], make_sources([30]))
    with pytest.raises(ValueError, match="target 0 does not end"):
        engine.score_pairs(SOURCES[:1], [np.array([5])])


TWO_TOKENS = Decode(max_len_a=0.0, max_len_b=2, batch_size=500)
SAMPLES = 3000


def exact_distribution(model: Transformer, source: np.ndarray, sampling: Sampling) -> dict[tuple[int, ...], float]:
    """Return the probability of each possible sample of at most two tokens."""
    log_probs = next_log_probs(model, source)

    def drawn_from(prefix: tuple[int, ...]) -> list[float]:
        logits = torch.tensor(log_probs(prefix), dtype=torch.float64)
        logits[[PAD] if prefix else [PAD, EOS]] = -torch.inf
        return truncated(logits[None], sampling)[0].tolist()

    exact: dict[tuple[int, ...], float] = {}
    for first, p in enumerate(drawn_from(())):
        for second, q in enumerate(drawn_from((first,)) if p else []):
            if q:
                tokens = (first,) if second == EOS else (first, second)
                exact[tokens] = exact.get(tokens, 0.0) + p * q
    return exact


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=2.0),
        Sampling(top_k=3),
        Sampling(top_k=1000),
        Sampling(top_p=0.8),
        Sampling(top_k=4, top_p=0.7, temperature=1.5),
        Sampling(epsilon=0.06),
        Sampling(epsilon=0.9),  # above every probability: the most probable token
        Sampling(min_p=0.4),
        Sampling(epsilon=0.07, temperature=0.7),
        Sampling(epsilon=0.05, min_p=0.3, temperature=1.5, top_k=6, top_p=0.9),
    ],
    ids=str,
)
@pytest.mark.parametrize("samples", some_of([1, 5], 1))
def test_samples_follow_the_exact_distribution(tmp_path: Path, sampling: Sampling, samples: int) -> None:
    model = make_model(seed=5, pad_logit=3.0)
    (source,) = make_sources([4])
    engine = load(model, tmp_path / "model")
    found = engine.sample([source] * (SAMPLES // samples), TWO_TOKENS, sampling, seed=1, samples=samples)
    assert {len(own) for own in found} == {samples}
    counts, exact = Counter(h.tokens for own in found for h in own), exact_distribution(model, source, sampling)
    assert counts.keys() <= exact.keys()
    # chi-squared statistic over samples expected at least five times, all others as one class: it must be within four
    # standard deviations of its mean
    expected = {tokens: p * SAMPLES for tokens, p in exact.items() if p * SAMPLES >= 5}
    observed = {tokens: counts[tokens] for tokens in expected}
    expected[(-1,)] = SAMPLES - sum(expected.values()) + 1e-9
    observed[(-1,)] = SAMPLES - sum(observed.values())
    squares = sum((observed[tokens] - number) ** 2 / max(number, 1.0) for tokens, number in expected.items())
    assert squares < len(expected) + 4 * math.sqrt(2 * len(expected))


def test_the_score_of_a_sample_is_teacher_forced(tmp_path: Path) -> None:
    model = make_model(eos_logit=-3.0, pad_logit=2.0)
    wanted = Decode(lenpen=0.6, max_len_b=3)  # lenpen is a setting of the search, not of samples
    found = load(model, tmp_path / "model").sample(SOURCES, wanted, Sampling(0.7, 5, 0.9), seed=2)
    forced = TorchEngine(model).score_pairs(SOURCES, [np.array([*nbest[0].tokens, EOS]) for nbest in found])
    for (hypothesis,), log_probs in zip(found, forced, strict=True):
        assert hypothesis.log_probs == pytest.approx(log_probs.tolist(), abs=TOLERANCE)
        assert hypothesis.score == pytest.approx(log_probs.mean(), abs=TOLERANCE)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(epsilon=0.05), Sampling(min_p=0.2, temperature=0.8)])
def test_the_scores_of_several_samples_are_teacher_forced(tmp_path: Path, sampling: Sampling) -> None:
    model = make_model(eos_logit=-1.0, pad_logit=2.0)
    found = load(model, tmp_path / "model").sample(
        SOURCES, Decode(max_len_b=3), sampling, seed=2, samples=4, lenpen=0.6
    )
    pairs = [(source, hypothesis) for source, own in zip(SOURCES, found, strict=True) for hypothesis in own]
    forced = TorchEngine(model).score_pairs([s for s, _ in pairs], [np.array([*h.tokens, EOS]) for _, h in pairs])
    assert any(len(hypothesis.tokens) == int(1.2 * len(source) + 3) for source, hypothesis in pairs)
    for (_, hypothesis), log_probs in zip(pairs, forced, strict=True):
        assert hypothesis.log_probs == pytest.approx(log_probs.tolist(), abs=TOLERANCE)
        assert hypothesis.score == pytest.approx(log_probs.sum() / len(log_probs) ** 0.6, abs=TOLERANCE)


def test_restricted_samples_repeat_in_any_size_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(make_model(), tmp_path / "model")
    engine, sampling = CTranslate2Engine(tmp_path / "model"), Sampling(epsilon=0.03)
    whole, done = engine.sample(SOURCES, LONG_ONE, sampling, seed=1, samples=6), list[int]()
    assert engine.sample(SOURCES, LONG_ONE, sampling, seed=1, samples=6, progress=done.append) == whole
    assert sum(done) == len(SOURCES)
    assert engine.sample(SOURCES, LONG_ONE, sampling, seed=2, samples=6) != whole
    monkeypatch.setattr(ctranslate2_engine, "_LOGITS_AT_ONCE", 18 * 30)  # a few rows in one call
    found = engine.sample(SOURCES, LONG_ONE, sampling, seed=1, samples=6)
    assert [len(own) for own in found] == [6] * len(SOURCES)
    assert all(hypothesis.log_probs for own in found for hypothesis in own)


@pytest.mark.parametrize("threads", [1, 2])
def test_samples_depend_on_the_seed(tmp_path: Path, threads: int) -> None:
    load(make_model(), tmp_path / "model")
    engine, done = CTranslate2Engine(tmp_path / "model", threads=threads), list[int]()
    whole = engine.sample(SOURCES * 20, settings(batch_size=50), Sampling(), seed=1)
    assert engine.sample(SOURCES * 20, settings(batch_size=50), Sampling(), seed=1, progress=done.append) == whole
    other = engine.sample(SOURCES * 20, settings(batch_size=50), Sampling(), seed=2)
    assert sum(a != b for a, b in zip(whole, other, strict=True)) > len(whole) / 2
    assert done == [50, 50, 50, 10]
    assert engine.decode(SOURCES, settings(beam=2)) == engine.decode(SOURCES, settings(beam=2))


def test_a_sample_ends_at_its_own_maximum_length(tmp_path: Path) -> None:
    engine = load(make_model(eos_logit=-40.0), tmp_path / "model")
    found = engine.sample(SOURCES, Decode(max_len_a=1.5, max_len_b=2), Sampling(), seed=1)
    assert [len(nbest[0].tokens) for nbest in found] == [int(1.5 * len(source) + 2) for source in SOURCES]


@pytest.mark.parametrize("sampling", [Sampling(top_k=1), Sampling(temperature=1e-4), Sampling(top_p=1e-9)])
def test_a_deterministic_sample_equals_greedy_search(engine: CTranslate2Engine, sampling: Sampling) -> None:
    wanted = Decode(beam=1, max_len_b=3)
    assert_same(engine.sample(SOURCES, wanted, sampling, seed=1), engine.decode(SOURCES, wanted))


def test_sampling_for_empty_and_too_long_sources(engine: CTranslate2Engine) -> None:
    assert engine.sample([], Decode(), Sampling(), seed=1) == []
    assert engine.sample([np.array([EOS])], Decode(), Sampling(), seed=1) == [[Hypothesis((), 0.0)]]
    with pytest.raises(UserError, match="source 1 has 25 tokens with </s>; the model's limit is 24"):
        engine.sample(make_sources([3, 24]), Decode(), Sampling(), seed=1)


# ---------------------------------------------------------------------------------------------------------- shortlists


@pytest.mark.parametrize(("beam", "lenpen"), SETTINGS)
def test_a_shortlist_of_all_tokens_does_not_change_the_output(tmp_path: Path, beam: int, lenpen: float) -> None:
    model = make_model(eos_logit=2.0)
    whole = load(model, tmp_path / "model")
    add_shortlist(tmp_path / "model", range(18), {})
    short = CTranslate2Engine(tmp_path / "model", compute_type="float32", shortlist=True)
    wanted = settings(beam=beam, nbest=beam, lenpen=lenpen)
    pairs = zip(whole.decode(SOURCES, wanted), short.decode(SOURCES, wanted), strict=True)
    ending = [(a, b) for a, b in pairs if not at_limit(a, POSITIONS - 1)]
    assert len(ending) > len(SOURCES) / 2
    # if </s> is likely as the first token, its probability is less precise than that of forced decoding
    assert_same([found for _, found in ending], [expected for expected, _ in ending], tolerance=1e-3)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("eos_logit", [-12.0, 3.0])
def test_only_tokens_that_the_shortlist_of_a_batch_allows_are_generated(
    tmp_path: Path, batch_size: int, eos_logit: float
) -> None:
    load(make_model(eos_logit=eos_logit), tmp_path / "model")
    shortlist = Shortlist(np.array([EOS, UNK, 7]), {4: np.array([9]), 5: np.array([11]), 9: np.array([6, 14])})
    add_shortlist(tmp_path / "model", shortlist.frequent, shortlist.of_token)
    engine = CTranslate2Engine(tmp_path / "model", compute_type="float32", shortlist=True)
    wanted, written = Decode(beam=3, nbest=3, max_len_a=0.0, max_len_b=9, batch_size=batch_size), set()
    found = engine.decode(SOURCES, wanted)
    for batch in length_batches([len(source) for source in SOURCES], max_tokens=8000, batch_size=batch_size):
        used = {token for place in batch for hypothesis in found[place] for token in hypothesis.tokens}
        # if </s> is likely as the first token, sources of all batches are searched again together
        together = batch if eos_logit < 0 else range(len(SOURCES))
        assert used <= shortlist.allowed(SOURCES[place] for place in together) | {BOS}
        written |= used
    assert written & {6, 9, 11, 14}
    unrestricted = CTranslate2Engine(tmp_path / "model", compute_type="float32").decode(SOURCES, wanted)
    assert any(set(h.tokens) - {BOS, UNK, 6, 7, 9, 11, 14} for nbest in unrestricted for h in nbest)


@pytest.mark.usefixtures("engine")
def test_a_missing_or_damaged_shortlist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model: has no lexical shortlist \(vmap\.txt\)"):
        CTranslate2Engine(tmp_path / "model", shortlist=True)
    add_shortlist(tmp_path / "model", [EOS], {})
    CTranslate2Engine(tmp_path / "model", shortlist=True)
    (tmp_path / "model" / "vmap.txt").write_text("\tt5\n")
    with pytest.raises(UserError, match=r"vmap\.txt: damaged"):
        CTranslate2Engine(tmp_path / "model", shortlist=True)


# ------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("limits", [{"batch_size": 1}, {"batch_size": 3}, {"max_tokens": 1}, {"max_tokens": 30}])
@pytest.mark.parametrize("lengths", [LONG, {"max_len_a": 1.2, "max_len_b": 3}])
def test_output_does_not_depend_on_the_batch_size(
    engine: CTranslate2Engine, limits: dict[str, int], lengths: dict[str, float]
) -> None:
    whole = engine.decode(SOURCES, Decode.model_validate({"beam": 4, "nbest": 4, **lengths}))
    done: list[int] = []
    found = engine.decode(
        SOURCES, Decode.model_validate({"beam": 4, "nbest": 4, **lengths, **limits}), progress=done.append
    )
    assert_same(found, whole)
    assert sum(done) == len(SOURCES)
    assert max(done) <= limits.get("batch_size", len(SOURCES))


def test_output_does_not_depend_on_the_order_of_sources(engine: CTranslate2Engine) -> None:
    wanted = Decode(beam=4, nbest=4, max_len_b=3)
    whole = engine.decode(SOURCES, wanted)
    order = np.random.default_rng(1).permutation(len(SOURCES)).tolist()
    assert_same(engine.decode([SOURCES[i] for i in order], wanted), [whole[i] for i in order])


def test_progress_is_reported_batch_by_batch(engine: CTranslate2Engine) -> None:
    done: list[int] = []
    engine.decode(SOURCES, settings(beam=1, batch_size=5), progress=done.append)
    assert done == [3, 5]  # the last batch is translated first
    done.clear()
    engine.decode(SOURCES, Decode(beam=1, max_len_a=1.2, max_len_b=1), progress=done.append)
    assert done == [8]  # one batch also with different maximum lengths


def test_no_sources(engine: CTranslate2Engine) -> None:
    assert engine.decode([], Decode()) == []


def test_a_source_of_only_eos_gets_the_empty_hypothesis(engine: CTranslate2Engine) -> None:
    found = engine.decode([np.array([EOS]), SOURCES[0]], settings(beam=3, nbest=3))
    assert found[0] == [Hypothesis((), 0.0)]
    assert_same(found[1:], engine.decode(SOURCES[:1], settings(beam=3, nbest=3)))


# -------------------------------------------------------------------------------------------------- invalid arguments


def test_a_source_that_is_too_long_is_refused(engine: CTranslate2Engine) -> None:
    assert engine.decode(make_sources([POSITIONS - 1]), Decode(beam=1))[0]
    with pytest.raises(UserError, match="source 1 has 25 tokens with </s>; the model's limit is 24"):
        engine.decode(make_sources([3, 24]), Decode())


def test_a_source_without_eos_is_refused(engine: CTranslate2Engine) -> None:
    with pytest.raises(ValueError, match="source 0 does not end"):
        engine.decode([np.array([5, 6])], Decode())


@pytest.mark.usefixtures("engine")
def test_missing_and_damaged_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a model that 'kdmt export"):
        CTranslate2Engine(tmp_path)
    (tmp_path / "model" / "model.bin").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"model\.bin: damaged"):
        CTranslate2Engine(tmp_path / "model")


@pytest.mark.usefixtures("engine")
def test_the_engine_does_not_import_torch(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from kdmt.config import Decode
from kdmt.decode.engines import ctranslate2 as ctranslate2_engine
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.types import Sampling
engine, source = CTranslate2Engine(Path({str(tmp_path / "model")!r})), [np.array([5, 6, 2])]
engine.decode(source, Decode(max_len_b=3))
engine.sample(source, Decode(), Sampling(), seed=1)
engine.score_pairs(source, source)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.usefixtures("engine")
def test_batches_in_flight_give_the_same_translations(
    engine: CTranslate2Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = settings(beam=4, nbest=4, batch_size=2)
    expected = engine.decode(SOURCES, wanted)
    monkeypatch.setattr(ctranslate2_engine, "batches_in_flight", lambda *_: 3)
    several = CTranslate2Engine(tmp_path / "model", compute_type="float32")
    done: list[int] = []
    found = several.decode(SOURCES, wanted, progress=done.append)
    assert sum(done) == len(SOURCES)
    for nbest, others in zip(found, expected, strict=True):  # the first search may look for one more
        assert [each.tokens for each in nbest] == [each.tokens for each in others]
        assert [each.score for each in nbest] == pytest.approx([each.score for each in others], abs=TOLERANCE)


@dataclass
class LimitedTranslator:
    """A translator whose GPU has memory for batches of `tokens` padded source tokens, all batches together."""

    own: Any
    tokens: int
    error: str
    in_use: int = 0
    computed: list[int] = field(default_factory=list)  # numbers of sentences of the batches that fit
    lock: Any = field(default_factory=threading.Lock)

    def _compute(self, call: Callable[..., Any], sources: list[list[str]], *args: Any, **options: Any) -> Any:
        needed = len(sources) * (max(map(len, sources)) + 1)
        with self.lock:
            if self.in_use + needed > self.tokens:
                raise RuntimeError(self.error)
            self.in_use += needed
            self.computed.append(len(sources))
        try:
            return call(sources, *args, **options)
        finally:
            with self.lock:
                self.in_use -= needed

    def translate_batch(self, *args: Any, **options: Any) -> Any:
        return self._compute(self.own.translate_batch, *args, **options)

    def score_batch(self, *args: Any, **options: Any) -> Any:
        return self._compute(self.own.score_batch, *args, **options)


OUT_OF_MEMORY = ("CUDA failed with error out of memory", "cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED")
LONGEST = max(len(source) for source in SOURCES)  # with </s>


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_batch_that_does_not_fit_in_memory_is_divided(
    error: str,
    in_flight: int,
    engine: CTranslate2Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = settings(beam=3, nbest=3)
    expected = engine.decode(SOURCES, wanted)
    scored = engine.score_pairs(SOURCES, SOURCES)
    monkeypatch.setattr(ctranslate2_engine, "batches_in_flight", lambda *_: in_flight)
    small = CTranslate2Engine(tmp_path / "model", compute_type="float32")
    limited = LimitedTranslator(small._translator, 2 * LONGEST, error)
    monkeypatch.setattr(small, "_translator", limited)
    done: list[int] = []
    with caplog.at_level("WARNING"):
        found = small.decode(SOURCES, wanted, progress=done.append)
    assert sum(done) == len(SOURCES)
    assert_same(found, expected)
    assert small.memory.max_tokens is not None
    assert small._in_flight == 1
    assert all(error in message and "decoding is slower" in message for message in caplog.messages)
    num_warnings = len(caplog.messages)
    assert 1 <= num_warnings <= 8  # one for each halving, not one for each batch
    for own, others in zip(small.score_pairs(SOURCES, SOURCES), scored, strict=True):
        np.testing.assert_allclose(own, others, atol=TOLERANCE)
    assert_same(small.decode(SOURCES, wanted), expected)  # the limit is known: no further warning
    assert len(caplog.messages) <= num_warnings + 1  # of scoring, whose batches had not been computed before


def test_other_errors_and_a_sentence_that_does_not_fit_are_raised(
    engine: CTranslate2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = LimitedTranslator(engine._translator, 0, OUT_OF_MEMORY[0])
    monkeypatch.setattr(engine, "_translator", limited)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.decode(SOURCES, settings(beam=2))
    limited.error = "CUDA failed with error an illegal memory access was encountered"
    engine.memory = MemoryLimit()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        engine.decode(SOURCES, settings(beam=2))
    assert engine.memory.max_tokens is None


def test_a_batch_with_a_shortlist_is_not_divided(engine: CTranslate2Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_shortlist", True)
    monkeypatch.setattr(engine, "_translator", LimitedTranslator(engine._translator, LONGEST, OUT_OF_MEMORY[0]))
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.decode(SOURCES, settings(beam=2))


def test_a_missing_library_is_not_tried_again(engine: CTranslate2Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Library libcublas.so.12 is not found or cannot be loaded")

    monkeypatch.setattr(engine, "_translator", SimpleNamespace(translate_batch=fails))
    with pytest.raises(UserError, match="pip install nvidia-cublas-cu12"):
        engine.decode(SOURCES, settings(beam=2))


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("arguments", [{"compute_type": "int3"}, {"device": "abacus"}])
def test_unknown_compute_types_and_devices_are_refused(tmp_path: Path, arguments: dict[str, str]) -> None:
    with pytest.raises(UserError, match="CTranslate2 cannot load it on"):
        CTranslate2Engine(tmp_path / "model", **arguments)  # type: ignore[arg-type]


@pytest.mark.usefixtures("engine")
def test_a_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(UserError, match="pip install ctranslate2"):
        CTranslate2Engine(tmp_path / "model")


def test_int8_is_supported(tmp_path: Path) -> None:
    load(make_model(), tmp_path / "model")
    found = CTranslate2Engine(tmp_path / "model", compute_type="int8", threads=2).decode(SOURCES, settings(beam=2))
    assert all(len(nbest) == 1 for nbest in found)


def test_a_right_to_left_model_decodes_and_scores_as_in_pytorch(tmp_path: Path) -> None:
    model = make_model()
    model.config = replace(model.config, right_to_left=True)
    engine, torch_engine = load(model, tmp_path / "model"), TorchEngine(model)
    targets = make_sources([4, 1, 6, 2, 5, 3, 2, 4], seed=7)
    pairs = zip(engine.score_pairs(SOURCES, targets), torch_engine.score_pairs(SOURCES, targets), strict=True)
    for mine, expected in pairs:
        np.testing.assert_allclose(mine, expected, atol=TOLERANCE)
    chosen = settings(beam=4, nbest=2, max_len_a=0.5, max_len_b=2)
    assert_same(engine.decode(SOURCES, chosen), torch_engine.decode(SOURCES, chosen))
    for (sample,), source in zip(engine.sample(SOURCES, chosen, Sampling(), seed=1), SOURCES, strict=True):
        (expected,) = torch_engine.score_pairs([source], [np.array([*sample.tokens, EOS])])
        assert sample.log_probs == pytest.approx(expected.tolist(), abs=TOLERANCE)
