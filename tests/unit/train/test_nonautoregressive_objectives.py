"""Objectives of non-autoregressive students against plain formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import nat_oracles as oracle
import pytest
import torch
from copy_task import TINY, VOCAB, open_data, train_settings, write_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kdmt.models.architecture import Family, NATConfig
from kdmt.models.build import build_model, build_nonautoregressive, describe_model
from kdmt.models.nonautoregressive import NATransformer
from kdmt.train.glancing import glanced
from kdmt.train.nonautoregressive import AlignedObjective, CTCObjective, DAGObjective
from kdmt.types import BOS, EOS, PAD, Batch

# the third is too long for twice its source, the fourth for the blank between its equal tokens
PAIRS = [([4, 5, 6], [7, 8]), ([9, 9], [10, 11, 4, 5]), ([6], [8, 9, 10, 11, 4]), ([6], [7, 7, 7]), ([7, 4], [5, 5])]


def small(family: Family = "ctc", upsample: int = 2) -> NATransformer:
    torch.manual_seed(1)
    nat = NATConfig(family=family, upsample=upsample)
    model = build_nonautoregressive(replace(TINY, dropout=0.0), nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    return model.double()


def batch_of(folder: Path) -> Batch:
    return open_data(write_pairs(folder, PAIRS), train_settings()).load(torch.arange(len(PAIRS)).numpy())


def test_ctc_loss_is_torchs_over_whole_distributions(tmp_path: Path) -> None:
    model, batch = small(), batch_of(tmp_path)
    objective = CTCObjective(model)
    terms = objective(batch)
    total = torch.zeros((), dtype=torch.float64)
    for place, (source, target) in enumerate(PAIRS):
        src_tokens = batch.src_tokens_BS[place : place + 1, : len(source) + 1]
        x_BLD, keep_BL = model.upsample(src_tokens)
        features = model.decode_all(x_BLD, keep_BL, model.encode(src_tokens))
        log_probs = (features @ model.output_weight_VD.t()).log_softmax(-1)
        nll = F.ctc_loss(
            log_probs[0], torch.tensor(target), (log_probs.size(1),), (len(target),), blank=VOCAB, reduction="none"
        )
        total = total + (nll if torch.isfinite(nll) else 0.0)
    assert float(terms["loss"].sum.detach()) == pytest.approx(float(total.detach()), rel=1e-10)
    assert float(terms["impossible"].sum) == 2
    assert {name: term.count for name, term in terms.items()} == objective.counts(batch)
    assert objective.counts(batch) == {"loss": 8.0, "nll": 8.0, "impossible": 5}
    parameters = list(model.parameters())
    found, expected = (torch.autograd.grad(each, parameters, allow_unused=True) for each in (terms["loss"].sum, total))
    for mine, theirs in zip(found, expected, strict=True):
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


def test_dag_loss_is_that_of_enumeration(tmp_path: Path) -> None:
    model, batch = small("dag", upsample=2), batch_of(tmp_path)
    terms = DAGObjective(model)(batch)
    total, impossible = 0.0, 0
    for place, (source, target) in enumerate(PAIRS):
        src_tokens = batch.src_tokens_BS[place : place + 1, : len(source) + 1]
        x_BLD, keep_BL = model.vertices(src_tokens)
        features = model.decode_all(x_BLD, keep_BL, model.encode(src_tokens))
        log_probs = (features @ model.output_weight_VD.t()).log_softmax(-1)[0].detach().numpy()
        links = model.link(features, keep_BL)[0].detach().double().numpy()
        found = oracle.dag_log_likelihood(log_probs, links, [BOS, *target, EOS])
        impossible += found == -math.inf
        total += 0.0 if found == -math.inf else found
    assert float(terms["loss"].sum.detach()) == pytest.approx(-total, rel=1e-6)  # links are float32
    assert float(terms["impossible"].sum) == impossible == 2


@pytest.mark.parametrize("objective_of", [CTCObjective, DAGObjective])
def test_every_gradient_is_finite(tmp_path: Path, objective_of: type[AlignedObjective]) -> None:
    model = small("ctc" if objective_of is CTCObjective else "dag")
    objective_of(model)(batch_of(tmp_path))["loss"].sum.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("objective_of", [CTCObjective, DAGObjective])
def test_more_padding_changes_nothing(tmp_path: Path, objective_of: type[AlignedObjective]) -> None:
    objective = objective_of(small("ctc" if objective_of is CTCObjective else "dag"))
    batch = batch_of(tmp_path)
    assert batch.tgt_tokens_BT is not None
    wider = replace(
        batch,
        src_tokens_BS=F.pad(batch.src_tokens_BS, (0, 3), value=PAD),
        tgt_tokens_BT=F.pad(batch.tgt_tokens_BT, (0, 2), value=PAD),
    )
    torch.testing.assert_close(objective(wider)["loss"].sum, objective(batch)["loss"].sum, rtol=1e-6, atol=0)


@pytest.mark.parametrize("family", ["ctc", "dag"])
def test_a_model_is_rebuilt_from_its_description(family: Family) -> None:
    model = small(family, upsample=3).float()
    again = build_model(describe_model(model))
    assert isinstance(again, NATransformer)
    assert again.nat == model.nat
    assert {name: each.shape for name, each in again.named_parameters()} == {
        name: each.shape for name, each in model.named_parameters()
    }


# ---------------------------------------------------------------------------------------------------------- glancing


@given(st.integers(0, 500), st.floats(0.0, 1.0))
@settings(max_examples=50, deadline=None)
def test_so_many_positions_are_shown_as_the_distance_says(seed: int, ratio: float) -> None:
    torch.manual_seed(seed)
    wrong, keep = torch.rand(5, 9) < 0.6, torch.arange(9) < torch.tensor([9, 4, 1, 7, 9])[:, None]
    shown = glanced(wrong, keep, ratio=ratio)
    assert not (shown & ~keep).any()
    for row in range(5):
        answers = torch.where(wrong[row], 1, 0)[keep[row]].tolist()
        ratio32 = float(torch.tensor(ratio, dtype=torch.float32))
        counts = {
            oracle.glancing_count(answers, [0] * len(answers), each, oracle.hamming_distance)
            for each in (ratio, ratio32)
        }
        assert int(shown[row].sum()) in counts


def test_shown_positions_are_drawn_evenly() -> None:
    torch.manual_seed(1)
    keep = torch.ones(20_000, 4, dtype=torch.bool)
    shown = glanced(keep, keep, ratio=0.5)
    torch.testing.assert_close(shown.float().mean(0), torch.full((4,), 0.5), rtol=0, atol=5 * 0.5 / 20_000**0.5)


def test_a_glance_at_nothing_is_plain_ctc_and_one_at_all_of_it_is_easier(tmp_path: Path) -> None:
    model, batch = small(), batch_of(tmp_path)
    plain = CTCObjective(model).train()(batch)["loss"].sum
    nothing = CTCObjective(model, glancing=[(0, 0.0)]).train()(batch)["loss"].sum
    torch.testing.assert_close(nothing, plain, rtol=1e-12, atol=0)
    objective = CTCObjective(model, glancing=[(0, 1.0), (10, 0.0)]).train()
    shown = objective(batch)["loss"].sum
    assert not torch.equal(shown, plain)
    shown.backward()
    for name in ("blank_1D", "src_embed.tokens.weight", "encoder_layers.0.ffn.fc1.weight"):
        gradient = dict(model.named_parameters())[name].grad
        assert gradient is not None
        assert float(gradient.abs().sum()) > 0
    objective.before_update(5)
    assert objective.ratio == 0.5
    assert torch.equal(objective.eval()(batch)["loss"].sum, CTCObjective(model).eval()(batch)["loss"].sum)
