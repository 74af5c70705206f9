"""The training loop with a teacher: a stop changes nothing in the objective's memory and its own parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from copy_task import TINY, make_model, make_trainer, open_data, train_settings, write_copy_task
from safetensors.torch import load_file

from kdmt.config import AttentionKD, HiddenKD, Student, WordKD
from kdmt.corpus.batching import ParallelData
from kdmt.models.architecture import TransformerConfig
from kdmt.models.checkpoint import load_model
from kdmt.objectives.build import build_objective
from kdmt.objectives.distillation import WordDivergence
from kdmt.objectives.objective import Objective
from kdmt.train.data import Step

NARROW = replace(TINY, encoder_embed_dim=16, decoder_embed_dim=16)
RECURRENT = replace(NARROW, layout="marian", decoder="ssru")
TIED = replace(RECURRENT, decoder_layers=2, tied_decoder_layers=True)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> ParallelData:
    return write_copy_task(tmp_path_factory.mktemp("data"), 190, seed=1)


def make_objective(word_kd: WordKD) -> Objective:
    student, teacher = make_model(1, NARROW), make_model(2)
    torch.manual_seed(3)
    settings = Student(word_kd=word_kd, hidden_kd=HiddenKD(), attention_kd=AttentionKD())
    return build_objective(student, settings, label_smoothing=0.1, teachers=[teacher])


def train(run: Path, pairs: ParallelData, word_kd: WordKD, ends: Sequence[int]) -> Objective:
    """Train to each of the ends in turn, each time with new objects."""
    for end in ends:
        settings = train_settings(max_updates=end, save_interval_updates=7)
        objective = make_objective(word_kd)
        make_trainer(run, open_data(pairs, settings), settings, objective=objective).run()
    return objective


def test_resuming_is_exact(tmp_path: Path, pairs: ParallelData) -> None:
    word_kd = WordKD(
        select="global",
        queue=150,
        rate=0.4,
        mutual_information=0.1,
        marginal_momentum=0.9,
        alpha_schedule=[(0, 1.0), (12, 0.2)],
    )
    objective = train(tmp_path / "straight", pairs, word_kd, [20])
    train(tmp_path / "stopped", pairs, word_kd, [7, 20])
    straight, stopped = (
        {
            **load_file(tmp_path / run / "checkpoint_20" / "training_state.safetensors"),
            **load_file(tmp_path / run / "checkpoint_20" / "model.safetensors"),
        }
        for run in ("straight", "stopped")
    )
    assert set(straight) == set(stopped)
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)
    (word, *_) = objective.terms
    assert isinstance(word, WordDivergence)
    assert word.alpha == 0.2
    assert len(straight["memory.0.queue"]) == 150
    assert float(straight["memory.0.marginal"].sum()) == pytest.approx(1.0, abs=1e-5)
    fresh = make_objective(word_kd).moving()
    assert len(fresh) == 2  # the projections
    for name, first in fresh.items():
        assert not torch.equal(straight[name], first)
        assert f"exp_avg.{name}" in straight


def test_a_checkpoint_has_only_the_student(tmp_path: Path, pairs: ParallelData) -> None:
    objective = train(tmp_path, pairs, WordKD(), [5])
    saved = load_file(tmp_path / "checkpoint_5" / "model.safetensors")
    assert set(saved) == set(dict(objective.model.named_parameters()))


def test_a_student_approaches_its_teacher(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(max_updates=60, validate_interval_updates=60, log_interval_updates=10)
    objective = make_objective(WordKD(alpha=1.0))
    make_trainer(tmp_path, open_data(pairs, settings), settings, objective=objective).run()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    curves = {name: [each[name] for each in records if name in each] for name in ("word_kd", "hidden", "attention")}
    for name, curve in curves.items():
        assert curve[-1] < 0.8 * curve[0], name


def recurrent_objective(settings: Student, config: TransformerConfig = RECURRENT) -> Objective:
    student, teacher = make_model(1, config), make_model(2)
    torch.manual_seed(3)
    return build_objective(student, settings, label_smoothing=0.1, teachers=[teacher])


@pytest.mark.parametrize(
    ("settings", "term"),
    [
        (Student(word_kd=WordKD(alpha=1.0)), "word_kd"),
        (Student(hidden_kd=HiddenKD(weight=10.0)), "hidden"),
        (Student(attention_kd=AttentionKD(decoder_self="none")), "attention"),
    ],
    ids=["word_kd", "hidden_kd", "attention_kd"],
)
def test_a_student_with_ssrus_learns_from_a_teacher_with_attention(
    tmp_path: Path, pairs: ParallelData, settings: Student, term: str
) -> None:
    train = train_settings(max_updates=40, validate_interval_updates=40, log_interval_updates=10)
    make_trainer(tmp_path, open_data(pairs, train), train, objective=recurrent_objective(settings)).run()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    curve = [each[term] for each in records if term in each]
    assert curve[-1] < 0.9 * curve[0]


def test_resuming_a_student_with_ssrus_is_exact(tmp_path: Path, pairs: ParallelData) -> None:
    for run, ends in (("straight", [12]), ("stopped", [5, 12])):
        for end in ends:
            train = train_settings(max_updates=end, save_interval_updates=5, ema=0.9)
            objective = recurrent_objective(Student(word_kd=WordKD()), TIED)
            make_trainer(tmp_path / run, open_data(pairs, train), train, objective=objective).run()
    for file in ("training_state.safetensors", "model.safetensors"):
        straight, stopped = (load_file(tmp_path / run / "checkpoint_12" / file) for run in ("straight", "stopped"))
        assert set(straight) == set(stopped)
        assert all(torch.equal(straight[name], stopped[name]) for name in straight)
    saved = load_file(tmp_path / "straight" / "checkpoint_12" / "model.safetensors")
    assert {name.split(".")[1] for name in saved if name.startswith("decoder_layers.")} == {"0"}  # tied
    loaded = load_model(tmp_path / "straight" / "checkpoint_12")
    assert loaded.config == TIED
    assert loaded.decoder_layers[0] is loaded.decoder_layers[1]


def test_a_skipped_update_does_not_change_the_memory(tmp_path: Path, pairs: ParallelData) -> None:
    """Check updates that all explode: nothing is learnt, and the queue and the marginal stay empty."""
    word_kd = WordKD(select="global", queue=150, mutual_information=0.1, marginal_momentum=0.9)
    settings = train_settings(max_updates=5, on_divergence="skip", explosion_norm=1e-9)
    objective = make_objective(word_kd)
    make_trainer(tmp_path, open_data(pairs, settings), settings, objective=objective).run()
    assert {name: len(tensor) for name, tensor in objective.memory().items()} == {"queue": 0}


def test_an_idle_micro_batch_does_not_change_the_memory(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(max_updates=1)
    data = open_data(pairs, settings)
    objective = make_objective(WordKD(select="global", queue=150))
    trainer = make_trainer(tmp_path, data, settings, objective=objective)
    trainer._start()
    batches = [data.load(batch) for batch in data.batches()[:2]]
    trainer._update(Step(batches=batches, idle=1, epoch=1, done=1))
    assert len(objective.memory()["queue"]) == batches[0].num_tgt_tokens
