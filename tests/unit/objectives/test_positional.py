"""Tests of views and terms of students with the positions of the target, against their formulas."""

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
from copy_task import TINY, VOCAB, nat_objective, open_data, terms_of, train_settings, write_pairs
from dropout_masks import recorded_masks

from kdmt.choices import GlancingDistance
from kdmt.corpus.batching import Batch, Extras, Knowledge
from kdmt.families import FamilyName
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.nonautoregressive import NATransformer
from kdmt.objectives.objective import Objective, Prepared
from kdmt.objectives.positional import Glancing, Refinement, SomeHidden, corrupt, hide_all, write
from kdmt.types import EOS, PAD, UNK

PAIRS = [([4, 5, 6], [7, 8]), ([9, 9], [10, 11, 4, 5]), ([6], [8, 9, 10, 11, 4]), ([6], [7, 7, 7]), ([7, 4], [5])]
FIVE = [([4, 5, 6], [7, 8]), ([9, 9], [10, 11, 4, 5]), ([6], [8, 9, 10, 11, 4]), ([6], [7, 7, 7]), ([7, 4], [5, 5])]
WORDS = sum(len(target) for _, target in PAIRS)


def small(family: FamilyName, **others: Any) -> NATransformer:
    torch.manual_seed(1)
    nat = NATConfig(family=family, **others)
    config = replace(TINY, dropout=0.0, decoder_layers=3)
    model = build_nonautoregressive(config, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    return model.double()


def batch_of(folder: Path, pairs: list[tuple[list[int], list[int]]] = PAIRS) -> Batch:
    return open_data(write_pairs(folder, pairs), train_settings()).load(torch.arange(len(pairs)).numpy())


def log_probs_of(model: NATransformer, batch: Batch, seen: torch.Tensor | None) -> torch.Tensor:
    assert seen is not None
    features = model.fill(batch.src_tokens_BS, seen, model.encode(batch.src_tokens_BS))
    return (features @ model.output_weight_VD.t()).log_softmax(-1).detach()


def test_refinement_passes_read_the_output_of_the_previous_pass(tmp_path: Path) -> None:
    model, batch = small("inat"), batch_of(tmp_path)
    objective = nat_objective(model, passes=3, denoising=0.0).train()
    prepared = objective.prepare(batch)
    assert prepared.seen_BT is not None
    terms = objective(prepared)
    words, seen, nll = prepared.keep_BT, prepared.seen_BT, 0.0
    for _ in range(3):
        log_probs = log_probs_of(model, batch, seen)
        nll -= float(log_probs.gather(2, prepared.tgt_tokens_BT[:, :, None])[:, :, 0][words].sum())
        seen = torch.where(words, log_probs.argmax(-1), seen)
    assert float(terms["nll"].sum) == pytest.approx(nll, rel=1e-9)
    assert terms["nll"].count == 3 * WORDS
    assert {name: term.count for name, term in terms.items()} == objective.counts(prepared)
    whole = terms_of(objective.eval(), batch)
    first = log_probs_of(model, batch, hide_all(Prepared.of(batch)).seen_BT)
    once = -float(first.gather(2, prepared.tgt_tokens_BT[:, :, None])[:, :, 0][words].sum())
    assert float(whole["nll"].sum) == pytest.approx(once, rel=1e-12)
    assert whole["nll"].count == WORDS


def test_denoising_pass_reads_a_corrupted_reference(tmp_path: Path) -> None:
    model, batch = small("inat"), batch_of(tmp_path)
    objective = nat_objective(model, passes=2, denoising=1.0).train()
    prepared = objective.prepare(batch)
    assert batch.tgt_tokens_BT is not None
    torch.manual_seed(9)
    assert isinstance(objective.view, Refinement)
    seen = objective.view.corrupt(batch.tgt_tokens_BT, prepared, vocab_size=VOCAB).seen_BT
    torch.manual_seed(9)
    assert seen is not None
    assert torch.equal(seen, corrupt(batch.tgt_tokens_BT, vocab_size=VOCAB))


def test_rates_of_replaced_repeated_and_swapped_words() -> None:
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


def test_correction_shows_predicted_words_and_predicts_the_reference(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model, batch = small("cmlm"), batch_of(tmp_path)
    assert batch.tgt_tokens_BT is not None
    objective = nat_objective(model, correction=0.5).train()
    everything = hide_all(Prepared.of(batch))
    view = objective.view
    assert isinstance(view, SomeHidden)
    assert everything.seen_BT is not None
    own = log_probs_of(model, batch, everything.seen_BT).argmax(-1)
    revised = 0
    for _ in range(20):
        prepared = objective.prepare(batch)
        seen = view.show(model, prepared, "float32")
        assert prepared.seen_BT is not None
        assert seen.seen_BT is not None
        predicted, hidden = seen.keep_BT, seen.seen_BT.eq(UNK) & prepared.seen_BT.eq(UNK)
        corrected = predicted & ~hidden
        assert torch.equal(seen.seen_BT[corrected], own[corrected])
        assert torch.equal(seen.tgt_tokens_BT[predicted], batch.tgt_tokens_BT[predicted])
        assert torch.equal(seen.seen_BT[~predicted], batch.tgt_tokens_BT[~predicted])
        for row, (_, target) in enumerate(PAIRS):
            assert int(corrected[row].sum()) == (len(target) - int(hidden[row].sum())) // 2
        assert objective.counts(prepared)["loss"] == int(predicted.sum()) == objective(prepared)["loss"].count
        revised += int(corrected.sum())
    assert revised > 0


@pytest.mark.parametrize("num_candidates", [3, VOCAB, 1000])
def test_crf_loss_equals_enumeration_over_candidates(tmp_path: Path, num_candidates: int) -> None:
    model, batch = small("nat_crf", crf_rank=4), batch_of(tmp_path)
    objective = nat_objective(model, crf_candidates=num_candidates).train()
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
        for position, word in enumerate(target):
            best = np.argsort(-log_probs[row, position])[:num_candidates].tolist()
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
    """Return the NLL over the whole vocabulary by the forward recursion over positions."""
    alpha = log_probs[0]
    for position in range(1, len(target)):
        alpha = np.logaddexp.reduce(alpha[:, None] + moves, axis=0) + log_probs[position]
    score = sum(log_probs[t, word] for t, word in enumerate(target))
    score += sum(moves[a, b] for a, b in pairwise(target))
    return float(np.logaddexp.reduce(alpha) - score)


def test_deep_supervision_equals_loss_of_lower_layers(tmp_path: Path) -> None:
    model, batch = small("nat"), batch_of(tmp_path)
    deep = nat_objective(model, deep_supervision=0.7).train()
    prepared = deep.prepare(batch)
    terms = deep(prepared)
    assert terms["deep"].weight == 0.7
    assert {name: term.count for name, term in terms.items()} == deep.counts(prepared)
    layers, losses = model.decoder_layers, []
    for number in range(1, len(layers)):
        model.decoder_layers = layers[:number]
        losses.append(float(nat_objective(model).train()(prepared)["loss"].sum.detach()))
    model.decoder_layers = layers
    assert math.isfinite(losses[0])
    assert float(terms["deep"].sum.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-9)


def positions(family: FamilyName, **others: Any) -> Objective:
    return nat_objective(small(family), **others)


def test_loss_of_nat_is_cross_entropy_of_words_and_length(tmp_path: Path) -> None:
    objective, batch = positions("nat").train(), batch_of(tmp_path, FIVE)
    model, prepared = objective.model, objective.prepare(batch)
    assert isinstance(model, NATransformer)
    terms = objective(prepared)
    assert {name: (term.count, term.weight) for name, term in terms.items()} == {
        "loss": (16, 1.0),
        "nll": (16, 0.0),
        "length": (5, 0.1),
    }
    assert {name: term.count for name, term in terms.items()} == objective.counts(prepared)
    nll = length_nll = 0.0
    for row, (source, target) in enumerate(FIVE):
        src_tokens = batch.src_tokens_BS[row : row + 1, : len(source) + 1]
        encoded = model.encode(src_tokens)
        seen = torch.tensor([[*[UNK] * len(target), EOS]])
        log_probs = (model.fill(src_tokens, seen, encoded) @ model.output_weight_VD.t()).log_softmax(-1)[0]
        nll -= float(log_probs[torch.arange(len(target)), torch.tensor(target)].detach().sum())
        lengths = model.lengths.proj(encoded.states_BSD.mean(1)).log_softmax(-1)[0].detach()
        length_nll -= float(lengths[len(target) - len(source) + 128])
    assert float(terms["nll"].sum) == pytest.approx(nll, rel=1e-9)
    assert float(terms["length"].sum.detach()) == pytest.approx(length_nll, rel=1e-5)
    evaluated = terms_of(objective.eval(), batch)
    assert float(evaluated["nll"].sum) == pytest.approx(nll, rel=1e-9)


def test_glancing_shows_as_many_words_as_the_first_pass_has_errors(tmp_path: Path) -> None:
    model, batch = small("nat"), batch_of(tmp_path, FIVE)
    plain = nat_objective(model).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(6):  # until the student is right at some positions
        optimizer.zero_grad()
        terms_of(plain, batch)["loss"].sum.backward()
        optimizer.step()
    objective = nat_objective(model, glancing=[(0, 1.0)]).train()
    assert isinstance(objective.view, Glancing)
    prepared = objective.prepare(batch)
    shown_BT = prepared.keep_BT & ~objective.view.show(model, prepared, "float32").keep_BT
    all_hidden_BT = prepared.tgt_tokens_BT.masked_fill(prepared.keep_BT, UNK)
    best_BT = log_probs_of(model, batch, all_hidden_BT).argmax(-1)
    errors_B = (best_BT.ne(prepared.tgt_tokens_BT) & prepared.keep_BT).sum(1)
    assert torch.equal(shown_BT.sum(1), errors_B)
    assert 0 < int(errors_B.sum()) < int(prepared.keep_BT.sum())


@pytest.mark.parametrize("distance", ["hamming", "levenshtein"])
def test_glancing_shows_words_and_predicts_the_others(tmp_path: Path, distance: GlancingDistance) -> None:
    plain = positions("nat").train()
    prepared = plain.prepare(batch_of(tmp_path, FIVE))
    nothing = positions("nat", glancing=[(0, 0.0)], distance=distance).train()
    assert float(nothing(prepared)["loss"].sum.detach()) == pytest.approx(float(plain(prepared)["loss"].sum.detach()))
    half = positions("nat", glancing=[(0, 0.5)], distance=distance).train()
    assert isinstance(half.view, Glancing)
    assert isinstance(half.model, NATransformer)
    glimpsed = half.view.show(half.model, prepared, "float32")
    assert glimpsed.seen_BT is not None
    predicted = glimpsed.keep_BT
    assert 0 < glimpsed.num_loss_tokens == int(predicted.sum()) < 16 == glimpsed.count
    shown = prepared.keep_BT & ~predicted
    assert torch.equal(glimpsed.seen_BT[shown], prepared.tgt_tokens_BT[shown])
    terms = half(prepared)
    assert {name: term.count for name, term in terms.items()} == half.counts(prepared)
    assert terms["loss"].count == 16
    assert float(terms["loss"].sum.detach()) < float(plain(prepared)["loss"].sum.detach())


@pytest.mark.parametrize("distance", ["hamming", "levenshtein"])
def test_hidden_states_are_also_compared_at_shown_words(tmp_path: Path, distance: GlancingDistance) -> None:
    torch.manual_seed(4)
    teacher = build_transformer(TINY, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double()
    model = small("nat")
    besides = {"hidden_kd": {"encoder": "none", "decoder": [[0, 0]]}}
    objective = nat_objective(
        model, glancing=[(0, 0.5)], distance=distance, teachers=[teacher], besides=besides
    ).train()
    prepared = objective.prepare(batch_of(tmp_path, FIVE))
    terms = objective(prepared)
    assert terms["hidden"].count == 16  # words of all targets
    assert {name: term.count for name, term in terms.items()} == objective.counts(prepared)


def test_cmlm_predicts_the_masked_words(tmp_path: Path) -> None:
    torch.manual_seed(3)
    objective, batch = positions("cmlm").train(), batch_of(tmp_path, FIVE)
    assert batch.tgt_tokens_BT is not None
    numbers = []
    for _ in range(200):
        hidden = objective.prepare(batch)
        assert hidden.seen_BT is not None
        predicted = hidden.keep_BT
        assert int(predicted.sum()) == hidden.num_loss_tokens == objective.counts(hidden)["loss"]
        assert torch.equal(hidden.seen_BT.eq(UNK), predicted)
        assert hidden.tgt_tokens_BT is batch.tgt_tokens_BT
        assert torch.equal(hidden.seen_BT[~predicted], batch.tgt_tokens_BT[~predicted])
        assert predicted.any(1).all()
        numbers.append(int(predicted[2].sum()))
    assert set(numbers) == {1, 2, 3, 4, 5}  # the third target has five words
    terms = objective(hidden)
    assert terms["nll"].count == hidden.num_loss_tokens
    whole = terms_of(objective.eval(), batch)
    assert whole["nll"].count == 16  # in evaluation mode all words are masked, and </s> is not predicted


@pytest.mark.parametrize("family", ["nat", "cmlm"])
def test_word_level_distillation_compares_the_same_tokens(tmp_path: Path, family: FamilyName) -> None:
    """The teacher reads the whole target, whatever the student sees; a cache of all tokens gives the same loss."""
    torch.manual_seed(4)
    config = replace(TINY, dropout=0.0)
    teacher = build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double().eval()
    model = small(family)
    objective = nat_objective(model, teachers=[teacher], besides={"word_kd": {"alpha": 1.0}}).train()
    batch = batch_of(tmp_path, FIVE)
    assert batch.prev_tokens_BT is not None
    assert batch.tgt_tokens_BT is not None
    log_probs = teacher(batch.src_tokens_BS, batch.prev_tokens_BT).log_softmax(-1)[batch.tgt_tokens_BT.ne(PAD)].detach()
    best = log_probs.sort(dim=1, descending=True)
    knowledge = Knowledge(best.indices, torch.cat([best.values, torch.full_like(best.values[:, :1], -1e4)], 1))
    torch.manual_seed(5)
    live = objective(objective.prepare(batch))
    cached = nat_objective(model, besides={"word_kd": {"alpha": 1.0, "source": "cache"}}).train()
    torch.manual_seed(5)
    other = cached(cached.prepare(replace(batch, extras=Extras(knowledge=knowledge))))
    assert float(live["word_kd"].sum) == pytest.approx(float(other["word_kd"].sum), rel=1e-9)
    assert live["word_kd"].count == other["word_kd"].count


@pytest.mark.parametrize("same", [False, True])
def test_both_passes_of_glancing_have_the_same_dropout_masks_if_requested(
    tmp_path: Path, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, decoder_layers=2, dropout=0.3)
    model = build_nonautoregressive(config, NATConfig(family="nat"), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    objective = nat_objective(model, glancing=[(0, 0.5)], glancing_same_dropout=same).train()
    masks = recorded_masks(monkeypatch)
    terms_of(objective, batch_of(tmp_path, FIVE))
    half = len(masks) // 2
    assert half == 10  # embeddings and residuals of the encoder and of the decoder
    pairs = zip(masks[:half], masks[half:], strict=True)
    assert [torch.equal(one, other) for one, other in pairs] == [same] * half


def test_glancing_shows_more_by_rounding_and_by_independent_draws(tmp_path: Path) -> None:
    """Of the errors of a sentence 0.3 are shown: truncated, rounded, or in the mean over many draws."""
    batch, numbers = batch_of(tmp_path, FIVE), {}
    for name, settings in {
        "truncate": {},
        "round": {"glancing_rounding": "round"},
        "bernoulli": {"glancing_draw": "bernoulli"},
    }.items():
        objective = positions("nat", glancing=[(0, 0.3)], **settings).train()
        assert isinstance(objective.view, Glancing)
        assert isinstance(objective.model, NATransformer)
        prepared = objective.prepare(batch)
        torch.manual_seed(1)
        shown = [objective.view.show(objective.model, prepared, "float32") for _ in range(200)]
        numbers[name] = torch.stack([(prepared.keep_BT & ~each.keep_BT).sum(1) for each in shown])
    written = write(objective.model, prepared, "float32")
    errors = (written.ne(prepared.tgt_tokens_BT)).sum(1)
    assert (numbers["truncate"] == (errors * 3) // 10).all()
    assert (numbers["round"] == (errors * 3 + 5) // 10).all()
    means, sizes = numbers["bernoulli"].double().mean(0), prepared.keep_BT.sum(1)
    bounds = 5 * (0.3 * errors * (1 - 0.3 * errors / sizes) / 200).sqrt()
    assert ((means - 0.3 * errors).abs() <= bounds).all()
    assert not torch.equal(numbers["truncate"], numbers["round"])


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_of_glancing_divided_by_the_predicted_words(tmp_path: Path, weighted: bool) -> None:
    """The sum is the same as for the divisor `words`; the count is the number of words that are not shown."""
    model, batch = small("nat"), batch_of(tmp_path, FIVE)
    weight_B = torch.tensor([0.5, 1.0, 2.0, 1.0, 0.25], dtype=torch.float64)
    if weighted:
        tokens = float((weight_B * torch.tensor([len(target) + 1 for _, target in FIVE])).sum())
        batch = replace(batch, extras=Extras(weight_B=weight_B, weighted_tokens=tokens))
    terms = {}
    for divisor in ("words", "predicted"):
        objective = nat_objective(model, glancing=[(0, 0.7)], glancing_divisor=divisor, deep_supervision=0.3).train()
        torch.manual_seed(3)
        prepared = objective.prepare(batch)
        terms[divisor] = objective(prepared)
        assert {name: term.count for name, term in terms[divisor].items()} == objective.counts(prepared)
    assert prepared.seen_BT is not None
    hidden_B = (prepared.seen_BT.eq(UNK)).sum(1)
    assert 0 < prepared.num_loss_tokens == int(hidden_B.sum()) < 16
    count = float((hidden_B * weight_B).sum()) if weighted else float(hidden_B.sum())
    for name in ("loss", "nll", "deep"):
        assert terms["predicted"][name].count == pytest.approx(count)
        assert torch.equal(terms["predicted"][name].sum, terms["words"][name].sum)
    assert terms["predicted"]["length"].count == terms["words"]["length"].count
    evaluated = terms_of(objective.eval(), batch)
    assert evaluated["loss"].count == terms["words"]["loss"].count


@pytest.mark.parametrize("same", [False, True])
def test_first_pass_before_the_forward_pass_has_the_same_masks_if_requested(
    tmp_path: Path, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two micro-batches are prepared before the passes of the first one, as in an update."""
    config = replace(TINY, dropout=0.3)
    model = build_nonautoregressive(config, NATConfig(family="nat"), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    settings = {"glancing": [(0, 0.5)], "glancing_divisor": "predicted", "glancing_same_dropout": same}
    objective, batch = nat_objective(model, **settings).train(), batch_of(tmp_path, FIVE)
    masks = recorded_masks(monkeypatch)
    prepared = [objective.prepare(batch), objective.prepare(batch)]
    first = masks.copy()
    for each in prepared:
        objective(each)
    second = masks[len(first) :]
    assert [torch.equal(one, other) for one, other in zip(first, second, strict=True)] == [same] * len(first)
    half = len(first) // 2
    assert not any(torch.equal(one, other) for one, other in zip(first[:half], first[half:], strict=True))
