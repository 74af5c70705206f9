"""Tests of the terms that fine-tune a student, against formulas that take dense probabilities of one sentence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copy_task import (
    TINY,
    VOCAB,
    make_model,
    make_trainer,
    nat_objective,
    open_data,
    terms_of,
    train_settings,
    write_copy_task,
    write_pairs,
)
from safetensors.torch import load_file
from small_nat import PAIRS, batch_of, small
from torch import Tensor
from torch.nn import functional as F

from kdmt.config import Student
from kdmt.corpus.batching import Batch, ParallelData
from kdmt.families import FamilyName
from kdmt.losses.gathered import overlapping_log_probs
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer
from kdmt.objectives import aligned
from kdmt.objectives.build import build_objective
from kdmt.objectives.objective import Objective
from kdmt.train.loop import Trainer
from kdmt.train.validation import validation_loss
from kdmt.types import BOS, EOS, PAD

SIMILARITIES: list[tuple[FamilyName, dict[str, Any]]] = [
    ("ctc", {"loss": "nmla"}),
    ("ctc", {"loss": "nmla", "ngram": 1}),
    ("dag", {"loss": "fuzzy_alignment"}),
    ("dag", {"loss": "fuzzy_alignment", "ngram": 3}),
]
CONVEX: Mapping[str, Any] = {"convex": {"power": 2.0}}
ALL: list[tuple[FamilyName, dict[str, Any], Mapping[str, Any]]] = [
    *((family, nat, {}) for family, nat in SIMILARITIES),
    *((family, {}, CONVEX) for family in ("nat", "cmlm", "ctc", "dag")),
]


def autoregressive(label_smoothing: float = 0.0, power: float = 2.0) -> Objective:
    model = make_model(1, replace(TINY, dropout=0.0)).double()
    student = Student.model_validate({"convex": {"power": power}})
    return build_objective(model, student, label_smoothing=label_smoothing)


def ngrams(tokens: Sequence[int], order: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1))


def ctc_similarity(probs_LV: Tensor, target: Sequence[int], order: int) -> Tensor:
    """Return the F-measure by the formulas of Shao & Feng (2022), with sums over positions written out."""
    length, blank = len(probs_LV), VOCAB
    matched = torch.zeros((), dtype=torch.float64)
    for gram, times in ngrams(target, order).items():
        count = torch.zeros((), dtype=torch.float64)
        for i in range(length):
            if order == 1:
                repeated = probs_LV[i + 1, gram[0]] if i + 1 < length else 0.0
                count = count + probs_LV[i, gram[0]] * (1 - repeated)
                continue
            for j in range(i + 1 if gram[0] != gram[1] else i + 2, length):
                count = count + probs_LV[i, gram[0]] * probs_LV[j, gram[1]] * probs_LV[i + 1 : j, blank].prod()
        matched = matched + count.clamp_max(times)
    words_LV = probs_LV[:, :blank]
    expected = words_LV.sum() - (words_LV[1:] * words_LV[:-1]).sum()
    if order == 2:
        expected = expected - 1 + probs_LV[:, blank].prod()
    return 2 * matched / (expected + len(target) - order + 1)


def dag_similarity(probs_LV: Tensor, links_LL: Tensor, target: Sequence[int], order: int) -> Tensor:
    """Return precision times brevity penalty of Ma et al. (2023), with one step of the recursion for each vertex."""
    framed = [BOS, *target, EOS]
    passing = [torch.ones((), dtype=torch.float64)]
    for vertex in range(1, len(probs_LV)):
        passing.append(sum((passing[u] * links_LL[u, vertex] for u in range(vertex)), torch.zeros(()).double()))
    passing_L = torch.stack(passing)
    total_L, matched = passing_L, torch.zeros((), dtype=torch.float64)
    for _ in range(order - 1):
        total_L = total_L @ links_LL
    for gram, times in ngrams(framed, order).items():
        count_L = passing_L * probs_LV[:, gram[0]]
        for word in gram[1:]:
            count_L = (count_L @ links_LL) * probs_LV[:, word]
        matched = matched + count_L.sum().clamp_max(times)
    return matched / total_L.sum() * (1 - len(framed) / passing_L.sum()).clamp_max(0).exp()


def similarity_alone(model: NATransformer, batch: Batch, row: int, order: int) -> Tensor:
    source, target = PAIRS[row]
    src_tokens = batch.src_tokens_BS[row : row + 1, : len(source) + 1]
    is_ctc = model.nat.family == "ctc"
    x_BLD, keep_BL = model.upsample(src_tokens) if is_ctc else model.vertices(src_tokens)
    features = model.decode_all(x_BLD, keep_BL, model.encode(src_tokens))
    probs_LV = (features @ model.output_weight_VD.t()).softmax(-1)[0]
    if is_ctc:
        return ctc_similarity(probs_LV, target, order)
    return dag_similarity(probs_LV, model.link(features, keep_BL)[0].double().exp(), target, order)


@pytest.mark.parametrize(("family", "nat"), SIMILARITIES)
def test_similarity_loss_equals_formula(tmp_path: Path, family: FamilyName, nat: dict[str, Any]) -> None:
    """Targets that are too long for their positions are part of the loss."""
    model, batch = small(family), batch_of(tmp_path)
    objective = nat_objective(model, **nat)
    terms = terms_of(objective, batch)
    total = sum((1 - similarity_alone(model, batch, row, nat.get("ngram", 2)) for row in range(len(PAIRS))), 0.0)
    assert isinstance(total, Tensor)
    tolerance = 1e-9 if family == "ctc" else 1e-6  # links are float32
    assert float(terms["loss"].sum.detach()) == pytest.approx(float(total.detach()), rel=tolerance)
    assert terms["loss"].count == len(PAIRS)
    plain = terms_of(nat_objective(model), batch)
    for name in ("nll", "impossible"):
        assert float(terms[name].sum) == pytest.approx(float(plain[name].sum), rel=1e-9)
        assert (terms[name].count, terms[name].weight) == (plain[name].count, 0.0)
    assert objective.counts(objective.prepare(batch)) == {name: term.count for name, term in terms.items()}
    parameters = list(model.parameters())
    found, expected = (torch.autograd.grad(each, parameters, allow_unused=True) for each in (terms["loss"].sum, total))
    for mine, theirs in zip(found, expected, strict=True):
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_targets_without_an_ngram_are_not_counted(tmp_path: Path) -> None:
    """A bigram of `ctc` needs two words, one of `dag` is `<s>` and the only word; an empty target has neither."""
    pairs = open_data(write_pairs(tmp_path, [([4, 5], []), ([6, 7], [8]), ([9, 6], [5, 7])]), train_settings())
    batch = pairs.load(torch.arange(3).numpy())
    for family, loss, expected in (("ctc", "nmla", 1), ("dag", "fuzzy_alignment", 2)):
        model = small(family)  # type: ignore[arg-type]
        terms = terms_of(nat_objective(model, loss=loss), batch)
        assert terms["loss"].count == expected
        assert 0.0 < float(terms["loss"].sum.detach()) < expected
    short = terms_of(nat_objective(small("ctc"), loss="nmla"), pairs.load(torch.tensor([0, 1]).numpy()))
    assert (float(short["loss"].sum.detach()), short["loss"].count) == (0.0, 0.0)


@pytest.mark.parametrize(("family", "nat", "more"), ALL)
@pytest.mark.parametrize("deep", [0.0, 0.5])
def test_every_parameter_has_a_finite_gradient(
    tmp_path: Path, family: FamilyName, nat: dict[str, Any], more: Mapping[str, Any], deep: float
) -> None:
    """Data-parallel replicas wait for all gradients."""
    model = small(family, 3, layers=2)
    terms = terms_of(nat_objective(model, besides=more, deep_supervision=deep, **nat).train(), batch_of(tmp_path))
    sum(term.weight * term.sum for term in terms.values() if term.weight).backward()  # type: ignore[union-attr]
    assert ("deep" in terms) == (deep > 0)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize(("family", "nat", "more"), [each for each in ALL if each[0] in ("ctc", "dag")])
def test_loss_does_not_depend_on_padding_and_batch(
    tmp_path: Path, family: FamilyName, nat: dict[str, Any], more: Mapping[str, Any]
) -> None:
    objective = nat_objective(small(family), besides=more, **nat)
    pairs = open_data(write_pairs(tmp_path / "pairs", PAIRS), train_settings())
    batch = batch_of(tmp_path)
    assert batch.tgt_tokens_BT is not None
    wider = replace(
        batch,
        src_tokens_BS=F.pad(batch.src_tokens_BS, (0, 3), value=PAD),
        tgt_tokens_BT=F.pad(batch.tgt_tokens_BT, (0, 2), value=PAD),
    )
    together = float(terms_of(objective, batch)["loss"].sum.detach())
    alone = [terms_of(objective, pairs.load(torch.tensor([row]).numpy()))["loss"].sum for row in range(len(PAIRS))]
    assert float(torch.stack(alone).sum().detach()) == pytest.approx(together, rel=1e-6)
    assert float(terms_of(objective, wider)["loss"].sum.detach()) == pytest.approx(together, rel=1e-6)


@pytest.mark.parametrize(("family", "nat"), [SIMILARITIES[0], SIMILARITIES[2]])
def test_deep_supervision_equals_loss_of_the_lower_layer(
    tmp_path: Path, family: FamilyName, nat: dict[str, Any]
) -> None:
    model, batch = small(family, 3, layers=2), batch_of(tmp_path)
    terms = terms_of(nat_objective(model, deep_supervision=0.5, **nat).train(), batch)
    assert (terms["deep"].weight, terms["deep"].count) == (0.5, terms["loss"].count)
    model.decoder_layers = model.decoder_layers[:1]
    lower = terms_of(nat_objective(model, **nat).train(), batch)["loss"].sum
    torch.testing.assert_close(terms["deep"].sum, lower)


@pytest.mark.parametrize("family", ["nat", "ctc", "dag"])
def test_convex_loss_applies_to_the_lower_layers_too(tmp_path: Path, family: FamilyName) -> None:
    model, batch, convex = small(family, 3, layers=2), batch_of(tmp_path), {"convex": {"power": 3.0}}
    terms = terms_of(nat_objective(model, besides=convex, deep_supervision=0.5).train(), batch)
    assert (terms["deep"].weight, terms["deep"].count) == (0.5, terms["loss"].count)
    model.decoder_layers = model.decoder_layers[:1]
    lower = terms_of(nat_objective(model, besides=convex).train(), batch)["loss"].sum
    plain = terms_of(nat_objective(model).train(), batch)["loss"].sum
    torch.testing.assert_close(terms["deep"].sum, lower)
    assert not torch.allclose(lower, plain)


@pytest.mark.parametrize("family", ["ctc", "dag"])
@pytest.mark.parametrize("power", [1.0, 3.0])
@pytest.mark.parametrize("average", ["token", "sentence"])
def test_convex_loss_of_all_alignments_equals_formula(
    tmp_path: Path, family: FamilyName, power: float, average: str
) -> None:
    model = small(family)
    pairs = open_data(write_pairs(tmp_path, PAIRS), train_settings())
    batch = pairs.load(torch.arange(len(PAIRS)).numpy())
    terms = terms_of(nat_objective(model, besides={"convex": {"power": power}}, loss_average=average), batch)
    plain = terms_of(nat_objective(model, loss_average=average), batch)
    expected = torch.zeros((), dtype=torch.float64)
    for row, (_, target) in enumerate(PAIRS):
        alone = terms_of(nat_objective(model), pairs.load(torch.tensor([row]).numpy()))
        if not float(alone["impossible"].sum):
            mean = -alone["loss"].sum / len(target)
            expected = expected + (len(target) if average == "token" else 1) * (1 - (power * mean).exp())
    assert float(terms["loss"].sum.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    for name in ("nll", "impossible"):
        assert float(terms[name].sum) == pytest.approx(float(plain[name].sum), rel=1e-12)
    assert {name: term.count for name, term in terms.items()} == {name: term.count for name, term in plain.items()}
    parameters = list(model.parameters())
    found, wanted = (torch.autograd.grad(each, parameters) for each in (terms["loss"].sum, expected))
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def smoothed_convex(
    log_probs_BTV: Tensor, targets_BT: Tensor, in_loss_BT: Tensor, weight_B: Tensor, *, power: float, epsilon: float
) -> Tensor:
    """Return the loss of the authors' code, with kdmt's form of label smoothing and T (1 - P) instead of -T P."""
    total = torch.zeros((), dtype=torch.float64)
    each = epsilon / (log_probs_BTV.size(2) - 1)
    for log_probs, targets, in_loss, weight in zip(log_probs_BTV, targets_BT, in_loss_BT, weight_B, strict=True):
        chosen = log_probs[in_loss]
        found = chosen.gather(1, targets[in_loss][:, None])[:, 0]
        likely = (power * found.mean()).exp()
        total = total + weight * (1 - epsilon - each) * len(found) * (1 - likely)
        total = total - weight * each * power * likely.detach() * chosen.sum()
    return total


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_convex_loss_of_an_autoregressive_student_equals_formula(
    tmp_path: Path, epsilon: float, weighted: bool
) -> None:
    objective, batch = autoregressive(epsilon), batch_of(tmp_path)
    weight_B = torch.tensor([0.5, 0.25, 1.0, 0.125, 2.0], dtype=torch.float64)
    if weighted:
        batch = replace(batch, extras=replace(batch.extras, weight_B=weight_B.float()))
    else:
        weight_B = torch.ones(len(PAIRS), dtype=torch.float64)
    terms = terms_of(objective, batch)
    prev_tokens, targets = batch.targets
    features = objective.model.decode(prev_tokens, objective.model.encode(batch.src_tokens_BS))
    log_probs = (features @ objective.model.output_weight_VD.t()).log_softmax(-1)
    expected = smoothed_convex(log_probs, targets, targets.ne(PAD), weight_B, power=2.0, epsilon=epsilon)
    torch.testing.assert_close(terms["loss"].sum, expected, rtol=1e-9, atol=0)
    nll = -(log_probs.gather(2, targets[:, :, None])[:, :, 0] * targets.ne(PAD)).sum(1) @ weight_B
    torch.testing.assert_close(terms["nll"].sum, nll.detach(), rtol=1e-9, atol=0)
    parameters = list(objective.model.parameters())
    found, wanted = (torch.autograd.grad(each, parameters, allow_unused=True) for each in (terms["loss"].sum, expected))
    for mine, theirs in zip(found, wanted, strict=True):
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("family", ["nat", "cmlm"])
def test_convex_loss_of_hidden_words_equals_formula(tmp_path: Path, family: FamilyName) -> None:
    model, batch = small(family), batch_of(tmp_path)
    objective = nat_objective(model, besides=CONVEX, label_smoothing=0.1).train()
    prepared = objective.prepare(batch)
    terms = objective(prepared)
    assert prepared.seen_BT is not None
    features = model.fill(batch.src_tokens_BS, prepared.seen_BT, model.encode(batch.src_tokens_BS))
    log_probs = (features @ model.output_weight_VD.t()).log_softmax(-1)
    targets, ones = batch.targets[1], torch.ones(len(PAIRS), dtype=torch.float64)
    expected = smoothed_convex(log_probs, targets, prepared.keep_BT, ones, power=2.0, epsilon=0.1)
    torch.testing.assert_close(terms["loss"].sum, expected, rtol=1e-9, atol=0)
    assert float(terms["length"].sum.detach()) > 0
    assert terms["loss"].count == float(prepared.keep_BT.sum())


def test_the_overlap_is_computed_for_the_loss_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass of glancing does not need it."""
    gradients: list[bool] = []

    def spy(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        gradients.append(torch.is_grad_enabled())
        return overlapping_log_probs(*args, **options)

    monkeypatch.setattr(aligned, "overlapping_log_probs", spy)
    terms_of(nat_objective(small("ctc"), loss="nmla", glancing=[(0, 0.5)]).train(), batch_of(tmp_path))
    assert gradients == [True]


def test_power_is_used(tmp_path: Path) -> None:
    batch = batch_of(tmp_path)
    losses = [float(terms_of(autoregressive(power=power), batch)["loss"].sum.detach()) for power in (1.0, 2.0, 3.0)]
    assert all(one < other for one, other in pairwise(losses))


# ------------------------------------------------------------------------------------------------------------ training


def trainable(family: FamilyName) -> NATransformer:
    torch.manual_seed(1)
    nat = NATConfig(family=family, upsample=2)
    return build_nonautoregressive(replace(TINY, dropout=0.1), nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)


def objective_of(family: FamilyName | None, nat: Mapping[str, Any], more: Mapping[str, Any]) -> Objective:
    if family is not None:
        return nat_objective(trainable(family), besides=more, **nat)
    student = Student.model_validate(dict(more))
    return build_objective(make_model(1), student, label_smoothing=0.1)


def write_two_dialects(folder: Path, num_pairs: int) -> ParallelData:
    """Write targets that copy their source, or replace each of its words by a word of its own, by a fair coin."""
    rng = np.random.default_rng(1)
    sources = [rng.integers(4, 8, rng.integers(2, 7)) for _ in range(num_pairs)]
    return write_pairs(folder, [(source.tolist(), (source + 4 * rng.integers(2)).tolist()) for source in sources])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "nat"), [SIMILARITIES[0], SIMILARITIES[2]])
