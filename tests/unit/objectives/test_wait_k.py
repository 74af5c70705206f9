"""Tests of wait-k training (Ma et al. 2019) and of multipath training (Elbayad et al. 2020)."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from copy_task import TINY, make_model, open_data, terms_of, train_settings, write_pairs
from torch.nn import functional as F

from kdmt.config import Decode, Student
from kdmt.corpus.batching import Batch
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.models.transformer import Transformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.objective import Objective
from kdmt.types import EOS, PAD

PAIRS = [([4, 5, 6, 7, 8], [7, 8, 9]), ([9], [10, 11, 4, 5]), ([6, 7, 4], [8])]
CAUSAL = {"model": {"unidirectional_encoder": True}}


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return open_data(write_pairs(tmp_path, PAIRS), train_settings()).load(torch.arange(len(PAIRS)).numpy())


def objective(wait_k: object, **settings: object) -> Objective:
    student = Student.model_validate({**CAUSAL, "wait_k": wait_k, **settings})
    model = make_model(1, replace(TINY, dropout=0.0, unidirectional_encoder=True)).double()
    return build_objective(model, student, label_smoothing=0.0, teachers=[make_model(2).double()])


def loss_by_hand(model: Transformer, batch: Batch, k: int) -> torch.Tensor:
    """Return the loss of a model, to whose decoder the encoder's output of each prefix is given token by token."""
    total = torch.zeros((), dtype=torch.float64)
    for source, previous, target in zip(batch.src_tokens_BS, batch.prev_tokens_BT, batch.tgt_tokens_BT, strict=True):
        source = source[source.ne(PAD)][None]
        with torch.inference_mode():
            cache = model.start_cache(model.encode(source[:, :k]), beam=1, max_len=len(target))
            for token in range(int(target.ne(PAD).sum())):
                prefix = model.encode(source[:, : k + token])
                layers = model.decoder_layers
                cache.cross_2BHSC = [layer.cross_attn.keys_values(prefix.states_BSD) for layer in layers]
                cache.keep_B11S = prefix.keep_BS[:, None, None, :]
                logits = model.decode_step(previous[token : token + 1], cache)
                total += F.cross_entropy(logits, target[token : token + 1], reduction="sum")
    return total


@pytest.mark.parametrize("k", [1, 2, 5])
def test_loss_is_that_of_predictions_from_prefixes(batch: Batch, k: int) -> None:
    waiting = objective(k)
    expected = loss_by_hand(waiting.model, batch, k)
    torch.testing.assert_close(terms_of(waiting, batch)["loss"].sum.detach(), expected)


def test_loss_with_a_large_k_is_that_of_whole_sources(batch: Batch) -> None:
    waiting, whole = objective(50), objective(None)
    torch.testing.assert_close(terms_of(waiting, batch)["loss"].sum, terms_of(whole, batch)["loss"].sum)
    assert not torch.allclose(terms_of(objective(1), batch)["loss"].sum, terms_of(whole, batch)["loss"].sum)


@pytest.mark.parametrize("wait_k", [[4, 1, 2], {"min": 2, "max": 5}])
def test_each_batch_draws_one_k(batch: Batch, wait_k: object) -> None:
    waiting = objective(wait_k)
    torch.manual_seed(3)
    drawn = [waiting.prepare(batch).wait_k for _ in range(60)]
    assert set(drawn) == ({1, 2, 4} if isinstance(wait_k, list) else {2, 3, 4, 5})
    torch.manual_seed(3)
    assert [waiting.prepare(batch).wait_k for _ in range(60)] == drawn, "by the generator of the rank"


def test_validations_have_the_middle_k(batch: Batch) -> None:
    waiting = objective([9, 1, 5, 7]).eval()
    assert {waiting.prepare(batch).wait_k for _ in range(10)} == {5}


def test_teachers_read_the_whole_source(batch: Batch) -> None:
    waiting = objective(1, word_kd={"alpha": 0.5})
    (teacher,) = waiting.read_teachers(waiting.prepare(batch))
    assert teacher.encoded.wait_k is None


def trained(pairs: list[tuple[list[int], list[int]]], folder: Path, k: int) -> TorchEngine:
    """Train a student with wait-k on pairs for some hundred updates."""
    data = open_data(write_pairs(folder, pairs), train_settings(max_tokens=1000))
    torch.manual_seed(1)
    model = make_model(1, replace(TINY, dropout=0.0, unidirectional_encoder=True))
    student = Student.model_validate({**CAUSAL, "wait_k": k})
    waiting = build_objective(model, student, label_smoothing=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    for epoch in range(1, 9):
        for indices in data.epoch(epoch):
            terms = terms_of(waiting, data.load(indices))
            optimizer.zero_grad()
            (terms["loss"].sum / terms["loss"].count).backward()
            optimizer.step()
    return TorchEngine(model, wait_k=k)


@pytest.mark.parametrize("k", [1, 2])
def test_a_student_learns_what_its_prefixes_tell_and_not_more(tmp_path: Path, k: int) -> None:
    """The target is the source, shifted by one word: its token t is the source's token t + 1, which wait-2 sees."""
    generator = random.Random(1)
    sources = [[generator.randrange(4, 12) for _ in range(generator.randint(3, 6))] for _ in range(1600)]
    engine = trained([(source, [*source[1:], source[0]]) for source in sources], tmp_path, k)
    tested = [[generator.randrange(4, 12) for _ in range(generator.randint(3, 6))] for _ in range(200)]
    found = engine.decode([np.array([*source, EOS]) for source in tested], Decode(beam=1, max_len_b=4))
    right = [hypothesis.tokens[:1] == tuple(source[1:2]) for (hypothesis,), source in zip(found, tested, strict=True)]
    if k == 2:
        assert sum(right) > 190
    else:
        assert sum(right) < 60, "one of eight words by chance"
