"""Tests of the view and the term of students with more decoder positions than target tokens, against formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Literal

import nat_oracles as oracle
import numpy as np
import pytest
import torch
from copy_task import TINY, VOCAB, nat_objective, open_data, terms_of, train_settings, write_pairs
from dropout_masks import recorded_masks
from small_nat import PAIRS, batch_of, small
from torch.nn import functional as F

from kdmt.corpus.batching import Batch
from kdmt.errors import UserError
from kdmt.families import ALIGNED, FamilyName
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer
from kdmt.objectives.aligned import (
    AlignedPositions,
    AlignedPrepared,
    Glimpse,
    Reading,
    Words,
    edits_of_output,
    words_at_blanks,
)
from kdmt.objectives.objective import Objective
from kdmt.train.validation import validation_loss
from kdmt.types import BOS, EOS, PAD, UNK


@pytest.mark.parametrize("source_copy", ["uniform", "none"])
def test_ctc_loss_equals_torch(tmp_path: Path, source_copy: Literal["uniform", "none"]) -> None:
    model, batch = small(source_copy=source_copy), batch_of(tmp_path)
    objective = nat_objective(model)
    terms = terms_of(objective, batch)
    total = torch.zeros((), dtype=torch.float64)
    for row, (source, target) in enumerate(PAIRS):
        src_tokens = batch.src_tokens_BS[row : row + 1, : len(source) + 1]
        tokens = (
            src_tokens.repeat_interleave(2, 1)
            if source_copy == "uniform"
            else torch.full((1, 2 * len(source) + 2), UNK)
        )
        x_BLD = model.tgt_embed.look_up(tokens)  # the embeddings are shared
        features = model.decode_all(x_BLD, tokens.ne(PAD), model.encode(src_tokens))
        log_probs = (features @ model.output_weight_VD.t()).log_softmax(-1)
        nll = F.ctc_loss(
            log_probs[0], torch.tensor(target), (log_probs.size(1),), (len(target),), blank=VOCAB, reduction="none"
        )
        total = total + (nll if torch.isfinite(nll) else 0.0)
    assert float(terms["loss"].sum.detach()) == pytest.approx(float(total.detach()), rel=1e-10)
    assert float(terms["impossible"].sum) == 2
    assert {name: term.count for name, term in terms.items()} == objective.counts(objective.prepare(batch))
    assert objective.counts(objective.prepare(batch)) == {"loss": 8.0, "nll": 8.0, "impossible": 5}
    parameters = list(model.parameters())
    found, expected = (torch.autograd.grad(each, parameters, allow_unused=True) for each in (terms["loss"].sum, total))
    for mine, theirs in zip(found, expected, strict=True):
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


def test_dag_loss_equals_enumeration(tmp_path: Path) -> None:
    model, batch = small("dag", upsample=2), batch_of(tmp_path)
    terms = terms_of(nat_objective(model), batch)
    total, impossible = 0.0, 0
    for row, (source, target) in enumerate(PAIRS):
        src_tokens = batch.src_tokens_BS[row : row + 1, : len(source) + 1]
        x_BLD, keep_BL = model.vertices(src_tokens)
        features = model.decode_all(x_BLD, keep_BL, model.encode(src_tokens))
        log_probs = (features @ model.output_weight_VD.t()).log_softmax(-1)[0].detach().numpy()
        links = model.link(features, keep_BL)[0].detach().double().numpy()
        found = oracle.dag_log_likelihood(log_probs, links, [BOS, *target, EOS])
        impossible += found == -math.inf
        total += 0.0 if found == -math.inf else found
    assert float(terms["loss"].sum.detach()) == pytest.approx(-total, rel=1e-6)  # links are float32
    assert float(terms["impossible"].sum) == impossible == 2


@pytest.mark.parametrize("family", ALIGNED)
def test_every_gradient_is_finite(tmp_path: Path, family: FamilyName) -> None:
    model = small(family)
    terms_of(nat_objective(model), batch_of(tmp_path))["loss"].sum.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("family", ALIGNED)
def test_loss_does_not_depend_on_padding(tmp_path: Path, family: FamilyName) -> None:
    objective = nat_objective(small(family))
    batch = batch_of(tmp_path)
    assert batch.tgt_tokens_BT is not None
    wider = replace(
        batch,
        src_tokens_BS=F.pad(batch.src_tokens_BS, (0, 3), value=PAD),
        tgt_tokens_BT=F.pad(batch.tgt_tokens_BT, (0, 2), value=PAD),
    )
    torch.testing.assert_close(
        terms_of(objective, wider)["loss"].sum, terms_of(objective, batch)["loss"].sum, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("glancing", [None, [(0, 0.0)], [(0, 0.5)]])
@pytest.mark.parametrize(("family", "source_copy"), [("ctc", "uniform"), ("ctc", "none"), ("dag", "uniform")])
def test_every_parameter_has_a_gradient(
    tmp_path: Path,
    family: FamilyName,
    source_copy: Literal["uniform", "none"],
    glancing: list[tuple[int, float]] | None,
    shared: bool,
) -> None:
    """Data-parallel replicas need all gradients; the embeddings of tokens shown in a glance are trained, too."""
    config = replace(TINY, share_all_embeddings=shared)
    sizes = {"src_vocab_size": VOCAB, "tgt_vocab_size": VOCAB}
    model = build_nonautoregressive(config, NATConfig(family=family, upsample=3, source_copy=source_copy), **sizes)
    terms_of(nat_objective(model, glancing=glancing).train(), batch_of(tmp_path))["loss"].sum.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    shown = model.tgt_embed.tokens.weight.grad
    assert shown is not None
    if glancing == [(0, 0.5)] and not shared:
        assert float(shown[4:].abs().sum()) > 0


def test_validation_set_without_an_alignment_is_refused(tmp_path: Path) -> None:
    pairs = open_data(write_pairs(tmp_path, [([4], [5, 6, 7, 8]), ([6], [7, 8, 9, 10])]), train_settings())
    with pytest.raises(UserError, match=r"validation set: no target has an alignment \('nat.upsample' is too small\)"):
        validation_loss(nat_objective(small(upsample=1)), pairs, [np.arange(2)], device=torch.device("cpu"))


def test_target_whose_probability_underflows_is_skipped(tmp_path: Path) -> None:
    words = [4 + position % 8 for position in range(900)]
    pairs = open_data(write_pairs(tmp_path, [([4] * 450, words)]), train_settings(max_tokens=2000))
    config = replace(TINY, max_source_positions=1000, max_target_positions=1000, dropout=0.0)
    model = build_nonautoregressive(
        config, NATConfig(family="dag", upsample=2), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB
    )
    for module in (model.links.query, model.links.key):  # all later vertices are equally probable
        torch.nn.init.zeros_(module.weight)
    terms = terms_of(nat_objective(model).train(), pairs.load(torch.arange(1).numpy()))
    terms["loss"].sum.backward()
    assert math.isfinite(float(terms["loss"].sum.detach()))
    assert (float(terms["loss"].sum.detach()), float(terms["impossible"].sum)) == (0.0, 1.0)
    assert all(each.grad is None or torch.isfinite(each.grad).all() for each in model.parameters())


@pytest.mark.parametrize("family", ALIGNED)
def test_first_pass_of_glancing_has_no_gradient(
    family: FamilyName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Reading] = []
    glance = AlignedPositions.glance

    def spy(view: AlignedPositions, first: Reading, words: Words) -> Glimpse:
        seen.append(first)
        return glance(view, first, words)

    monkeypatch.setattr(AlignedPositions, "glance", spy)
    terms = terms_of(nat_objective(small(family, 4), glancing=[(0, 0.5)]), batch_of(tmp_path))
    assert terms["loss"].sum.requires_grad
    assert [first.features_BLD.requires_grad for first in seen] == [False]


def test_glancing_of_dag_shows_words_on_the_best_path(tmp_path: Path) -> None:
    model, batch = small("dag", upsample=3), batch_of(tmp_path)
    plain = terms_of(nat_objective(model).train(), batch)["loss"].sum
    nothing = terms_of(nat_objective(model, glancing=[(0, 0.0)]).train(), batch)["loss"].sum
    torch.testing.assert_close(nothing, plain, rtol=1e-12, atol=0)
    objective = nat_objective(model, glancing=[(0, 1.0)]).train()
    view, words, prepared = objective.view, Words.of(batch), objective.prepare(batch)
    assert isinstance(view, AlignedPositions)
    assert isinstance(prepared, AlignedPrepared)
    with torch.no_grad():
        x_BLD, keep_BL = model.vertices(batch.src_tokens_BS)
        encoded = model.encode(batch.src_tokens_BS)
        (reading,) = view.read_positions(model, x_BLD, keep_BL, encoded, prepared, "float32")
        target_index_BL, inner_BL = view.alignment.best(reading, words)
        log_probs = (reading.features_BLD @ model.output_weight_VD.t()).log_softmax(-1)
        links = model.link(reading.features_BLD, keep_BL).double()
    for row, (source, target) in enumerate(PAIRS):
        vertices = 3 * (len(source) + 1)
        path, _ = oracle.dag_best_path_for_target(
            log_probs[row, :vertices].numpy(), links[row, :vertices, :vertices].numpy(), [BOS, *target, EOS]
        )
        if path:
            assert inner_BL[row].nonzero()[:, 0].tolist() == path[1:-1]
            assert target_index_BL[row][inner_BL[row]].tolist() == list(range(1, len(target) + 1))
    shown = terms_of(objective, batch)["loss"].sum
    assert not torch.equal(shown, plain)
    shown.backward()
    gradient = model.tgt_embed.tokens.weight.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("family", ALIGNED)
def test_too_long_targets_are_upsampled_more(tmp_path: Path, family: FamilyName) -> None:
    """The loss equals the sum over single pairs, each with a model of the necessary upsampling factor."""
    batch = batch_of(tmp_path)
    objective = nat_objective(small(family), too_long="upsample").train()
    terms = terms_of(objective, batch)
    assert float(terms["impossible"].sum) == 0
    assert (
        terms["loss"].count
        == sum(len(target) for _, target in PAIRS)
        == objective.counts(objective.prepare(batch))["loss"]
    )
    total = 0.0
    for source, target in PAIRS:
        repeats = sum(one == other for one, other in pairwise(target)) if family == "ctc" else 2
        times = max(2, math.ceil((len(target) + repeats) / (len(source) + 1)))
        alone = nat_objective(small(family, upsample=times))
        pair = open_data(
            write_pairs(tmp_path / f"{len(target)}_{times}_{source[0]}", [(source, target)]), train_settings()
        )
        total += float(terms_of(alone, pair.load(torch.arange(1).numpy()))["loss"].sum.detach())
    assert float(terms["loss"].sum.detach()) == pytest.approx(total, rel=1e-9)
    skipped = terms_of(nat_objective(small(family)).train(), batch)
    assert float(skipped["impossible"].sum) > 0
    assert torch.equal(
        terms_of(objective.eval(), batch)["loss"].sum, terms_of(nat_objective(small(family)).eval(), batch)["loss"].sum
    )


@pytest.mark.parametrize("family", ALIGNED)
def test_deep_supervision_equals_loss_of_lower_layers(tmp_path: Path, family: FamilyName) -> None:
    model, batch = small(family, 3, layers=3), batch_of(tmp_path)
    deep = nat_objective(model, deep_supervision=0.5).train()
    terms = terms_of(deep, batch)
    plain = terms_of(nat_objective(model).train(), batch)
    torch.testing.assert_close(terms["loss"].sum, plain["loss"].sum)
    assert terms["deep"].weight == 0.5
    assert {name: term.count for name, term in terms.items()} == deep.counts(deep.prepare(batch))
    layers, means = model.decoder_layers, []
    for number in range(1, len(layers)):
        model.decoder_layers = layers[:number]
        means.append(float(terms_of(nat_objective(model).train(), batch)["loss"].sum.detach()))
    model.decoder_layers = layers
    assert len(means) == len(layers) - 1 >= 1
    assert float(terms["deep"].sum.detach()) == pytest.approx(sum(means) / len(means), rel=1e-9)


def test_glancing_ratio_of_zero_equals_plain_ctc(tmp_path: Path) -> None:
    model, batch = small(), batch_of(tmp_path)
    plain = terms_of(nat_objective(model).train(), batch)["loss"].sum
    nothing = terms_of(nat_objective(model, glancing=[(0, 0.0)]).train(), batch)["loss"].sum
    torch.testing.assert_close(nothing, plain, rtol=1e-12, atol=0)
    objective = nat_objective(model, glancing=[(0, 1.0), (10, 0.0)]).train()
    shown = terms_of(objective, batch)["loss"].sum
    assert not torch.equal(shown, plain)
    shown.backward()
    for name in ("blank_1D", "src_embed.tokens.weight", "encoder_layers.0.ffn.fc1.weight"):
        gradient = dict(model.named_parameters())[name].grad
        assert gradient is not None
        assert float(gradient.abs().sum()) > 0
    objective.before_update(5)
    assert isinstance(objective.view, AlignedPositions)
    assert objective.view.ratio == 0.5
    assert torch.equal(
        terms_of(objective.eval(), batch)["loss"].sum, terms_of(nat_objective(model).eval(), batch)["loss"].sum
    )


def test_glancing_by_levenshtein_distance_of_the_ctc_output(tmp_path: Path) -> None:
    """The output is merged and its blanks are removed; the distance is at most the number of positions."""
    objective = nat_objective(small(), glancing=[(0, 1.0)], distance="levenshtein").train()
    blank = small().blank
    best = torch.tensor([[4, 4, blank, 4, 5, 6], [blank, 7, 7, blank, 9, 9], [5, 5, 9, 9, 9, 9]])
    keep = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] * 2 + [False] * 4])
    words = Words(torch.tensor([[4, 4, 6, PAD], [8, PAD, PAD, PAD], [6, 7, 8, 9]]), torch.tensor([3, 1, 4]))
    # 4 4 5 6 to 4 4 6: one deletion; 7 to 8: one substitution; 5 to 6 7 8 9: four edits, limited to two positions
    assert edits_of_output(best, keep, words, blank=blank).tolist() == [1, 1, 2]
    assert math.isfinite(float(terms_of(objective, batch_of(tmp_path))["loss"].sum.detach()))


def test_next_word_is_shown_at_a_blank() -> None:
    """GLAT with CTC shows the word of the state's pair, `target[state // 2]`, and the last word after the end."""
    lengths = torch.tensor([3, 1, 2])
    states = torch.tensor([[0, 0, 1, 2, 3, 4, 5, 6], [0, 1, 1, 2, 2, 2, 2, 2], [1, 1, 3, 3, 4, 4, 4, 4]])
    index = torch.where(states % 2 == 1, (states + 1) // 2, 0)
    rows = zip(states.tolist(), lengths.tolist(), strict=True)
    expected = [[min(state // 2, length - 1) + 1 for state in row] for row, length in rows]
    found = words_at_blanks(index, Words(torch.full((3, 3), 7), lengths))
    assert found.tolist() == expected


def glances(objective: Objective, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return shown positions, symbols and real positions, of a first pass without random choices but the draw."""
    view, model = objective.view, objective.model
    prepared = objective.prepare(batch)
    assert isinstance(view, AlignedPositions)
    assert isinstance(model, NATransformer)
    assert isinstance(prepared, AlignedPrepared)
    with torch.no_grad():
        x_BLD, keep_BL = view.alignment.inputs(model, prepared)
        (first,) = view.read_positions(model, x_BLD, keep_BL, model.encode(batch.src_tokens_BS), prepared, "float32")
        glimpse = view.glance(first, prepared.words)
    return glimpse.shown_BL, glimpse.symbols_BL, keep_BL


def test_words_instead_of_blanks_change_what_is_shown_but_not_the_number_of_errors(tmp_path: Path) -> None:
    model, batch = small(upsample=4), batch_of(tmp_path)
    found = {}
    for reveal in ("state", "word"):
        torch.manual_seed(2)
        found[reveal] = glances(nat_objective(model, glancing=[(0, 0.7)], glancing_reveal=reveal).train(), batch)
    (shown, states, keep), (shown_again, words, _) = found["state"], found["word"]
    assert torch.equal(shown, shown_again)
    blank = states.eq(model.blank)
    assert (blank & keep).any()
    assert torch.equal(states[~blank], words[~blank])
    targets = [set(target) for _, target in PAIRS]
    for row, allowed in enumerate(targets):
        assert set(words[row][keep[row]].tolist()) <= allowed


@pytest.mark.parametrize("family", ALIGNED)
def test_bernoulli_draw_shows_each_position_with_the_same_probability(tmp_path: Path, family: FamilyName) -> None:
    """The mean of many draws is ratio * errors / positions, of which an exact draw of everything shows the errors."""
    model, copies = small(family, 3), 20
    pairs = open_data(write_pairs(tmp_path, PAIRS * copies), train_settings())
    batch = pairs.load(np.arange(len(PAIRS) * copies))
    everything = nat_objective(model, glancing=[(0, 1.0)]).train()
    errors = glances(everything, batch)[0].sum(1)
    objective = nat_objective(model, glancing=[(0, 0.5)], glancing_draw="bernoulli").train()
    torch.manual_seed(4)
    draws = torch.cat([glances(objective, batch)[0].unflatten(0, (copies, len(PAIRS))) for _ in range(400 // copies)])
    drawn = draws.double().mean(0)
    lengths = torch.tensor([len(target) for _, target in PAIRS])
    sizes = glances(objective, batch)[2].sum(1) if family == "ctc" else lengths
    assert (errors > 0).all()
    for row, (source, target) in enumerate(PAIRS):
        if family == "dag" and len(target) + 2 > 3 * (len(source) + 1):
            continue  # without a path
        rate = float(0.5 * errors[row] / sizes[row])
        assert rate < 1.0
        # the sum over positions is binomial
        bound = 5 * (rate * (1 - rate) * int(sizes[row]) / 400) ** 0.5
        assert float(drawn[row].sum()) == pytest.approx(rate * int(sizes[row]), abs=bound)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("family", ALIGNED)
def test_both_passes_of_glancing_have_the_same_dropout_masks_if_requested(
    tmp_path: Path, family: FamilyName, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, decoder_layers=2, dropout=0.3)
    sizes = {"src_vocab_size": VOCAB, "tgt_vocab_size": VOCAB}
    model = build_nonautoregressive(config, NATConfig(family=family, upsample=3), **sizes)
    objective = nat_objective(model, glancing=[(0, 0.5)], glancing_same_dropout=same).train()
    masks = recorded_masks(monkeypatch)
    terms_of(objective, batch_of(tmp_path))
    of_encoder, of_decoder = 3, 7  # embeddings, then two or three residuals of each layer
    assert len(masks) == of_encoder + 2 * of_decoder
    first, second = masks[of_encoder : of_encoder + of_decoder], masks[of_encoder + of_decoder :]
    assert [torch.equal(one, other) for one, other in zip(first, second, strict=True)] == [same] * of_decoder


@pytest.mark.parametrize("family", ALIGNED)
def test_sentence_average_equals_a_loop_over_sentences(tmp_path: Path, family: FamilyName) -> None:
    """The loss of each sentence that fits is divided by its length; the divisor is the number of these sentences."""
    model, batch = small(family, 2, layers=2), batch_of(tmp_path)
    objective = nat_objective(model, loss_average="sentence", deep_supervision=0.5).train()
    terms = terms_of(objective, batch)
    losses, nll, words = {"loss": 0.0, "deep": 0.0}, 0.0, 0
    alone = nat_objective(model, deep_supervision=0.5).train()
    for number, (source, target) in enumerate(PAIRS):
        pair = open_data(write_pairs(tmp_path / str(number), [(source, target)]), train_settings())
        own = terms_of(alone, pair.load(torch.arange(1).numpy()))
        for name in losses:
            losses[name] += float(own[name].sum.detach()) / len(target)
        nll += float(own["nll"].sum)
        words += len(target) if not float(own["impossible"].sum) else 0
    fitting = len(PAIRS) - float(terms["impossible"].sum)
    assert 0 < fitting < len(PAIRS)
    for name, expected in losses.items():
        assert float(terms[name].sum.detach()) == pytest.approx(expected, rel=1e-9)
        assert terms[name].count == fitting
    assert (float(terms["nll"].sum), terms["nll"].count) == (pytest.approx(nll, rel=1e-9), words)
    assert {name: term.count for name, term in terms.items()} == objective.counts(objective.prepare(batch))


def test_sentence_average_of_two_micro_batches_equals_that_of_one(tmp_path: Path) -> None:
    """Sums and counts are added before the division, so that the sentences have equal weights in any grouping."""
    objective = nat_objective(small(upsample=4), loss_average="sentence").train()
    data = open_data(write_pairs(tmp_path, PAIRS), train_settings())
    parts = [terms_of(objective, data.load(np.array(rows)))["loss"] for rows in ([0, 1, 2], [3, 4])]
    whole = terms_of(objective, batch_of(tmp_path / "whole"))["loss"]
    assert sum(part.count for part in parts) == whole.count == len(PAIRS)
    assert float(sum(part.sum.detach() for part in parts)) == pytest.approx(float(whole.sum.detach()), rel=1e-9)


def recorded_glimpses(monkeypatch: pytest.MonkeyPatch) -> list[Glimpse]:
    """Return a list to which each later result of glancing is appended."""
    seen: list[Glimpse] = []
    glance = AlignedPositions.glance

    def spy(view: AlignedPositions, first: Reading, words: Words) -> Glimpse:
        seen.append(glance(view, first, words))
        return seen[-1]

    monkeypatch.setattr(AlignedPositions, "glance", spy)
    return seen


def test_loss_over_the_paths_through_shown_words_equals_enumeration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shown word is at its vertex with probability 1, in the loss and in the gradient."""
    model, batch = small("dag", upsample=2, layers=2), batch_of(tmp_path)
    seen = recorded_glimpses(monkeypatch)
    objective = nat_objective(model, glancing=[(0, 0.6)], glancing_keep_path=True).train()
    torch.manual_seed(1)
    terms = terms_of(objective, batch)
    (glimpse,) = seen
    total, restricted = 0.0, 0
    for row, (source, target) in enumerate(PAIRS):
        vertices = 2 * (len(source) + 1)
        if len(target) + 2 > vertices:
            continue
        src_tokens = batch.src_tokens_BS[row : row + 1, : len(source) + 1]
        shown_L, symbols_L = glimpse.shown_BL[row, :vertices], glimpse.symbols_BL[row, :vertices]
        with torch.no_grad():
            x_BLD, keep_BL = model.vertices(src_tokens)
            x_BLD = torch.where(shown_L[None, :, None], model.look_up_output(symbols_L[None]), x_BLD)
            features = model.decode_all(x_BLD, keep_BL, model.encode(src_tokens))
            log_probs = (features @ model.output_weight_VD.t()).log_softmax(-1)[0]
            links = model.link(features, keep_BL)[0].double()
        fixed = {int(glimpse.index_BL[row, vertex]): vertex for vertex in shown_L.nonzero()[:, 0].tolist()}
        restricted += len(fixed)
        tokens, paths = [BOS, *target, EOS], []
        for inner in combinations(range(1, vertices - 1), len(target)):
            path = (0, *inner, vertices - 1)
            if all(path[place] == vertex for place, vertex in fixed.items()):
                words = sum(
                    float(log_probs[path[place], tokens[place]]) for place in range(len(path)) if place not in fixed
                )
                paths.append(words + sum(float(links[one, other]) for one, other in pairwise(path)))
        total -= float(np.logaddexp.reduce(paths))
    assert restricted > 0
    assert float(terms["loss"].sum.detach()) == pytest.approx(total, rel=1e-6)
    terms["loss"].sum.backward()
    assert all(each.grad is None or bool(each.grad.isfinite().all()) for each in model.parameters())


def trained_on(objective: Objective, batch: Batch, updates: int) -> None:
    """Train until the student is right at some positions and wrong at others."""
    optimizer = torch.optim.Adam(objective.model.parameters(), lr=0.01)
    for _ in range(updates):
        optimizer.zero_grad()
        terms_of(objective, batch)["loss"].sum.backward()
        optimizer.step()


def ctc_alignments(length: int, target: list[int], blank: int) -> list[tuple[int, ...]]:
    """Return all paths of `length` symbols that collapse to the target."""
    symbols = [blank, *dict.fromkeys(target)]
    return [path for path in product(symbols, repeat=length) if oracle.ctc_collapse(path, blank) == tuple(target)]


def aligned_errors(model: NATransformer, source: list[int], target: list[int]) -> tuple[int, int]:
    """Return in how many positions of the best alignment, by enumeration, the best token is another one; and of all."""
    src_tokens = torch.tensor([[*source, EOS]])
    with torch.no_grad():
        if model.nat.family == "dag":
            x_BLD, keep_BL = model.vertices(src_tokens)
        else:
            x_BLD, keep_BL = model.upsample(src_tokens)
        features = model.decode_all(x_BLD, keep_BL, model.encode(src_tokens))
        log_probs = (features @ model.output_weight_VD.t()).log_softmax(-1)[0]
        best = log_probs.argmax(-1).tolist()
        if model.nat.family == "dag":
            links = model.link(features, keep_BL)[0].double()
            path, _ = oracle.dag_best_path_for_target(log_probs, links, [BOS, *target, EOS])
            inner = path[1:-1]
            return sum(best[vertex] != token for vertex, token in zip(inner, target, strict=True)), len(inner)
    paths = ctc_alignments(len(best), target, model.blank)
    aligned = max(paths, key=lambda path: sum(float(log_probs[place, symbol]) for place, symbol in enumerate(path)))
    return sum(map(int.__ne__, best, aligned)), len(best)


@pytest.mark.parametrize(("family", "updates"), [("ctc", 15), ("dag", 8)])
def test_glancing_shows_as_many_positions_as_the_first_pass_has_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: FamilyName, updates: int
) -> None:
    model, batch = small(family, upsample=2, layers=2), batch_of(tmp_path)
    trained_on(nat_objective(model).train(), batch, updates)
    seen = recorded_glimpses(monkeypatch)
    terms_of(nat_objective(model, glancing=[(0, 1.0)]).train(), batch)
    (glimpse,) = seen
    found = []
    for row, (source, target) in enumerate(PAIRS):
        repeats = sum(map(int.__eq__, target, target[1:])) if family == "ctc" else 2
        if len(target) + repeats <= 2 * (len(source) + 1):
            found.append(aligned_errors(model, source, target))
            assert int(glimpse.shown_BL[row].sum()) == found[-1][0]
    assert 0 < sum(errors for errors, _ in found) < sum(number for _, number in found)
