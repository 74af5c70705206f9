"""Denoising: the loss by its formula, exact resuming, text alone, and transfer to a direction with few pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from copy_task import CPU, TINY, make_trainer, open_data, terms_of, train_settings, write_pairs
from safetensors.torch import load_file
from torch import Tensor

from kdmt.config import Denoising, SelfSupervised, Student, Train
from kdmt.corpus.batching import Batch, ParallelData
from kdmt.corpus.infilling import Infilling
from kdmt.models.build import build_transformer
from kdmt.models.transformer import Transformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.objective import Objective
from kdmt.train.data import BinarizedData, DenoisingText
from kdmt.train.validation import validation_loss
from kdmt.types import PAD, UNK

FIRST, OTHER, VOCAB = 4, 12, 20  # eight words of a source language, then eight words that translate them
JOINT = SelfSupervised(supervised=0.7, denoising=Denoising())


def sentences(count: int, seed: int) -> list[list[int]]:
    """Return sentences of four to eight words of the source language, each word followed by the next one of it."""
    rng = np.random.default_rng(seed)
    starts, sizes = rng.integers(8, size=count).tolist(), rng.integers(4, 9, size=count).tolist()
    return [[FIRST + (start + place) % 8 for place in range(size)] for start, size in zip(starts, sizes, strict=True)]


def write_translations(folder: Path, count: int, *, seed: int) -> ParallelData:
    made = sentences(count, seed)
    pairs = [(source, [word + OTHER - FIRST for word in source]) for source in made]
    return write_pairs(folder, pairs, vocab_size=VOCAB)


def with_noise(pairs: ParallelData, settings: Train, *, seed: int = 1, **changes: object) -> BinarizedData:
    """Return the targets of pairs as text with noise."""
    noise = Infilling(
        settings=Denoising(**changes),  # type: ignore[arg-type]
        seed=seed,
        limits=[None],
        prefixes=[()],
        language_N=np.zeros(len(pairs), dtype=np.int16),
    )
    text = ParallelData(tuple((target, target) for _, target in pairs.parts))
    return BinarizedData(text, settings, seed=seed, sampling=noise)


def joint_data(pairs: ParallelData, text: ParallelData, settings: Train) -> BinarizedData:
    return BinarizedData(pairs, settings, seed=1, denoising=DenoisingText(with_noise(text, settings)))


def make_objective(self_supervised: SelfSupervised | None, *, dropout: float = 0.0, teacher: bool = False) -> Objective:
    torch.manual_seed(1)
    model = build_transformer(replace(TINY, dropout=dropout), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    if teacher:
        return build_objective(model, self_supervised=self_supervised, label_smoothing=0.1).train()
    student = Student(self_supervised=self_supervised, train=Train(best_metric="loss"))
    return build_objective(model, student, label_smoothing=0.1).train()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> ParallelData:
    return write_translations(tmp_path_factory.mktemp("pairs"), 60, seed=1)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> ParallelData:
    return write_translations(tmp_path_factory.mktemp("text"), 200, seed=2)


def smoothed_loss(model: Transformer, batch: Batch, epsilon: float) -> Tensor:
    """Return the label-smoothed cross entropy of a batch as fairseq defines it, summed over the real tokens."""
    prev_tokens_BT, tgt_tokens_BT = batch.targets
    features_BTD = model.decode(prev_tokens_BT, model.encode(batch.src_tokens_BS))
    log_probs_BTV = (features_BTD @ model.output_weight_VD.t()).log_softmax(dim=-1)
    real_BT = tgt_tokens_BT.ne(PAD)
    nll_M = -log_probs_BTV.gather(2, tgt_tokens_BT[..., None])[..., 0][real_BT]
    uniform_M = -log_probs_BTV[real_BT].sum(dim=-1)
    rest = epsilon / (VOCAB - 1)
    return ((1 - epsilon - rest) * nll_M + rest * uniform_M).sum()


@pytest.mark.parametrize("teacher", [False, True])
def test_loss_is_the_weighted_sum(pairs: ParallelData, text: ParallelData, teacher: bool) -> None:
    data = joint_data(pairs, text, train_settings())
    objective = make_objective(JOINT, teacher=teacher)
    prepared = objective.prepare(data.load(data.batches(1)[2], epoch=1))
    terms = objective(prepared)
    assert tuple(terms) == tuple(objective.weights) == ("loss", "nll", "self_supervised")
    assert {name: term.weight for name, term in terms.items()} == pytest.approx(
        {"loss": 0.7, "nll": 0.0, "self_supervised": 0.3}
    )
    denoised = prepared.batch.extras.denoising
    assert denoised is not None
    assert terms["self_supervised"].count == float(denoised.targets[1].ne(PAD).sum())
    for name, batch in (("loss", prepared.batch), ("self_supervised", denoised)):
        expected = smoothed_loss(objective.model, batch, 0.1)
        torch.testing.assert_close(terms[name].sum, expected, rtol=1e-5, atol=1e-4)
        parameters = list(objective.model.parameters())
        found, wanted = (torch.autograd.grad(each, parameters) for each in (terms[name].sum, expected))
        for mine, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_the_batch_of_text_has_noise_in_its_sources_alone(pairs: ParallelData, text: ParallelData) -> None:
    data = joint_data(pairs, text, train_settings())
    whole = {tuple(text[index][1].tolist()) for index in range(len(text))}  # type: ignore[union-attr]
    for places in data.batches(1):
        denoised = data.load(places, epoch=1).extras.denoising
        assert denoised is not None
        for source, target in zip(denoised.src_tokens_BS, denoised.targets[1], strict=True):
            assert tuple(target[target.ne(PAD)].tolist()) in whole
            assert source.eq(UNK).any()
            assert {*source.tolist()} <= {*target.tolist(), UNK, PAD}


def test_each_epoch_has_other_text_and_noise(text: ParallelData) -> None:
    places = np.arange(5)

    def drawn(epoch: int, *, seed: int = 1) -> list[list[int]]:
        settings = train_settings()
        batch = DenoisingText(with_noise(text, settings, seed=seed)).batch_for(places, epoch)
        return batch.src_tokens_BS.tolist()

    assert drawn(1) == drawn(1)
    assert len({str(drawn(1)), str(drawn(2)), str(drawn(1, seed=2))}) == 3
    alone = with_noise(text, train_settings())
    first, second = (alone.load(places, epoch).src_tokens_BS.tolist() for epoch in (1, 2))
    assert first != second
    assert alone.load(places, 1).src_tokens_BS.tolist() == first


def test_validation_is_cross_entropy(pairs: ParallelData) -> None:
    objective = make_objective(JOINT).eval()
    assert set(terms_of(objective, open_data(pairs, train_settings()).load(np.arange(5)))) == {"loss", "nll"}


def test_an_objective_on_text_alone_is_that_of_a_plain_model() -> None:
    alone = SelfSupervised(supervised=0.0, denoising=Denoising())
    for teacher in (False, True):
        assert tuple(make_objective(alone, teacher=teacher).weights) == ("loss", "nll")


@pytest.mark.parametrize("alone", [False, True])
def test_resumed_training_is_exact(tmp_path: Path, pairs: ParallelData, text: ParallelData, alone: bool) -> None:
    for run, ends in (("straight", (24,)), ("stopped", (9, 24))):
        for end in ends:
            settings = train_settings(max_updates=end, save_interval_updates=9)
            data = with_noise(text, settings) if alone else joint_data(pairs, text, settings)
            objective = make_objective(None if alone else JOINT, dropout=0.1)
            make_trainer(tmp_path / run, data, settings, objective=objective).run()
    straight, stopped = (
        load_file(tmp_path / run / "checkpoint_24/model.safetensors") for run in ("straight", "stopped")
    )
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def nll_of(objective: Objective, data: BinarizedData) -> float:
    return validation_loss(objective.eval(), data, data.batches(), device=CPU)["nll"]


def trained(run: Path, data: BinarizedData, settings: Train, self_supervised: SelfSupervised | None) -> Objective:
    objective = make_objective(self_supervised)
    make_trainer(run, data, settings, objective=objective).run()
    return objective


def test_reconstruction_of_held_out_text_is_learnt(tmp_path: Path, text: ParallelData) -> None:
    settings = train_settings(max_updates=100, max_tokens=128, validate_interval_updates=100)
    held_out = with_noise(write_translations(tmp_path / "held_out", 60, seed=3), settings, seed=0)
    before = nll_of(make_objective(None), held_out)
    after = nll_of(trained(tmp_path / "run", with_noise(text, settings), settings, None), held_out)
    assert after < 0.5 * before


@pytest.mark.slow
def test_text_in_the_target_language_helps_a_direction_with_few_pairs(tmp_path: Path, text: ParallelData) -> None:
    settings = train_settings(max_updates=80, max_tokens=128, validate_interval_updates=80)
    few = write_translations(tmp_path / "few", 3, seed=5)
    held_out = open_data(write_translations(tmp_path / "held_out", 60, seed=3), settings)
    alone = trained(tmp_path / "alone", open_data(few, settings), settings, None)
    joint = trained(tmp_path / "joint", joint_data(few, text, settings), settings, JOINT)
    assert nll_of(joint, held_out) < 0.8 * nll_of(alone, held_out)
