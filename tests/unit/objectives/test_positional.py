"""Objectives of iterative refinement, of a correcting masked decoder and of a chain over words, by their formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nat_oracles as oracle
import numpy as np
import pytest
import torch
from copy_task import TINY, VOCAB, open_data, train_settings, write_pairs

from kdmt.models.architecture import Family, NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer
from kdmt.objectives.positional import (
    CRFObjective,
    MaskedObjective,
    PositionsObjective,
    RefinedObjective,
    corrupt,
    hide_all,
)
from kdmt.types import EOS, PAD, UNK, Batch

PAIRS = [([4, 5, 6], [7, 8]), ([9, 9], [10, 11, 4, 5]), ([6], [8, 9, 10, 11, 4]), ([6], [7, 7, 7]), ([7, 4], [5])]
WORDS = sum(len(target) for _, target in PAIRS)
COMMON = {"label_smoothing": 0.1, "length_weight": 0.1}


def small(family: Family, **others: Any) -> NATransformer:
    torch.manual_seed(1)
    nat = NATConfig(family=family, **others)
    config = replace(TINY, dropout=0.0, decoder_layers=3)
    model = build_nonautoregressive(config, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    return model.double()


def batch_of(folder: Path) -> Batch:
    return open_data(write_pairs(folder, PAIRS), train_settings()).load(torch.arange(len(PAIRS)).numpy())


def log_probs_of(model: NATransformer, batch: Batch, seen: torch.Tensor) -> torch.Tensor:
    features = model.fill(batch.src_tokens_BS, seen, model.encode(batch.src_tokens_BS))
    return (features @ model.output_weight_VD.t()).log_softmax(-1).detach()


def test_refinement_is_the_mean_over_passes_that_see_what_was_written(tmp_path: Path) -> None:
    model, batch = small("inat"), batch_of(tmp_path)
    objective = RefinedObjective(model, passes=3, denoising=0.0, **COMMON).train()
    prepared = objective.prepare(batch)
    assert prepared.tgt_tokens_BT is not None
    assert prepared.seen_BT is not None
    terms = objective(prepared)
    words, seen, nll = prepared.tgt_tokens_BT.ne(PAD), prepared.seen_BT, 0.0
    for _ in range(3):
        log_probs = log_probs_of(model, batch, seen)
        nll -= float(log_probs.gather(2, prepared.tgt_tokens_BT[:, :, None])[:, :, 0][words].sum())
        seen = torch.where(words, log_probs.argmax(-1), seen)
    assert float(terms["nll"].sum) == pytest.approx(nll, rel=1e-9)
    assert terms["nll"].count == 3 * WORDS
    assert {name: term.count for name, term in terms.items()} == objective.counts(prepared)
    once = PositionsObjective(model, **COMMON).eval()(batch)
    whole = objective.eval()(batch)
    assert float(whole["nll"].sum) == pytest.approx(float(once["nll"].sum), rel=1e-12)
    assert objective.counts(hide_all(batch))["nll"] == WORDS


def test_a_denoising_pass_sees_a_corrupted_reference(tmp_path: Path) -> None:
    model, batch = small("inat"), batch_of(tmp_path)
    objective = RefinedObjective(model, passes=2, denoising=1.0, **COMMON).train()
    prepared = objective.prepare(batch)
    assert batch.tgt_tokens_BT is not None
    torch.manual_seed(9)
    seen = objective._go_over(batch.tgt_tokens_BT, prepared).seen_BT
    torch.manual_seed(9)
    assert seen is not None
    assert torch.equal(seen, corrupt(batch.tgt_tokens_BT, vocab_size=VOCAB))


def test_corruption_replaces_repeats_and_swaps_at_its_rate() -> None:
    torch.manual_seed(2)
    row = torch.arange(10, 40)
    tokens = torch.cat([row, torch.tensor([EOS, PAD])]).repeat(4000, 1)
    found = corrupt(tokens, vocab_size=10_000, rate=0.3)
    assert torch.equal(found[:, 30:], tokens[:, 30:])
    inner, truth = found[:, 5:25], tokens[:, 5:25]
    before, after = tokens[:, 4:24], tokens[:, 6:26]
    swapped = (inner == after) & (found[:, 6:26] == truth)
    repeated = (inner == after) & ~swapped
    second = inner == before
    replaced = ~(inner == truth) & ~(inner == after) & ~second
    for share, expected in ((replaced, 0.1), (repeated, 0.1), (swapped, 0.09)):
        assert float(share.double().mean()) == pytest.approx(expected, abs=0.015)
    assert torch.equal(corrupt(tokens, vocab_size=100, rate=0.0), tokens)


def test_correction_shows_the_students_own_words_and_asks_for_the_true_ones(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model, batch = small("cmlm"), batch_of(tmp_path)
    assert batch.tgt_tokens_BT is not None
    objective = MaskedObjective(model, correction=0.5, **COMMON).train()
    everything = hide_all(batch)
    assert everything.seen_BT is not None
    own = log_probs_of(model, batch, everything.seen_BT).argmax(-1)
    revised = 0
    for _ in range(20):
        prepared = objective.prepare(batch)
        seen = objective.see(prepared)
        assert prepared.seen_BT is not None
        assert seen.seen_BT is not None
        assert seen.tgt_tokens_BT is not None
        asked, hidden = seen.tgt_tokens_BT.ne(PAD), seen.seen_BT.eq(UNK) & prepared.seen_BT.eq(UNK)
        corrected = asked & ~hidden
        assert torch.equal(seen.seen_BT[corrected], own[corrected])
        assert torch.equal(seen.tgt_tokens_BT[asked], batch.tgt_tokens_BT[asked])
        assert torch.equal(seen.seen_BT[~asked], batch.tgt_tokens_BT[~asked])
        for row, (_, target) in enumerate(PAIRS):
            assert int(corrected[row].sum()) == (len(target) - int(hidden[row].sum())) // 2
        assert objective.counts(prepared)["loss"] == int(asked.sum()) == objective(prepared)["loss"].count
        revised += int(corrected.sum())
    assert revised > 0


@pytest.mark.parametrize("num_candidates", [3, VOCAB, 1000])
def test_the_chains_loss_is_that_of_enumeration_over_candidates(tmp_path: Path, num_candidates: int) -> None:
    model, batch = small("nat_crf", crf_rank=4), batch_of(tmp_path)
    objective = CRFObjective(model, num_candidates=num_candidates, crf_weight=2.0, **COMMON).train()
    prepared = objective.prepare(batch)
    terms = objective(prepared)
    assert (terms["crf"].count, terms["crf"].weight) == (WORDS, 2.0)
    assert {name: term.count for name, term in terms.items()} == objective.counts(prepared)
    assert prepared.seen_BT is not None
    log_probs = log_probs_of(model, batch, prepared.seen_BT).numpy()
    moves = (model.transitions.first.weight @ model.transitions.second.weight.t()).detach().numpy()
    nll = 0.0
    for row, (_, target) in enumerate(PAIRS):
        rows = []
        for place, word in enumerate(target):
            best = np.argsort(-log_probs[row, place])[:num_candidates].tolist()
            rows.append(best if word in best else [*best[:-1], word])
        if num_candidates ** len(target) > 300 and num_candidates > 3:
            nll += chain_nll(log_probs[row], moves, target)
            continue
        score = sum(log_probs[row, t, word] for t, word in enumerate(target))
        score += sum(moves[a, b] for a, b in pairwise(target))
        every = oracle.crf_log_partition_over(rows, log_probs[row, : len(target)], moves)
        nll += every - score
    assert float(terms["crf"].sum.detach()) == pytest.approx(nll, rel=1e-8)


def chain_nll(log_probs: np.ndarray, moves: np.ndarray, target: list[int]) -> float:
    """Over the whole vocabulary, position by position."""
    alpha = log_probs[0]
    for place in range(1, len(target)):
        alpha = np.logaddexp.reduce(alpha[:, None] + moves, axis=0) + log_probs[place]
    score = sum(log_probs[t, word] for t, word in enumerate(target))
    score += sum(moves[a, b] for a, b in pairwise(target))
    return float(np.logaddexp.reduce(alpha) - score)


def test_deep_supervision_is_cross_entropy_at_the_lower_layers(tmp_path: Path) -> None:
    model, batch = small("nat"), batch_of(tmp_path)
    deep = PositionsObjective(model, deep_supervision=0.7, **COMMON).train()
    prepared = deep.prepare(batch)
    terms = deep(prepared)
    assert terms["deep"].weight == 0.7
    assert {name: term.count for name, term in terms.items()} == deep.counts(prepared)
    layers, losses = model.decoder_layers, []
    for number in range(1, len(layers)):
        model.decoder_layers = layers[:number]
        losses.append(float(PositionsObjective(model, **COMMON).train()(prepared)["loss"].sum.detach()))
    model.decoder_layers = layers
    assert math.isfinite(losses[0])
    assert float(terms["deep"].sum.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-9)
