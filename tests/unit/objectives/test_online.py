"""Tests of online teachers: gradients of each model, the moving average by its formula, and exact resuming."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from copy_task import make_model, make_trainer, open_data, terms_of, train_settings, write_copy_task
from safetensors.torch import load_file
from small_students import EPSILON, batch_of, logits_of, small
from torch import Tensor

from kdmt.config import HiddenKD, Student, WordKD
from kdmt.corpus.batching import ParallelData
from kdmt.models.transformer import Transformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.distillation import HiddenStates, OnPolicy, WordDivergence
from kdmt.objectives.objective import CrossEntropy, LeftToRight, Objective, Teachers, Term, TokenPass
from kdmt.objectives.online import PeerLoss, Peers
from kdmt.types import EOS, PAD


def trained_together(
    student: Transformer, others: Sequence[Transformer], kind: str, word_kd: dict[str, Any], **more: Any
) -> Objective:
    """Return the objective of a student that is trained together with the given models."""
    peers = Peers(others)
    word = WordDivergence(WordKD.model_validate(word_kd), label_smoothing=EPSILON)
    inner = [HiddenStates(HiddenKD(), student=student, teacher=others[0]).double()] if more.get("hidden") else []
    if kind == "mutual":
        losses = [PeerLoss(number, f"peer_{number + 1}", word) for number in range(len(others))]
    else:
        losses = [PeerLoss(0, "teacher_1", CrossEntropy(EPSILON))]
    terms: list[Term[TokenPass]] = [word, *inner, *losses]
    return Objective(student, LeftToRight(), terms, peers)


def taught(student: Transformer, teachers: Sequence[Transformer], word_kd: dict[str, Any], **more: Any) -> Objective:
    settings = Student.model_validate({"word_kd": word_kd, **more})
    return build_objective(student, settings, label_smoothing=EPSILON, teachers=teachers)


def gradients(made: Objective, model: Transformer, lengths: Sequence[int] = (5, 3, 7)) -> dict[str, Tensor]:
    """Return the gradients of one of the objective's models for the whole loss of a batch."""
    made.train().zero_grad()
    terms = terms_of(made, batch_of(list(lengths)))
    torch.stack([term.sum * term.weight for term in terms.values()]).sum().backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)


def test_joint_training_is_plain_for_teacher_and_distillation_for_student() -> None:
    student, teacher = small(1), small(2, dim=16)
    torch.manual_seed(3)
    made = trained_together(student, [teacher], "joint", {"alpha": 0.7}, hidden=True)
    plain = build_objective(teacher, label_smoothing=EPSILON)
    assert_same(gradients(made, teacher), gradients(plain, teacher))
    of_student = gradients(made, student)
    frozen = Objective(student, LeftToRight(), list(made.terms)[:2], Teachers([teacher]))  # type: ignore[arg-type]
    assert_same(of_student, gradients(frozen, student))
    assert set(made.weights) == {"loss", "nll", "word_kd", "taught", "hidden", "teacher_1"}


@pytest.mark.parametrize("mutual", [False, True])
def test_each_model_is_clipped_by_its_own_norm(mutual: bool) -> None:
    models = [small(seed) for seed in (1, 2)]
    made = trained_together(models[0], models[1:], "mutual" if mutual else "joint", {})
    assert [set(group) for group in made.clipped_together()] == [set(model.parameters()) for model in models]


@pytest.mark.parametrize("peers", [1, 2])
def test_each_peer_learns_from_all_others(peers: int) -> None:
    models = [small(seed) for seed in range(1, 2 + peers)]
    made = trained_together(models[0], models[1:], "mutual", {"temperature": 2.0})
    found = [gradients(made, model) for model in models]
    for number, model in enumerate(models):
        rest = [each for each in models if each is not model]
        alone = taught(model, rest, {"temperature": 2.0})
        assert_same(found[number], gradients(alone, model))
        for each in models:
            each.requires_grad_(True)


def test_moving_average_equals_formula() -> None:
    student = small(1)
    made = taught(student, [], {}, online={"kind": "ema", "decay": 0.9})
    expected = {name: each.detach().clone() for name, each in student.named_parameters()}
    for step in range(3):
        with torch.no_grad():
            for each in student.parameters():
                each.add_(torch.randn(each.shape, generator=torch.Generator().manual_seed(step), dtype=each.dtype))
        made.after_update()
        for name, own in student.named_parameters():
            expected[name] = 0.9 * expected[name] + 0.1 * own.detach()
    moving = made.moving()
    assert_same({name.removeprefix("teacher."): each for name, each in moving.items()}, expected)
    assert set(made.trained()) == set(dict(student.named_parameters()))