def test_fine_tuning_raises_the_expected_matches(tmp_path: Path, family: FamilyName, nat: dict[str, Any]) -> None:
    """The similarity to targets of two dialects rises, and more than by further training by likelihood."""
    pairs = write_two_dialects(tmp_path / "pairs", 100)
    first_settings, settings = (
        train_settings(max_updates=updates, validate_interval_updates=updates) for updates in (200, 200)
    )
    data, model = open_data(pairs, settings), trainable(family)
    make_trainer(tmp_path / "first", data, first_settings, objective=nat_objective(model)).run()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    judge = nat_objective(model, **nat)

    def similarity() -> float:
        return 1.0 - validation_loss(judge.eval(), data, data.epoch(1), device=torch.device("cpu"))["loss"]

    first, after = similarity(), []
    for name, tuning in (("tuned", nat), ("longer", {})):
        model.load_state_dict(weights)
        make_trainer(tmp_path / name, data, settings, objective=nat_objective(model, **tuning)).run()
        after.append(similarity())
    assert 0.0 < first < first + 0.05 < after[0] <= 1.0
    assert after[0] > after[1] + 0.01


@pytest.mark.parametrize(
    ("family", "nat", "more"),
    [
        ("ctc", {"loss": "nmla", "glancing": [[0, 0.5]]}, {}),
        ("dag", {"loss": "fuzzy_alignment", "glancing": [[0, 0.5]]}, {}),
        ("nat", {}, CONVEX),
        (None, {}, CONVEX),
    ],
)
def test_resumed_training_is_exact(
    tmp_path: Path, family: FamilyName | None, nat: dict[str, Any], more: Mapping[str, Any]
) -> None:
    pairs = write_copy_task(tmp_path / "pairs", 40, seed=1)
    ended = []
    for run, ends in (("straight", [12]), ("stopped", [5, 12])):
        for end in ends:
            settings = train_settings(max_updates=end, save_interval_updates=5, validate_interval_updates=6)
            objective = objective_of(family, nat, more)
            make_trainer(tmp_path / run, open_data(pairs, settings), settings, objective=objective).run()
        folder = tmp_path / run / "checkpoint_12"
        ended.append({**load_file(folder / "training_state.safetensors"), **load_file(folder / "model.safetensors")})
    straight, stopped = ended
    assert set(straight) == set(stopped)
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


