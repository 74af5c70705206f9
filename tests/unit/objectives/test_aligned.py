"""Objectives of non-autoregressive students against plain formulas."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kdmt.config import NAT, HiddenKD, WordKD
from kdmt.errors import UserError
from kdmt.models.architecture import Family, NATConfig
from kdmt.models.build import build_model, build_nonautoregressive, build_transformer, describe_model
from kdmt.models.length_prediction import soft_copy, uniform_copy
from kdmt.models.nonautoregressive import NATransformer
from kdmt.objectives.aligned import AlignedObjective, CTCObjective, DAGObjective, Words
from kdmt.objectives.build import nonautoregressive_objective
from kdmt.objectives.distillation import HiddenLesson, WordLesson
from kdmt.objectives.glancing import Distance, glanced
from kdmt.objectives.positional import MaskedObjective, PositionsObjective
from kdmt.train.validation import validation_loss
from kdmt.types import ALIGNED, BOS, EDITING, EOS, PAD, POSITIONAL, UNK, Batch, Knowledge

# the third is too long for twice its source, the fourth for the blank between its equal tokens
PAIRS = [([4, 5, 6], [7, 8]), ([9, 9], [10, 11, 4, 5]), ([6], [8, 9, 10, 11, 4]), ([6], [7, 7, 7]), ([7, 4], [5, 5])]


def small(family: Family = "ctc", upsample: int = 2, *, layers: int = 1) -> NATransformer:
    torch.manual_seed(1)
    nat = NATConfig(family=family, upsample=upsample)
    config = replace(TINY, dropout=0.0, decoder_layers=layers)
    model = build_nonautoregressive(config, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
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


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("glancing", [None, [(0, 0.0)], [(0, 0.5)]])
@pytest.mark.parametrize("family", ALIGNED)
def test_every_parameter_has_a_gradient(
    tmp_path: Path, family: Family, glancing: list[tuple[int, float]] | None, shared: bool
) -> None:
    """Replicas wait for all of them; what is shown in a glance is learnt from, too."""
    config = replace(TINY, share_all_embeddings=shared)
    sizes = {"src_vocab_size": VOCAB, "tgt_vocab_size": VOCAB}
    model = build_nonautoregressive(config, NATConfig(family=family, upsample=3), **sizes)
    objective_of = CTCObjective if family == "ctc" else DAGObjective
    objective_of(model, glancing=glancing).train()(batch_of(tmp_path))["loss"].sum.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    shown = model.tgt_embed.tokens.weight.grad
    assert shown is not None
    if glancing == [(0, 0.5)] and not shared:
        assert float(shown[4:].abs().sum()) > 0


@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
def test_targets_without_a_word_give_nothing(tmp_path: Path, family: Family) -> None:
    objective = nonautoregressive_objective(NAT(family=family), small(family), {"label_smoothing": 0.1}).train()
    pairs = open_data(write_pairs(tmp_path, [([4, 5], []), ([6], [])]), train_settings())
    terms = objective(objective.prepare(pairs.load(torch.arange(2).numpy())))
    total = sum(term.sum * term.weight for term in terms.values() if term.weight)
    assert isinstance(total, torch.Tensor)
    total.backward()
    assert torch.isfinite(total)
    assert all(each.grad is None or torch.isfinite(each.grad).all() for each in objective.model.parameters())


def test_a_validation_set_without_an_alignment_is_an_error(tmp_path: Path) -> None:
    pairs = open_data(write_pairs(tmp_path, [([4], [5, 6, 7, 8]), ([6], [7, 8, 9, 10])]), train_settings())
    with pytest.raises(UserError, match=r"validation set: no target has an alignment \('nat.upsample' is too small\)"):
        validation_loss(CTCObjective(small(upsample=1)), pairs, [np.arange(2)], device=torch.device("cpu"))


def test_a_target_too_improbable_for_a_number_is_left_out(tmp_path: Path) -> None:
    words = [4 + place % 8 for place in range(900)]
    pairs = open_data(write_pairs(tmp_path, [([4] * 450, words)]), train_settings(max_tokens=2000))
    config = replace(TINY, max_source_positions=1000, max_target_positions=1000, dropout=0.0)
    model = build_nonautoregressive(
        config, NATConfig(family="dag", upsample=2), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB
    )
    for module in (model.links.query, model.links.key):  # all later vertices are as probable
        torch.nn.init.zeros_(module.weight)
    terms = DAGObjective(model).train()(pairs.load(torch.arange(1).numpy()))
    terms["loss"].sum.backward()
    assert math.isfinite(float(terms["loss"].sum.detach()))
    assert (float(terms["loss"].sum.detach()), float(terms["impossible"].sum)) == (0.0, 1.0)
    assert all(each.grad is None or torch.isfinite(each.grad).all() for each in model.parameters())


@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
def test_deep_supervision_changes_no_validation_loss(tmp_path: Path, family: Family) -> None:
    """It is a lesson of the training; that validation sees none must hold from the first one on."""
    pairs = open_data(write_pairs(tmp_path, PAIRS), train_settings())
    losses = []
    for weight in (0.0, 0.5):
        nat = NAT(family=family, deep_supervision=weight)
        objective = nonautoregressive_objective(nat, small(family, 3, layers=2), {"label_smoothing": 0.1})
        objective.train()(objective.prepare(batch_of(tmp_path / str(weight))))
        losses.append(validation_loss(objective.eval(), pairs, [np.arange(5)], device=torch.device("cpu")))
    assert losses[0] == losses[1]
    assert math.isfinite(losses[0]["loss"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
def test_a_model_in_half_precision_has_nearly_the_loss_of_the_same_weights_in_double(
    tmp_path: Path, family: Family, dtype: torch.dtype
) -> None:
    batch, losses = batch_of(tmp_path), []
    for model in (small(family, 3).to(dtype), small(family, 3).to(dtype).double()):
        objective = nonautoregressive_objective(NAT(family=family), model, {"label_smoothing": 0.1}).eval()
        with torch.no_grad():
            losses.append(float(objective(batch)["loss"].sum))
    assert losses[0] == pytest.approx(losses[1], rel=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
def test_the_order_of_a_batch_and_its_padding_change_nothing(tmp_path: Path, family: Family) -> None:
    objective = nonautoregressive_objective(NAT(family=family), small(family), {"label_smoothing": 0.1}).eval()
    batch = batch_of(tmp_path)
    assert batch.prev_tokens_BT is not None
    assert batch.tgt_tokens_BT is not None
    order = torch.tensor([3, 1, 4, 0, 2])
    sides = (batch.src_tokens_BS, batch.prev_tokens_BT, batch.tgt_tokens_BT)
    src, prev, tgt = (F.pad(tokens[order], (0, 3), value=PAD) for tokens in sides)
    other = replace(batch, index_B=batch.index_B[order], src_tokens_BS=src, prev_tokens_BT=prev, tgt_tokens_BT=tgt)
    found, expected = objective(other), objective(batch)
    assert found.keys() == expected.keys()
    for name, term in expected.items():
        assert found[name].count == term.count
        torch.testing.assert_close(found[name].sum, term.sum, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
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
    shown = glanced((wrong & keep).sum(1), keep, ratio=ratio)
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
    shown = glanced(keep.sum(1), keep, ratio=0.5)
    torch.testing.assert_close(shown.float().mean(0), torch.full((4,), 0.5), rtol=0, atol=5 * 0.5 / 20_000**0.5)


def test_a_glance_at_a_dag_shows_words_on_its_best_path(tmp_path: Path) -> None:
    model, batch = small("dag", upsample=3), batch_of(tmp_path)
    plain = DAGObjective(model).train()(batch)["loss"].sum
    nothing = DAGObjective(model, glancing=[(0, 0.0)]).train()(batch)["loss"].sum
    torch.testing.assert_close(nothing, plain, rtol=1e-12, atol=0)
    objective = DAGObjective(model, glancing=[(0, 1.0)]).train()
    words = Words.of(batch)
    with torch.no_grad():
        x_BLD, keep_BL = model.vertices(batch.src_tokens_BS)
        (reading,) = objective._read(x_BLD, keep_BL, model.encode(batch.src_tokens_BS), words)
        places_BL, inner_BL = objective.best_alignment(reading, words)
        log_probs = (reading.features_BLD @ model.output_weight_VD.t()).log_softmax(-1)
        links = model.link(reading.features_BLD, keep_BL).double()
    for place, (source, target) in enumerate(PAIRS):
        vertices = 3 * (len(source) + 1)
        path, _ = oracle.dag_best_path_for_target(
            log_probs[place, :vertices].numpy(), links[place, :vertices, :vertices].numpy(), [BOS, *target, EOS]
        )
        if path:
            assert inner_BL[place].nonzero()[:, 0].tolist() == path[1:-1]
            assert places_BL[place][inner_BL[place]].tolist() == list(range(1, len(target) + 1))
    shown = objective(batch)["loss"].sum
    assert not torch.equal(shown, plain)
    shown.backward()
    gradient = model.tgt_embed.tokens.weight.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("objective_of", [CTCObjective, DAGObjective])
def test_too_long_targets_can_be_given_more_positions(tmp_path: Path, objective_of: type[AlignedObjective]) -> None:
    """Each alone, with a model that always upsamples so much, gives the same loss."""
    family: Family = "ctc" if objective_of is CTCObjective else "dag"
    batch = batch_of(tmp_path)
    objective = objective_of(small(family), too_long="upsample").train()
    terms = objective(batch)
    assert float(terms["impossible"].sum) == 0
    assert terms["loss"].count == sum(len(target) for _, target in PAIRS) == objective.counts(batch)["loss"]
    total = 0.0
    for source, target in PAIRS:
        repeats = sum(one == other for one, other in pairwise(target)) if family == "ctc" else 2
        times = max(2, math.ceil((len(target) + repeats) / (len(source) + 1)))
        alone = objective_of(small(family, upsample=times))
        pair = open_data(
            write_pairs(tmp_path / f"{len(target)}_{times}_{source[0]}", [(source, target)]), train_settings()
        )
        total += float(alone(pair.load(torch.arange(1).numpy()))["loss"].sum.detach())
    assert float(terms["loss"].sum.detach()) == pytest.approx(total, rel=1e-9)
    skipped = objective_of(small(family)).train()(batch)
    assert float(skipped["impossible"].sum) > 0
    assert torch.equal(objective.eval()(batch)["loss"].sum, objective_of(small(family)).eval()(batch)["loss"].sum)


@pytest.mark.parametrize("objective_of", [CTCObjective, DAGObjective])
def test_deep_supervision_is_the_loss_of_the_lower_layers(tmp_path: Path, objective_of: type[AlignedObjective]) -> None:
    model, batch = small("ctc" if objective_of is CTCObjective else "dag", 3, layers=3), batch_of(tmp_path)
    deep = objective_of(model, deep_supervision=0.5).train()
    terms = deep(batch)
    plain = objective_of(model).train()(batch)
    torch.testing.assert_close(terms["loss"].sum, plain["loss"].sum)
    assert terms["deep"].weight == 0.5
    assert {name: term.count for name, term in terms.items()} == deep.counts(batch)
    layers, means = model.decoder_layers, []
    for number in range(1, len(layers)):
        model.decoder_layers = layers[:number]
        means.append(float(objective_of(model).train()(batch)["loss"].sum.detach()))
    model.decoder_layers = layers
    assert len(means) == len(layers) - 1 >= 1
    assert float(terms["deep"].sum.detach()) == pytest.approx(sum(means) / len(means), rel=1e-9)


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


def test_a_glance_by_edits_is_of_what_ctc_says(tmp_path: Path) -> None:
    """Merged, without blanks, beside the target; never more than there are positions."""
    objective = CTCObjective(small(), glancing=[(0, 1.0)], distance="levenshtein").train()
    blank = objective.model.blank
    best = torch.tensor([[4, 4, blank, 4, 5, 6], [blank, 7, 7, blank, 9, 9], [5, 5, 9, 9, 9, 9]])
    keep = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] * 2 + [False] * 4])
    words = Words(torch.tensor([[4, 4, 6, PAD], [8, PAD, PAD, PAD], [6, 7, 8, 9]]), torch.tensor([3, 1, 4]))
    # 4 4 5 6 is one deletion from 4 4 6, 7 one substitution from 8, 5 four edits from 6 7 8 9, in two positions
    assert objective.wrong(best, best, keep, words).tolist() == [1, 1, 2]
    assert CTCObjective(small()).wrong(best, best, keep, words).tolist() == [0, 0, 0]
    assert math.isfinite(float(objective(batch_of(tmp_path))["loss"].sum.detach()))


@pytest.mark.parametrize("distance", ["hamming", "levenshtein"])
def test_what_is_inside_is_compared_at_the_words_that_are_shown_too(tmp_path: Path, distance: Distance) -> None:
    torch.manual_seed(4)
    teacher = build_transformer(TINY, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double()
    model = small("nat")
    lesson = HiddenLesson(HiddenKD(encoder="none"), student=model, teacher=teacher)
    common = {"label_smoothing": 0.1, "length_weight": 0.1, "teachers": [teacher], "lessons": [lesson]}
    objective = PositionsObjective(model, glancing=[(0, 0.5)], distance=distance, **common).train()
    prepared = objective.prepare(batch_of(tmp_path))
    terms = objective(prepared)
    assert terms["hidden"].count == 16  # words of all targets
    assert {name: term.count for name, term in terms.items()} == objective.counts(prepared)


# ----------------------------------------------------------------------------------------- the target's own positions


def positions(family: Family, **others: Any) -> PositionsObjective:
    objective_of = MaskedObjective if family == "cmlm" else PositionsObjective
    return objective_of(small(family), label_smoothing=0.1, length_weight=0.1, **others)


def test_nat_is_cross_entropy_of_each_word_and_of_the_length(tmp_path: Path) -> None:
    objective, batch = positions("nat").train(), batch_of(tmp_path)
    model, prepared = objective.model, objective.prepare(batch)
    terms = objective(prepared)
    assert {name: (term.count, term.weight) for name, term in terms.items()} == {
        "loss": (16, 1.0),
        "nll": (16, 0.0),
        "length": (5, 0.1),
    }
    assert {name: term.count for name, term in terms.items()} == objective.counts(prepared)
    nll = length_nll = 0.0
    for place, (source, target) in enumerate(PAIRS):
        src_tokens = batch.src_tokens_BS[place : place + 1, : len(source) + 1]
        encoded = model.encode(src_tokens)
        seen = torch.tensor([[*[UNK] * len(target), EOS]])
        log_probs = (model.fill(src_tokens, seen, encoded) @ model.output_weight_VD.t()).log_softmax(-1)[0]
        nll -= float(log_probs[torch.arange(len(target)), torch.tensor(target)].detach().sum())
        lengths = model.lengths.proj(encoded.states_BSD.mean(1)).log_softmax(-1)[0].detach()
        length_nll -= float(lengths[len(target) - len(source) + 128])
    assert float(terms["nll"].sum) == pytest.approx(nll, rel=1e-9)
    assert float(terms["length"].sum.detach()) == pytest.approx(length_nll, rel=1e-5)
    evaluated = objective.eval()(batch)
    assert float(evaluated["nll"].sum) == pytest.approx(nll, rel=1e-9)


@pytest.mark.parametrize("distance", ["hamming", "levenshtein"])
def test_a_glance_shows_words_and_asks_for_the_others(tmp_path: Path, distance: Distance) -> None:
    plain = positions("nat").train()
    prepared = plain.prepare(batch_of(tmp_path))
    nothing = positions("nat", glancing=[(0, 0.0)], distance=distance).train()
    assert float(nothing(prepared)["loss"].sum.detach()) == pytest.approx(float(plain(prepared)["loss"].sum.detach()))
    half = positions("nat", glancing=[(0, 0.5)], distance=distance).train()
    glimpsed = half._glance(prepared)
    assert glimpsed.seen_BT is not None
    assert glimpsed.tgt_tokens_BT is not None
    assert prepared.tgt_tokens_BT is not None
    asked = glimpsed.tgt_tokens_BT.ne(PAD)
    assert 0 < glimpsed.num_tgt_tokens == int(asked.sum()) < 16 == glimpsed.target_count
    shown = prepared.tgt_tokens_BT.ne(PAD) & ~asked
    assert torch.equal(glimpsed.seen_BT[shown], prepared.tgt_tokens_BT[shown])
    terms = half(prepared)
    assert {name: term.count for name, term in terms.items()} == half.counts(prepared)
    assert terms["loss"].count == 16
    assert float(terms["loss"].sum.detach()) < float(plain(prepared)["loss"].sum.detach())


def test_cmlm_asks_for_what_it_hides(tmp_path: Path) -> None:
    torch.manual_seed(3)
    objective, batch = positions("cmlm").train(), batch_of(tmp_path)
    assert batch.tgt_tokens_BT is not None
    numbers = []
    for _ in range(200):
        hidden = objective.prepare(batch)
        assert hidden.seen_BT is not None
        assert hidden.tgt_tokens_BT is not None
        asked = hidden.tgt_tokens_BT.ne(PAD)
        assert int(asked.sum()) == hidden.num_tgt_tokens == objective.counts(hidden)["loss"]
        assert torch.equal(hidden.seen_BT.eq(UNK), asked)
        assert torch.equal(torch.where(asked, hidden.tgt_tokens_BT, hidden.seen_BT), batch.tgt_tokens_BT)
        assert asked.any(1).all()
        numbers.append(int(asked[2].sum()))
    assert set(numbers) == {1, 2, 3, 4, 5}  # words of the third target
    terms = objective(hidden)
    assert terms["nll"].count == hidden.num_tgt_tokens
    whole = objective.eval()(batch)
    assert whole["nll"].count == 16  # in evaluation mode all words are hidden, and </s> is not asked for


@pytest.mark.parametrize("family", ["nat", "cmlm"])
def test_word_level_distillation_compares_the_same_tokens(tmp_path: Path, family: Family) -> None:
    """The teacher reads the whole target, whatever the student sees of it; a cache of all tokens says the same."""
    torch.manual_seed(4)
    config = replace(TINY, dropout=0.0)
    teacher = build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double().eval()
    word = WordLesson(WordKD(alpha=1.0), label_smoothing=0.1)
    objective = positions(family, word=word, teachers=[teacher]).train()
    batch = batch_of(tmp_path)
    assert batch.prev_tokens_BT is not None
    assert batch.tgt_tokens_BT is not None
    log_probs = teacher(batch.src_tokens_BS, batch.prev_tokens_BT).log_softmax(-1)[batch.tgt_tokens_BT.ne(PAD)].detach()
    best = log_probs.sort(dim=1, descending=True)
    said = Knowledge(best.indices, torch.cat([best.values, torch.full_like(best.values[:, :1], -1e4)], 1))
    torch.manual_seed(5)
    live = objective(objective.prepare(batch))
    cached_word = WordLesson(WordKD(alpha=1.0, source="cache"), label_smoothing=0.1)
    cached = type(objective)(objective.model, label_smoothing=0.1, length_weight=0.1, word=cached_word).train()
    torch.manual_seed(5)
    other = cached(cached.prepare(replace(batch, knowledge=said)))
    assert float(live["word_kd"].sum) == pytest.approx(float(other["word_kd"].sum), rel=1e-9)
    assert live["word_kd"].count == other["word_kd"].count


@pytest.mark.parametrize("left", [False, True])
def test_uniform_copy_reads_from_the_first_to_the_last_real_token(left: bool) -> None:
    keep, x = padded_sources([4, 5, 3], left=left)
    found = uniform_copy(x, keep, torch.tensor([7, 3, 1]), 7)
    assert found[:, :, 0].tolist() == [[0, 0, 1, 2, 2, 2, 3], [0, 2, 4, 4, 4, 4, 4], [0, 2, 2, 2, 2, 2, 2]]


@pytest.mark.parametrize("left", [False, True])
def test_soft_copy_is_a_mean_that_falls_off_with_the_distance(left: bool) -> None:
    keep, x = padded_sources([4, 5, 3], left=left)
    temperature = 0.7
    found = soft_copy(x, keep, torch.tensor([7, 3, 1]), 7, log_temperature=torch.tensor(temperature).log())
    for sentence, (src, tgt) in enumerate([(4, 7), (5, 3), (3, 1)]):
        for place in range(tgt):
            opposite = place * (src - 1) / max(tgt - 1, 1)
            weights = [math.exp(-abs(s - opposite) / temperature) for s in range(src)]
            expected = sum(s * weight for s, weight in enumerate(weights)) / sum(weights)
            assert float(found[sentence, place, 0]) == pytest.approx(expected, rel=1e-5)


def padded_sources(lengths: list[int], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens are real, and states whose one number is the token's place; on padding it is -100."""
    keep = torch.zeros(len(lengths), max(lengths), dtype=torch.bool)
    x = torch.full((len(lengths), max(lengths), 1), -100.0)
    for row, length in enumerate(lengths):
        start = max(lengths) - length if left else 0
        keep[row, start : start + length] = True
        x[row, start : start + length, 0] = torch.arange(float(length))
    return keep, x
