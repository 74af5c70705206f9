"""Tests of masked language modelling of the source: masking, the loss by its formula, and monolingual text."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from copy_task import TINY, make_model, make_trainer, open_data, terms_of, train_settings, write_copy_task, write_pairs
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from kdmt.config import SelfSupervised, Student
from kdmt.corpus.batching import ParallelData, open_parallel
from kdmt.errors import UserError
from kdmt.objectives.build import build_objective
from kdmt.objectives.masked_language import MaskedLanguage, mask_tokens
from kdmt.objectives.objective import Objective, Prepared
from kdmt.train.data import BinarizedData, MonolingualText
from kdmt.types import EOS, PAD, UNK

STILL = replace(TINY, dropout=0.0)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> ParallelData:
    return write_copy_task(tmp_path_factory.mktemp("data"), 120, seed=1)


def make_objective(settings: SelfSupervised) -> Objective:
    student = make_model(1, STILL)
    torch.manual_seed(5)
    return build_objective(student, Student(self_supervised=settings), label_smoothing=0.1).train()


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.floats(0.01, 0.99), st.integers(0, 99))
def test_number_of_masked_words_follows_the_rate(lengths: list[int], rate: float, seed: int) -> None:
    torch.manual_seed(seed)
    sentences = [torch.randint(4, 40, (length,)) for length in lengths]
    tokens_BS = torch.full((len(lengths), max(lengths) + 1), PAD)
    for row, sentence in zip(tokens_BS, sentences, strict=True):
        row[: len(sentence) + 1] = torch.cat([sentence, torch.tensor([EOS])])
    masked = mask_tokens(tokens_BS, rate=rate, vocab_size=40, device=torch.device("cpu"))
    words = sum(lengths) or len(lengths)  # if no sentence has words, </s> is masked instead
    assert len(masked.targets_M) == max(1, round(rate * words))
    assert masked.index_M.unique().numel() == len(masked.index_M)
    assert torch.equal(tokens_BS.flatten()[masked.index_M], masked.targets_M)
    if sum(lengths):
        assert not (masked.targets_M.eq(EOS) | masked.targets_M.eq(PAD)).any()
    untouched = torch.ones(tokens_BS.numel(), dtype=torch.bool)
    untouched[masked.index_M] = False
    assert torch.equal(masked.tokens_BS.flatten()[untouched], tokens_BS.flatten()[untouched])


def test_tokens_for_languages_are_not_hidden() -> None:
    tokens_BS = torch.tensor([[7, 8, 9, 10, EOS], [7, 11, 12, 7, EOS]])
    found = mask_tokens(tokens_BS, rate=0.99, vocab_size=20, device=torch.device("cpu"), never={7})
    assert sorted(found.targets_M.tolist()) == [8, 9, 10, 11, 12]
    assert found.tokens_BS.eq(7)[tokens_BS.eq(7)].all()


def test_shares_of_masked_random_and_unchanged_words() -> None:
    torch.manual_seed(1)
    tokens_BS = torch.full((1, 60_000), 7)
    masked = mask_tokens(tokens_BS, rate=0.5, vocab_size=1004, device=torch.device("cpu"))
    shown = masked.tokens_BS.flatten()[masked.index_M]
    assert len(shown) == 30_000
    shares = [float(found.float().mean()) for found in (shown == UNK, shown == 7, (shown != UNK) & (shown != 7))]
    deviations = [5 * math.sqrt(share * (1 - share) / 30_000) for share in (0.8, 0.1)]
    assert shares[0] == pytest.approx(0.8, abs=deviations[0])
    assert shares[1] == pytest.approx(0.1, abs=deviations[1])
    swapped = shown[(shown != UNK) & (shown != 7)]
    assert 4 <= int(swapped.min()) < 30 < 980 < int(swapped.max()) < 1004


def masked_loss(objective: Objective, batch: Prepared) -> Tensor:
    """Return the loss by the plain formula, summed over all masked texts of the batch."""
    term = objective.terms[1]
    assert isinstance(term, MaskedLanguage)
    total = torch.zeros(())
    for text in batch.masked:
        states = objective.model.encode(text.tokens_BS).states_BSD
        hidden = term.head(states.flatten(0, 1)[text.index_M])
        logits = hidden @ objective.model.src_embed.tokens.weight.t()
        total = total + torch.nn.functional.cross_entropy(logits, text.targets_M, reduction="sum")
    return total


@pytest.mark.parametrize("monolingual", [False, True])
def test_loss_is_the_weighted_sum(pairs: ParallelData, monolingual: bool) -> None:
    settings = train_settings()
    text = MonolingualText(ParallelData(tuple((src, None) for src, _ in pairs.parts)), settings, seed=2)
    data = BinarizedData(pairs, settings, seed=1, monolingual=text if monolingual else None)
    objective = make_objective(SelfSupervised(supervised=0.7, mask_rate=0.4))
    batch = objective.prepare(data.load(data.batches()[3]))
    assert len(batch.masked) == 1 + monolingual
    terms = objective(batch)
    counts = objective.counts(batch)
    assert {name: term.count for name, term in terms.items()} == counts
    assert tuple(terms) == tuple(objective.weights) == ("loss", "nll", "self_supervised")
    assert {name: term.weight for name, term in terms.items()} == pytest.approx(
        {"loss": 0.7, "nll": 0.0, "self_supervised": 0.3}
    )
    expected = masked_loss(objective, batch)
    plain = terms_of(build_objective(objective.model, label_smoothing=0.1), batch.batch)
    torch.testing.assert_close(terms["self_supervised"].sum, expected)
    assert torch.equal(terms["loss"].sum, plain["loss"].sum)
    parameters = list(objective.trained().values())
    found, wanted = (
        torch.autograd.grad(each, parameters, allow_unused=True) for each in (terms["self_supervised"].sum, expected)
    )
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_validation_is_cross_entropy(pairs: ParallelData) -> None:
    objective = make_objective(SelfSupervised()).eval()
    batch = open_data(pairs, train_settings()).load(np.arange(5))
    assert set(terms_of(objective, batch)) == {"loss", "nll"}


def test_resumed_training_is_exact_and_trains_the_head(tmp_path: Path, pairs: ParallelData) -> None:
    for run, ends in (("straight", (24,)), ("stopped", (9, 24))):
        for end in ends:
            settings = train_settings(max_updates=end, save_interval_updates=9)
            objective = make_objective(SelfSupervised(mask_rate=0.3))
            make_trainer(tmp_path / run, open_data(pairs, settings), settings, objective=objective).run()
    straight, stopped = (
        {
            **load_file(tmp_path / run / "checkpoint_24" / "training_state.safetensors"),
            **load_file(tmp_path / run / "checkpoint_24" / "model.safetensors"),
        }
        for run in ("straight", "stopped")
    )
    assert set(straight) == set(stopped)
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)
    fresh = make_objective(SelfSupervised()).moving()
    assert len(fresh) == 4
    assert not any(torch.equal(straight[name], first) for name, first in fresh.items())


def test_monolingual_text_of_a_batch_depends_only_on_seed_and_batch(pairs: ParallelData) -> None:
    settings = train_settings()
    sources = ParallelData(tuple((src, None) for src, _ in pairs.parts))
    batches = [np.array(batch) for batch in ([1, 2, 3], [4, 5], [6])]

    def drawn(seed: int, order: list[int]) -> dict[int, list[list[int]]]:
        text = MonolingualText(sources, settings, seed=seed)
        return {index: text.batch_for(batches[index]).tolist() for index in order}

    assert drawn(1, [0, 1, 2]) == drawn(1, [2, 0, 1])
    assert drawn(1, [0, 1, 2]) != drawn(2, [0, 1, 2])


def test_too_long_text_is_skipped(tmp_path: Path) -> None:
    write_pairs(tmp_path, [([4] * 9, [5]), ([6], [5]), ([7, 8], [5])])
    sources = open_parallel([(tmp_path / "a", None)])
    text = MonolingualText(sources, train_settings(max_source_tokens=3), seed=1)
    assert sorted(np.concatenate(text.batches).tolist()) == [1, 2]
    write_pairs(tmp_path / "long", [([4] * 9, [5])])
    with pytest.raises(UserError, match=r"no line of the text"):
        MonolingualText(open_parallel([(tmp_path / "long" / "a", None)]), train_settings(max_source_tokens=3), seed=1)
