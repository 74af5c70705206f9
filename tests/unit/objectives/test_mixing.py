"""Tests of mixed training of layer-wise predictions, against the recursion of the paper and enumerated alignments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import nat_oracles as oracle
import numpy as np
import pytest
import torch
from copy_task import TINY, VOCAB, nat_objective, terms_of
from dropout_masks import recorded_masks
from small_nat import PAIRS, batch_of
from torch import Tensor
from torch.nn import functional as F

from kdmt.families import FamilyName
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import EncoderOutput
from kdmt.objectives.aligned import AlignedPositions, Reading, Words
from kdmt.objectives.mixing import drawn_replacements, mixed_with
from kdmt.objectives.objective import Objective
from kdmt.types import EOS, UNK

CPU = torch.device("cpu")
FAMILIES: list[FamilyName] = ["nat", "cmlm", "ctc"]


def small(family: FamilyName, *, dropout: float = 0.0) -> NATransformer:
    torch.manual_seed(1)
    config = replace(TINY, dropout=dropout, decoder_layers=3)
    nat = NATConfig(family=family, upsample=2, dslp=True)
    return build_nonautoregressive(config, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double()


def objective_of(model: NATransformer, mixing: float, **nat: Any) -> Objective:
    return nat_objective(model, label_smoothing=0.0, dslp=True, deep_supervision=2.0, dslp_mixing=mixing, **nat).train()


def layers_with_predictions(
    model: NATransformer, x_LD: Tensor, encoded: EncoderOutput, read: Callable[[np.ndarray], list[int]]
) -> list[Tensor]:
    """Return the log-probabilities after each layer, [L, V]; `read` maps those of a lower layer to what is read."""
    hidden, found = model.tgt_embed.place(x_LD[None]), []
    for number, layer in enumerate(model.decoder_layers):
        hidden = layer(hidden, encoded.states_BSD, None, None)
        found.append((hidden[0] @ model.output_weight_VD.t()).log_softmax(-1).detach())
        if number < 2:
            embedded = model.output_weight_VD[read(found[-1].numpy())] * 32**0.5
            hidden = (torch.cat([hidden[0], embedded], dim=1) @ model.layer_inputs[number].weight.t())[None]
    return found


def best_path(log_probs_LV: np.ndarray, target: list[int]) -> list[int]:
    """Return the most probable path of CTC by enumeration; if there is none, the most probable symbols."""
    symbols = [VOCAB, *dict.fromkeys(target)]
    paths = [
        path for path in product(symbols, repeat=len(log_probs_LV)) if oracle.ctc_collapse(path, VOCAB) == tuple(target)
    ]
    if not paths:
        return log_probs_LV.argmax(1).tolist()
    return list(max(paths, key=lambda path: sum(log_probs_LV[at, symbol] for at, symbol in enumerate(path))))


def test_all_predictions_of_ctc_are_replaced_by_the_best_alignment_of_their_layer(tmp_path: Path) -> None:
    model, batch = small("ctc"), batch_of(tmp_path)
    terms = terms_of(objective_of(model, 1.0), batch)
    sums = [0.0, 0.0, 0.0]
    for source, target in PAIRS:
        src_tokens = torch.tensor([[*source, EOS]])
        x_BLD, _ = model.upsample(src_tokens)
        right = lambda log_probs, target=target: best_path(log_probs, target)  # noqa: E731
        for number, log_probs in enumerate(layers_with_predictions(model, x_BLD[0], model.encode(src_tokens), right)):
            nll = F.ctc_loss(
                log_probs, torch.tensor(target), (len(log_probs),), (len(target),), blank=VOCAB, reduction="none"
            )
            sums[number] += float(nll) if torch.isfinite(nll) else 0.0
    assert float(terms["loss"].sum.detach()) == pytest.approx(sums[2], rel=1e-9)
    assert float(terms["deep"].sum.detach()) == pytest.approx((sums[0] + sums[1]) / 2, rel=1e-9)
    without = terms_of(objective_of(model, 0.0), batch)
    assert float(without["loss"].sum.detach()) != pytest.approx(sums[2], rel=1e-4)


def test_all_predictions_of_nat_are_replaced_by_the_target(tmp_path: Path) -> None:
    model, batch = small("nat"), batch_of(tmp_path)
    terms = terms_of(objective_of(model, 1.0), batch)
    sums = [0.0, 0.0, 0.0]
    for source, target in PAIRS:
        src_tokens = torch.tensor([[*source, EOS]])
        seen = torch.tensor([[*[UNK] * len(target), EOS]])
        copies = model._copied(src_tokens, seen.ne(1))
        x_BLD = torch.where(seen.eq(UNK)[:, :, None], copies, model.tgt_embed.look_up(seen))
        right = lambda _, target=target: [*target, EOS]  # noqa: E731
        for number, log_probs in enumerate(layers_with_predictions(model, x_BLD[0], model.encode(src_tokens), right)):
            sums[number] -= sum(float(log_probs[at, token]) for at, token in enumerate(target))
    assert float(terms["nll"].sum.detach()) == pytest.approx(sums[2], rel=1e-9)
    assert float(terms["deep"].sum.detach()) == pytest.approx((sums[0] + sums[1]) / 2, rel=1e-9)


def test_replacements_are_drawn_independently_with_the_given_probability() -> None:
    torch.manual_seed(5)
    replaced = drawn_replacements(small("nat"), (40, 50), 0.3, CPU)
    assert replaced.shape == (2, 40, 50)
    assert float(replaced.double().mean()) == pytest.approx(0.3, abs=4 * (0.21 / 4000) ** 0.5)
    both = float((replaced[0] & replaced[1]).double().mean())
    assert both == pytest.approx(0.09, abs=4 * (0.09 * 0.91 / 2000) ** 0.5)


def test_only_drawn_predictions_are_replaced() -> None:
    replaced = torch.tensor([[[True, False, True]], [[False, False, True]]])
    revise = mixed_with(replaced, lambda features: features[:, :, 0].long())
    features = torch.tensor([[[7.0], [8.0], [9.0]]])
    assert revise(0, features, torch.tensor([[1, 2, 3]])).tolist() == [[7, 2, 9]]
    assert revise(1, features, torch.tensor([[1, 2, 3]])).tolist() == [[1, 2, 9]]


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_change_training_and_not_evaluation(tmp_path: Path, family: FamilyName) -> None:
    model, batch = small(family), batch_of(tmp_path)

    def loss(mixing: float, *, training: bool = True) -> float:
        torch.manual_seed(4)
        return float(terms_of(objective_of(model, mixing).train(training), batch)["loss"].sum.detach())

    assert loss(0.5) == loss(0.5)
    assert loss(0.5) != loss(0.0)
    assert loss(0.5, training=False) == loss(0.0, training=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_finite_gradient(tmp_path: Path, family: FamilyName) -> None:
    model = small(family)
    terms = terms_of(objective_of(model, 0.5), batch_of(tmp_path))
    torch.stack([term.sum * term.weight for term in terms.values()]).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
    assert all(bool(each.weight.grad.any()) for each in model.layer_inputs)


def test_first_pass_of_glancing_reads_its_own_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    glance = AlignedPositions.glance

    def spy(view: AlignedPositions, first: Reading, words: Words) -> tuple[Tensor, Tensor]:
        seen.append(first.features_BLD)
        return glance(view, first, words)

    monkeypatch.setattr(AlignedPositions, "glance", spy)
    model, batch = small("ctc"), batch_of(tmp_path)
    for mixing in (0.0, 1.0):
        terms_of(objective_of(model, mixing, glancing=[(0, 0.5)]), batch)
    assert torch.equal(*seen)


@pytest.mark.parametrize("family", ["nat", "ctc"])
def test_both_passes_of_glancing_have_the_same_dropout_masks_with_mixing(
    tmp_path: Path, family: FamilyName, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(family, dropout=0.3)
    objective = objective_of(model, 0.5, glancing=[(0, 0.5)], glancing_same_dropout=True)
    masks = recorded_masks(monkeypatch)
    terms_of(objective, batch_of(tmp_path))
    of_encoder, of_decoder = 3, 10
    first, second = masks[-2 * of_decoder - (of_encoder if family == "nat" else 0) :][:of_decoder], masks[-of_decoder:]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