def test_loss_on_samples_of_the_student_is_only_the_divergence() -> None:
    student, teacher = small(1), small(2)
    samples = [(5, 6, 7), (), (8,)]
    policy = OnPolicy(1.0, lambda model, src_BS: samples if model is student and len(src_BS) == 3 else [])
    word = WordDivergence(WordKD(alpha=0.3), label_smoothing=EPSILON, on_policy=policy)
    made = Objective(student, LeftToRight(), [word], Teachers([teacher])).train()
    given = batch_of([5, 3, 7])
    prepared = made.prepare(given)
    batch = prepared.batch
    assert batch.tgt_tokens_BT is not None
    assert batch.prev_tokens_BT is not None
    assert batch.tgt_tokens_BT.tolist() == [[5, 6, 7, EOS], [EOS, PAD, PAD, PAD], [8, EOS, PAD, PAD]]
    assert batch.prev_tokens_BT.tolist() == [[EOS, 5, 6, 7], [EOS, PAD, PAD, PAD], [EOS, 8, PAD, PAD]]
    assert torch.equal(batch.src_tokens_BS, given.src_tokens_BS)
    assert made.counts(prepared)["loss"] == batch.num_tgt_tokens == 7
    logits, taught = (logits_of(model, batch).log_softmax(1) for model in (student, teacher.eval()))
    expected = (taught.exp() * (taught - logits)).sum()
    torch.testing.assert_close(made(prepared)["loss"].sum, expected, rtol=1e-10, atol=0)


def test_samples_of_the_student_are_not_used_when_alpha_is_0() -> None:
    """At an update with alpha 0 the samples would only be targets of cross entropy, whatever other terms there are."""
    student, teacher = small(1), small(2)
    policy = OnPolicy(1.0, lambda _, src_BS: [(5,)] * len(src_BS))
    schedule = WordKD(alpha_schedule=[(0, 0.0), (1, 0.0), (2, 0.5)])
    word = WordDivergence(schedule, label_smoothing=EPSILON, on_policy=policy)
    hidden = HiddenStates(HiddenKD(), student=student, teacher=teacher)
    made = Objective(student, LeftToRight(), [word, hidden], Teachers([teacher]))
    sampled = []
    for update in range(3):
        made.before_update(update)
        sampled.append(made.prepare(batch_of([3])).of_student)
    assert sampled == [False, False, True]


def test_samples_are_used_at_the_given_rate() -> None:
    policy = OnPolicy(0.3, lambda _, src_BS: [(5,)] * len(src_BS))
    model, batch = small(1), batch_of([3])
    torch.manual_seed(1)
    replaced = sum(policy(model, batch) is not None for _ in range(1000))
    assert abs(replaced - 300) < 5 * (1000 * 0.3 * 0.7) ** 0.5


# -------------------------------------------------------------------------------------------------- resumed training

# the shape of `copy_task.TINY`
SHAPE: dict[str, Any] = {
    **{
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in (("layers", 1), ("embed_dim", 32), ("ffn_embed_dim", 64), ("attention_heads", 2))
    },
    **{"arch": "transformer", "share_all_embeddings": True, "max_source_positions": 20, "max_target_positions": 20},
}
WIDE = {"encoder_embed_dim": 48, "decoder_embed_dim": 48}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> ParallelData:
    return write_copy_task(tmp_path_factory.mktemp("data"), 190, seed=1)


def online(kind: str, **more: Any) -> Objective:
    settings = Student.model_validate({"model": SHAPE, "word_kd": {}, "online": {"kind": kind}, **more})
    return build_objective(make_model(1), settings, label_smoothing=0.1)


def ema() -> Objective:
    return online("ema")


def joint() -> Objective:
    return online("joint", online={"kind": "joint", "model": {**SHAPE, **WIDE}})


def mutual() -> Objective:
    return online("mutual")


def on_policy() -> Objective:
    return online("ema", on_policy={"rate": 0.5, "max_len_a": 1.0, "max_len_b": 2})


@pytest.mark.parametrize(
    "make", [ema, joint, *(pytest.param(make, marks=pytest.mark.slow) for make in (mutual, on_policy))]
)
def test_resumed_training_is_exact(tmp_path: Path, pairs: ParallelData, make: Callable[[], Objective]) -> None:
    ended = []
    for run, ends in (("straight", [12]), ("stopped", [5, 12])):
        for end in ends:
            settings = train_settings(max_updates=end, save_interval_updates=5, validate_interval_updates=6)
            make_trainer(tmp_path / run, open_data(pairs, settings), settings, objective=make()).run()
        folder = tmp_path / run / "checkpoint_12"
        ended.append({**load_file(folder / "training_state.safetensors"), **load_file(folder / "model.safetensors")})
    straight, stopped = ended
    assert set(straight) == set(stopped)
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)
    extra = [name for name in straight if name.startswith(("teacher.", "objective."))]
    assert len(extra) >= len(dict(make_model().named_parameters()))
    before = load_file(tmp_path / "straight" / "checkpoint_10" / "training_state.safetensors")
    assert any(not torch.equal(straight[name], before[name]) for name in extra)
