from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from copy_task import (
    TINY,
    VOCAB,
    make_model,
    make_trainer,
    open_data,
    terms_of,
    train_settings,
    write_copy_task,
    write_pairs,
)
from safetensors.torch import load_file
from slow_parameters import some_of
from torch.nn import functional as F

from kdmt.config import Student
from kdmt.corpus.batching import Batch
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.objectives.build import build_objective
from kdmt.objectives.model_checks import learns_from_running
from kdmt.objectives.objective import Objective
from kdmt.types import PAD

PAIRS = [([4, 5, 6], [7, 8]), ([9], [10, 11, 4, 5]), ([6, 7], [8])]


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return open_data(write_pairs(tmp_path, PAIRS), train_settings()).load(torch.arange(len(PAIRS)).numpy())


def objective(label_smoothing: float) -> Objective:
    return build_objective(make_model(1, replace(TINY, dropout=0.0)).double(), label_smoothing=label_smoothing)


def test_terms_are_sums_over_real_tokens(batch: Batch) -> None:
    smoothed = objective(0.1)
    terms = terms_of(smoothed, batch)
    logits_BVT = smoothed.model(batch.src_tokens_BS, batch.prev_tokens_BT).transpose(1, 2)
    vocab = logits_BVT.size(1)
    arguments = {"ignore_index": PAD, "reduction": "sum"}
    expected = F.cross_entropy(logits_BVT, batch.tgt_tokens_BT, label_smoothing=0.1 * vocab / (vocab - 1), **arguments)
    torch.testing.assert_close(terms["loss"].sum, expected)
    torch.testing.assert_close(terms["nll"].sum, F.cross_entropy(logits_BVT, batch.tgt_tokens_BT, **arguments))


def test_counts_equal_those_of_terms_and_nll_is_not_trained(batch: Batch) -> None:
    terms = terms_of(objective(0.1), batch)
    plain = objective(0.1)
    assert (
        plain.counts(plain.prepare(batch))
        == {"loss": 10, "nll": 10}
        == {name: term.count for name, term in terms.items()}
    )
    assert terms["loss"].weight == 1.0
    assert terms["nll"].weight == 0.0
    assert not terms["nll"].sum.requires_grad


def test_loss_does_not_depend_on_padding(batch: Batch) -> None:
    def widen(tokens: torch.Tensor | None) -> torch.Tensor:
        assert tokens is not None
        return F.pad(tokens, (0, 3), value=PAD)

    wider = replace(
        batch,
        src_tokens_BS=widen(batch.src_tokens_BS),
        prev_tokens_BT=widen(batch.prev_tokens_BT),
        tgt_tokens_BT=widen(batch.tgt_tokens_BT),
    )
    same = objective(0.1)
    torch.testing.assert_close(terms_of(same, wider)["loss"].sum, terms_of(same, batch)["loss"].sum, rtol=1e-12, atol=0)


def test_batch_without_targets_is_refused(batch: Batch) -> None:
    with pytest.raises(ValueError, match="targets"):
        terms_of(objective(0.1), replace(batch, tgt_tokens_BT=None))


# ---------------------------------------------------------------------------------------------------- training states

MLM = [f"objective.self_supervised.head.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
HIDDEN = [f"objective.lessons.0.projections.{number}.weight" for number in range(2)]
NARROW = replace(TINY, encoder_embed_dim=16, decoder_embed_dim=16)

# settings of a student, and the names in a training state of version 0.1 in addition to the model, the optimiser's
# moments and random numbers; PARAMETERS is replaced by the names of the model's parameters
STATES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "plain": ({}, []),
    "word_kd": ({"word_kd": {}}, []),
    "memory": (
        {"word_kd": {"select": "global", "queue": 50, "mutual_information": 0.1, "marginal_momentum": 0.9}},
        ["memory.0.queue", "memory.0.marginal"],
    ),
    "inside": ({"hidden_kd": {}, "attention_kd": {}}, HIDDEN),
    "masked": ({"self_supervised": {}}, MLM),
    "all": ({"word_kd": {}, "hidden_kd": {}, "self_supervised": {}}, [*MLM, *HIDDEN]),
    "ema": ({"word_kd": {}, "online": {"kind": "ema"}}, ["teacher.PARAMETERS"]),
    "mutual": (
        {"word_kd": {}, "online": {"kind": "mutual", "peers": 2}},
        ["objective.beside.0.PARAMETERS", "objective.beside.1.PARAMETERS"],
    ),
    "joint": ({"word_kd": {}, "online": {"kind": "joint", "model": {}}}, ["objective.beside.0.PARAMETERS"]),
    "cmlm": ({"nat": {"family": "cmlm"}, "hidden_kd": {}, "self_supervised": {}}, [*MLM, *HIDDEN]),
    "ctc": (
        {"nat": {"family": "ctc", "upsample": 4}, "hidden_kd": {"decoder": "none"}},
        ["objective.source_lessons.lessons.0.projections.0.weight"],
    ),
    "levenshtein": (
        {"nat": {"family": "levenshtein"}, "hidden_kd": {"decoder": "none"}},
        ["objective.source_lessons.lessons.0.projections.0.weight"],
    ),
}


def student_of(settings: dict[str, Any]) -> Objective:
    model = {name: getattr(NARROW, name) for name in vars(TINY) if "layers" in name or "dim" in name or "heads" in name}
    model |= {"arch": "transformer", "share_all_embeddings": True}
    if settings.get("online", {}).get("kind") == "joint":
        settings = {**settings, "online": {**settings["online"], "model": model}}
    student = Student.model_validate({"model": model, **settings})
    torch.manual_seed(1)
    sizes = {"src_vocab_size": VOCAB, "tgt_vocab_size": VOCAB}
    if student.nat is None:
        own = make_model(1, NARROW)
    else:
        nat = NATConfig(family=student.nat.family, upsample=student.nat.upsample)
        own = build_nonautoregressive(NARROW, nat, **sizes)
    teachers = [make_model(2)] if learns_from_running(student) else []
    return build_objective(own, student, label_smoothing=0.1, teachers=teachers)


@pytest.mark.parametrize("kind", some_of(STATES, 6))
def test_training_states_keep_their_names_and_are_resumed(tmp_path: Path, kind: str) -> None:
    settings, names = STATES[kind]
    pairs = write_copy_task(tmp_path / "data", 60, seed=1)
    ends = []
    for run, stops in (("straight", [6]), ("stopped", [3, 6])):
        for stop in stops:
            train = train_settings(max_updates=stop, save_interval_updates=3, validate_interval_updates=3)
            objective = student_of(settings)
            make_trainer(tmp_path / run, open_data(pairs, train), train, objective=objective).run()
        ends.append(load_file(tmp_path / run / "checkpoint_6" / "training_state.safetensors"))
    straight, stopped = ends
    parameters = list(dict(objective.model.named_parameters()))
    of_others = list(dict(make_model(1, NARROW).named_parameters()))
    extra = [
        name.replace("PARAMETERS", each) for name in names for each in (of_others if "PARAMETERS" in name else [""])
    ]
    trained = [*parameters, *(name for name in extra if name.startswith("objective."))]
    moments = [f"{moment}.{name}" for moment in ("step", "exp_avg", "exp_avg_sq") for name in trained]
    assert set(straight) == {"random.0.cpu", *extra, *moments}
    assert set(stopped) == set(straight)
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)