@pytest.mark.parametrize(
    ("family", "nat", "more"),
    [
        ("ctc", {"loss_average": "sentence"}, {}),
        ("dag", {"loss_average": "sentence", "deep_supervision": 0.5}, {}),
        ("ctc", {"loss": "nmla"}, {}),
        ("nat", {}, CONVEX),
    ],
)
def test_gradient_of_an_update_does_not_depend_on_its_micro_batches(
    tmp_path: Path, family: FamilyName, nat: dict[str, Any], more: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums of four micro-batches with different numbers of sentences are divided by the counts of all of them."""
    rng, sizes = np.random.default_rng(1), (1, 1, 2, 3, 5, 7, 8, 9, 2, 4)
    words = [[rng.integers(4, VOCAB, size).tolist() for _ in range(2)] for size in sizes]
    words[0][1] = [4] * 9  # no alignment
    pairs = write_pairs(tmp_path / "pairs", [(source, target) for source, target in words])
    gradients: list[list[Tensor]] = []
    clip = Trainer._clip_gradient

    def spy(trainer: Trainer) -> Tensor:
        gradients.append([each.grad.clone() for each in trainer.model.parameters() if each.grad is not None])
        return clip(trainer)

    monkeypatch.setattr(Trainer, "_clip_gradient", spy)
    for num_batches, changes in ((1, {"max_tokens": 1000}), (4, {"max_tokens": 24, "update_freq": 100})):
        settings = train_settings(max_updates=1, validate_interval_updates=1, **changes)
        data, model = open_data(pairs, settings), small(family, layers=2).float()
        assert len(data.epoch(1)) == num_batches
        make_trainer(
            tmp_path / str(num_batches), data, settings, objective=nat_objective(model, besides=more, **nat)
        ).run()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_improbable_sentences_have_almost_no_gradient(tmp_path: Path) -> None:
    """The gradient of a sentence is that of its negative log-likelihood times k P^(k / T)."""
    pairs = open_data(write_pairs(tmp_path, PAIRS), train_settings())
    model = make_model(1, replace(TINY, dropout=0.0)).double()
    for row in range(len(PAIRS)):
        batch = pairs.load(torch.tensor([row]).numpy())
        convex, plain = (
            terms_of(build_objective(model, student, label_smoothing=0.0), batch)["loss"].sum
            for student in (Student.model_validate({"convex": {}}), None)
        )
        factor = 3.0 * math.exp(-3.0 * float(plain.detach()) / (len(PAIRS[row][1]) + 1))
        found, expected = (torch.autograd.grad(each, model.output_weight_VD)[0] for each in (convex, plain))
        torch.testing.assert_close(found, factor * expected, rtol=1e-9, atol=1e-13)
