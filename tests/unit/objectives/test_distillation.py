"""Tests of the distillation objectives against plain formulas on the models' logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from copy_task import terms_of
from formulas import divergence_by_formula
from small_students import EPSILON, V, batch_of, logits_of, small
from torch import Tensor

from kdmt.choices import Precision
from kdmt.config import Student, WordKD
from kdmt.corpus.batching import Batch, Extras, Knowledge
from kdmt.losses.cross_entropy import label_smoothed_cross_entropy
from kdmt.losses.divergences import divergence
from kdmt.losses.intermediate import attention_distance, mix_heads
from kdmt.models.architecture import architecture
from kdmt.models.build import build_transformer
from kdmt.models.transformer import Trace, Transformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.distillation import HiddenStates
from kdmt.objectives.objective import Objective, TokenPass
from kdmt.types import PAD


def objective(teachers: list[Transformer], student: Transformer, **settings: Any) -> Objective:
    source = "teacher" if teachers else "cache"
    word_kd = WordKD(source=source, **settings)
    return build_objective(student, Student(word_kd=word_kd), label_smoothing=EPSILON, teachers=teachers).train()


def gradients(made: Objective, batch: Batch) -> dict[str, Tensor]:
    made.zero_grad()
    terms_of(made, batch)["loss"].sum.backward()
    return {
        name: parameter.grad.clone() for name, parameter in made.model.named_parameters() if parameter.grad is not None
    }


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("kl", {}),
        ("js", {}),
        ("js", {"beta": 0.25}),
        ("skewed_kl", {"skew": 0.3}),
        ("skewed_reverse_kl", {}),
        ("squared_error", {}),
    ],
)
def test_loss_is_the_weighted_sum_of_the_formulas(name: str, given: dict[str, float]) -> None:
    student, teachers, batch = small(1), [small(2, dim=16), small(3)], batch_of([5, 3, 7])
    made = objective(teachers, student, divergence=name, alpha=0.3, temperature=2.0, mutual_information=0.2, **given)
    logits = logits_of(student, batch)
    assert batch.tgt_tokens_BT is not None
    ce, nll = label_smoothed_cross_entropy(logits, batch.tgt_tokens_BT[batch.tgt_tokens_BT.ne(PAD)], epsilon=EPSILON)
    every = [logits_of(teacher.eval(), batch) for teacher in teachers]
    p = torch.stack([(each / 2).softmax(1) for each in every]).mean(0)
    kd = divergence_by_formula(name, p.log(), (logits / 2).log_softmax(1), **given).sum()
    kd = kd * divergence(name).scale(2.0)
    marginal = torch.stack([each.softmax(1) for each in every]).mean((0, 1))
    mi = (logits.softmax(1) * (logits.log_softmax(1) - marginal.log())).sum()
    expected = 0.7 * ce + 0.3 * kd + 0.2 * mi
    wanted = torch.autograd.grad(expected, list(student.parameters()))
    terms = terms_of(made, batch)
    found = {term: float(value.sum.detach()) for term, value in terms.items()}
    assert found == pytest.approx(
        {
            "loss": float(expected.detach()),
            "nll": float(nll.detach()),
            "word_kd": float(kd.detach()),
            "taught": 15,
            "mutual_information": float(mi.detach()),
        },
        rel=1e-9,
    )
    assert set(terms) == set(made.weights) == set(made.counts(made.prepare(batch)))
    for mine, theirs in zip(gradients(made, batch).values(), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-11)


def test_teachers_are_not_trained_and_have_no_dropout() -> None:
    teacher = build_transformer(architecture("transformer_tiny", {"dropout": 0.5}), src_vocab_size=V, tgt_vocab_size=V)
    made = objective([teacher.double()], small(1))
    batch = batch_of([4, 6])
    first, second = (float(terms_of(made, batch)["word_kd"].sum) for _ in range(2))
    assert first == second
    terms_of(made, batch)["loss"].sum.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert made.model.training
    assert not teacher.training


def test_evaluation_is_cross_entropy() -> None:
    student, batch = small(1), batch_of([4, 6])
    plain = build_objective(student, label_smoothing=EPSILON).eval()
    made = objective([small(2)], student).eval()
    with torch.no_grad():
        found, expected = (
            {name: float(term.sum) for name, term in terms_of(each, batch).items()} for each in (made, plain)
        )
    assert found == expected


def test_alpha_0_equals_plain_training_exactly() -> None:
    student, batch = small(1).float(), batch_of([5, 3, 7])
    plain = build_objective(student, label_smoothing=EPSILON).train()
    made = objective([small(2).float()], student, alpha=0.0)
    expected, found = gradients(plain, batch), gradients(made, batch)
    assert made.weights == plain.weights
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("settings", [{}, {"min_confidence": 0.06}, {"top1_ranking": 3}])
def test_gradients_do_not_depend_on_padding_and_splitting(settings: dict[str, Any]) -> None:
    made = objective([small(2)], small(1), **settings)
    lengths = [5, 3, 7]
    whole = gradients(made, batch_of(lengths))
    padded = gradients(made, batch_of(lengths, width=12))
    full = batch_of(lengths)
    assert full.prev_tokens_BT is not None
    assert full.tgt_tokens_BT is not None
    made.zero_grad()
    for row, length in enumerate(lengths):
        part = replace(
            full,
            src_tokens_BS=full.src_tokens_BS[row : row + 1, :length],
            prev_tokens_BT=full.prev_tokens_BT[row : row + 1, :length],
            tgt_tokens_BT=full.tgt_tokens_BT[row : row + 1, :length],
            num_tgt_tokens=length,
        )
        terms_of(made, part)["loss"].sum.backward()
    for name, parameter in made.model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(padded[name], whole[name], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-9, atol=1e-12)


def test_cache_of_the_whole_vocabulary_equals_the_teacher() -> None:
    student, teacher, batch = small(1), small(2).eval(), batch_of([5, 3, 7])
    log_probs, ids = logits_of(teacher, batch).log_softmax(1).sort(dim=1, descending=True)
    none_left = torch.full_like(log_probs[:, :1], -1e4)
    live = gradients(objective([teacher], student), batch)
    cached = gradients(
        objective([], student),
        replace(batch, extras=Extras(Knowledge(ids, torch.cat([log_probs, none_left], 1).detach()))),
    )
    for name in live:
        torch.testing.assert_close(cached[name], live[name], rtol=1e-9, atol=1e-11)


def test_selection_takes_the_hardest_tokens_of_the_batch() -> None:
    student, teacher, batch = small(1), small(2).eval(), batch_of([5, 3, 7])
    terms = terms_of(objective([teacher], student, select="batch", rate=0.4), batch)
    assert batch.tgt_tokens_BT is not None
    logits = logits_of(student, batch)
    nll = torch.nn.functional.cross_entropy(logits, batch.tgt_tokens_BT[batch.tgt_tokens_BT.ne(PAD)], reduction="none")
    hardest = nll.topk(int(0.4 * 15)).indices
    each = divergence_by_formula("kl", logits_of(teacher, batch).log_softmax(1), logits.log_softmax(1))
    assert float(terms["taught"].sum) == 6
    assert float(terms["word_kd"].sum) == pytest.approx(float(each[hardest].sum().detach()), rel=1e-9)


def test_missing_teacher_and_knowledge_are_reported() -> None:
    with pytest.raises(ValueError, match="needs batches with its knowledge"):
        terms_of(objective([], small(1)), batch_of([3]))


# ----------------------------------------------------------------------------------- hidden states and attention maps


def inner(student: Transformer, teacher: Transformer, **settings: Any) -> Objective:
    """Return an objective with `hidden_kd` or `attention_kd`, whose settings are given."""
    made = build_objective(student, Student(**settings), label_smoothing=EPSILON, teachers=[teacher])
    made.terms.double()
    return made.train()


def test_hidden_states_through_projections() -> None:
    student, teacher, batch = small(1), small(2, dim=16).eval(), batch_of([5, 3, 7])
    torch.manual_seed(5)
    made = inner(student, teacher, hidden_kd={"weight": 3.0})
    own, other = (Trace(frozenset({("encoder", 0), ("decoder", 0)})) for _ in range(2))
    for model, trace in ((student, own), (teacher, other)):
        assert batch.prev_tokens_BT is not None
        model.decode(batch.prev_tokens_BT, model.encode(batch.src_tokens_BS, trace), trace)
    hidden, expected = made.terms[1], torch.zeros((), dtype=torch.float64)
    assert isinstance(hidden, HiddenStates)
    for projection, key, tokens in zip(
        hidden.projections,
        (("encoder", 0), ("decoder", 0)),
        (batch.src_tokens_BS, batch.tgt_tokens_BT),
        strict=True,
    ):
        assert tokens is not None
        for row, column in tokens.ne(PAD).nonzero().tolist():
            difference = projection.weight @ own.found[key][row, column] - other.found[key][row, column]
            expected = expected + difference.square().mean()
    term = terms_of(made, batch)["hidden"]
    torch.testing.assert_close(term.sum, expected, rtol=1e-10, atol=0)
    assert (term.count, term.weight) == (30, 3.0)
    assert made.counts(made.prepare(batch))["hidden"] == 30
    assert set(made.moving()) == {f"objective.lessons.0.projections.{i}.weight" for i in range(2)}
    assert set(made.trained()) == {*made.moving(), *dict(student.named_parameters())}


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_kd": {"distance": "cosine"}},
        {"hidden_kd": {"distance": "pkd", "encoder": "none"}},
        {"attention_kd": {}},
        {"attention_kd": {"distance": "squared_error", "cross": [(0, 0)], "encoder_self": "none"}},
        {"attention_kd": {"heads": [1, 1]}, "hidden_kd": {"decoder": "last:1"}},
    ],
)
def test_hidden_and_attention_terms_do_not_depend_on_padding(settings: dict[str, Any]) -> None:
    made = inner(small(1), small(2).eval(), **settings)
    terms, padded = terms_of(made, batch_of([5, 3, 7])), terms_of(made, batch_of([5, 3, 7], width=12))
    assert set(terms) == set(made.weights) == {"loss", "nll", *(name.removesuffix("_kd") for name in settings)}
    for name, term in terms.items():
        torch.testing.assert_close(padded[name].sum, term.sum, rtol=1e-9, atol=1e-12)
        assert padded[name].count == term.count > 0


def test_hidden_and_attention_terms_of_equal_models_are_zero() -> None:
    made = inner(small(1), small(1).eval(), hidden_kd={}, attention_kd={})
    terms = terms_of(made, batch_of([5, 3, 7]))
    assert float(terms["hidden"].sum.detach()) == 0.0
    assert float(terms["attention"].sum.detach()) == 0.0


@pytest.mark.parametrize("distance", ["kl", "squared_error"])
def test_learned_mapping_compares_each_teacher_head_with_a_mean_of_all_student_heads(distance: str) -> None:
    """Compare with the formula in numpy, with other weights than the equal ones of the beginning."""
    student, teacher, batch = small(1), four_heads(2), batch_of([4, 2, 5])
    settings = {"mapping": "learned", "distance": distance, "decoder_self": "none", "weight": 0.5}
    made = inner(student, teacher, attention_kd=settings)
    mappings = dict(made.terms[-1].named_parameters())
    assert {name: tuple(each.shape) for name, each in mappings.items()} == {
        "mappings.encoder_self": (8, 2),
        "mappings.cross": (4, 2),
    }
    assert all(not each.any() for each in mappings.values())
    generator = torch.Generator().manual_seed(5)
    for each in mappings.values():
        each.data = torch.randn(each.shape, generator=generator, dtype=torch.float64)
    term = terms_of(made.train(), batch)["attention"]
    assert (term.count, term.weight) == (22.0, 0.5)

    expected = 0.0
    for kind, layers in (("encoder_self", (1, 2)), ("cross", (1, 1))):
        maps = []
        for model, count in zip((student, teacher.eval()), layers, strict=True):
            trace = Trace(frozenset((kind, layer) for layer in range(count)))
            assert batch.prev_tokens_BT is not None
            model.decode(batch.prev_tokens_BT, model.encode(batch.src_tokens_BS, trace), trace)
            found = [trace.found[kind, layer].detach().numpy() for layer in range(count)]
            maps.append(np.concatenate(found, axis=1))
        weights = np.exp(mappings[f"mappings.{kind}"].detach().numpy())
        weights /= weights.sum(1, keepdims=True)
        own, other = np.einsum("gh,bhts->bgts", weights, maps[0]), maps[1]
        tiny = np.finfo(np.float64).tiny
        if distance == "kl":
            each = (other * (np.log(np.maximum(other, tiny)) - np.log(np.maximum(own, tiny)))).sum(-1)
        else:
            each = ((own - other) ** 2).sum(-1)
        expected += sum(each[row, :, :length].mean(0).sum() for row, length in enumerate((4, 2, 5)))
    np.testing.assert_allclose(float(term.sum.detach()), expected, rtol=1e-9)


def four_heads(seed: int) -> Transformer:
    """Return a teacher with two encoder layers of four heads and one decoder layer of four heads."""
    torch.manual_seed(seed)
    sides = {
        f"{side}_{field}": value
        for side, layers in (("encoder", 2), ("decoder", 1))
        for field, value in {"layers": layers, "embed_dim": 8, "ffn_embed_dim": 16, "attention_heads": 4}.items()
    }
    config = architecture("transformer", {**sides, "dropout": 0.0})
    return build_transformer(config, src_vocab_size=V, tgt_vocab_size=V).double()


def test_learned_mapping_finds_the_heads_of_its_teacher() -> None:
    """The weights of a student with the maps of its teacher become those of the same heads."""
    model = small(1)
    settings = {"mapping": "learned", "encoder_self": "none", "decoder_self": "none", "distance": "squared_error"}
    made = inner(model, model, attention_kd=settings).train()
    (mapping,) = made.terms[-1].parameters()
    optimizer = torch.optim.Adam([mapping], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        term = terms_of(made, batch_of([5, 3, 6]))["attention"]
        (1e4 * term.sum / term.count).backward()
        optimizer.step()
    assert mapping.softmax(-1).diagonal().min() > 0.9


def test_gradient_of_the_learned_mapping_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    own, other = (torch.randn(2, heads, 3, 4, generator=generator, dtype=torch.float64) for heads in (2, 3))
    logits = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    keep = torch.tensor([[True, True, False], [True, True, True]])

    def distance(own: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return attention_distance(mix_heads(own.softmax(-1), logits), other.softmax(-1), keep, "kl")

    assert torch.autograd.gradcheck(distance, (own.requires_grad_(), logits))


def test_teacher_precision_is_independent_of_the_students() -> None:
    student, teacher, batch = small(1).float(), small(2).float(), batch_of([5, 3, 7])
    passes = {}
    precisions: tuple[Precision | None, ...] = (None, "bf16", "bf16_output")
    for precision in precisions:
        settings = Student(word_kd=WordKD(), teacher_precision=precision)
        made = build_objective(student, settings, label_smoothing=EPSILON, teachers=[teacher]).train()
        (found,) = made.read_teachers(made.prepare(batch))
        assert isinstance(found, TokenPass)
        passes[precision] = found
        assert made.precision == "float32"
    assert [each.product_type for each in passes.values()] == [None, torch.bfloat16, torch.bfloat16]
    assert not torch.equal(passes["bf16"].features_MD, passes[None].features_MD)
    assert torch.equal(passes["bf16_output"].features_MD, passes[None].features_MD)
    torch.testing.assert_close(passes["bf16"].features_MD.float(), passes[None].features_MD, rtol=0.05, atol=0.05)


def test_mutual_information_with_the_marginal_of_a_cache() -> None:
    student, teacher, batch = small(1), small(2).eval(), batch_of([5, 3, 7])
    log_probs, ids = logits_of(teacher, batch).log_softmax(1).detach().sort(dim=1, descending=True)
    knowledge = Knowledge(ids, torch.cat([log_probs, torch.full_like(log_probs[:, :1], -1e4)], 1))
    marginal = torch.rand(V, dtype=torch.float64)
    marginal /= marginal.sum()
    settings = Student(word_kd=WordKD(source="cache", mutual_information=0.3))
    made = build_objective(student, settings, label_smoothing=EPSILON, marginal_V=marginal).train()
    terms = terms_of(made, replace(batch, extras=Extras(knowledge)))
    q = logits_of(student, batch).softmax(1)
    expected = (q * (q.log() - marginal.log())).sum()
    assert float(terms["mutual_information"].sum) == pytest.approx(float(expected.detach()), rel=1e-9)


def test_teachers_are_weighted_by_their_perplexities_of_each_sentence() -> None:
    student, teachers, lengths = small(1), [small(2, dim=16), small(3), small(4)], [5, 3, 7]
    batch = batch_of(lengths)
    word_kd = WordKD(teachers=["a", "b", "c"], teacher_weights="perplexity", alpha=0.3, temperature=2.0)
    made = build_objective(student, Student(word_kd=word_kd), label_smoothing=EPSILON, teachers=teachers).train()
    assert batch.tgt_tokens_BT is not None
    targets = batch.tgt_tokens_BT[batch.tgt_tokens_BT.ne(PAD)]
    every = [logits_of(teacher.eval(), batch) for teacher in teachers]
    q, expected, start = (logits_of(student, batch) / 2).log_softmax(1), 0.0, 0
    for length in lengths:
        own = slice(start, start + length)
        nll = [-each[own].log_softmax(1).gather(1, targets[own, None]).mean() for each in every]
        weights = torch.stack([-each.exp() for each in nll]).softmax(0)
        assert float(weights.detach().max()) > 0.4, "the teachers differ"
        p = sum(weight * (each[own] / 2).softmax(1) for weight, each in zip(weights, every, strict=True))
        expected += float((p * (p.log() - q[own])).sum().detach()) * 4  # T squared
        start += length
    assert float(terms_of(made, batch)["word_kd"].sum.detach()) == pytest.approx(expected, rel=1e-9)
