from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from copy_task import (
    CPU,
    TINY,
    VOCAB,
    make_model,
    nat_objective,
    open_data,
    train_settings,
    write_copy_task,
    write_pairs,
)
from torch.nn import functional as F

from kdmt.corpus.batching import ParallelData
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.objective import Prepared
from kdmt.objectives.positional import draw_ranks, hide_last
from kdmt.train.validation import VISIBLE, validation_loss, visible_nll
from kdmt.types import EOS, UNK


def test_loss_is_the_mean_over_tokens_for_all_batch_sizes(tmp_path: Path) -> None:
    settings = train_settings(label_smoothing=0.2)
    pairs = write_copy_task(tmp_path, 40, seed=1)
    model = make_model(1, replace(TINY, dropout=0.0)).double().eval()
    objective = build_objective(model, label_smoothing=0.2)
    data = open_data(pairs, settings)

    nll = []
    with torch.no_grad():
        for src, tgt in (pairs[index] for index in range(len(pairs))):  # one sentence at a time, no padding
            assert tgt is not None
            prev = np.roll(tgt, 1)
            logits_TV = model(torch.tensor([src.tolist()]), torch.tensor([prev.tolist()]))[0]
            nll += F.cross_entropy(logits_TV, torch.tensor(tgt.tolist()), reduction="none").tolist()

    for batches in (data.batches(), [np.arange(40)], [np.array([index]) for index in range(40)]):
        figures = validation_loss(objective, data, batches, device=CPU)
        assert figures["nll"] == pytest.approx(np.mean(nll), rel=1e-9)
        assert figures["loss"] > figures["nll"] * 0.8
    assert all(parameter.grad is None for parameter in model.parameters())


def test_validation_does_not_change_the_random_state(tmp_path: Path) -> None:
    settings = train_settings()
    data = open_data(write_copy_task(tmp_path, 20, seed=1), settings)
    objective = build_objective(make_model().eval(), label_smoothing=0.1)
    before = torch.get_rng_state()
    validation_loss(objective, data, data.batches(), device=CPU)
    assert torch.equal(torch.get_rng_state(), before)


def masked_model(**layout: str) -> NATransformer:
    torch.manual_seed(1)
    nat = NATConfig(family="cmlm", **layout)  # type: ignore[arg-type]
    return build_nonautoregressive(TINY, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double().eval()


def write_lengths(folder: Path) -> ParallelData:
    """Write pairs whose targets have 1 to 16 words."""
    rng = np.random.default_rng(3)
    return write_pairs(
        folder, [(rng.integers(4, VOCAB, 3).tolist(), rng.integers(4, VOCAB, 1 + row).tolist()) for row in range(16)]
    )


def test_loss_of_hidden_words_equals_a_loop_over_sentences(tmp_path: Path) -> None:
    """Every sentence is masked and read alone; the means do not depend on the batches, nor on their order."""
    model, pairs = masked_model(), write_lengths(tmp_path)
    objective, data = nat_objective(model).eval(), open_data(pairs, train_settings())
    sums, words = dict.fromkeys(VISIBLE, 0.0), dict.fromkeys(VISIBLE, 0)
    for index in range(len(pairs)):
        src, tgt = pairs[index]
        assert tgt is not None
        target, source = torch.tensor(tgt.tolist()), torch.tensor([src.tolist()])
        size = len(target) - 1
        order = draw_ranks(data.load(np.array([index])), [index])[0, :size]
        assert sorted(order.tolist()) == list(range(size))
        for percentage in VISIBLE:
            visible = min((percentage * size + 50) // 100, size - 1)
            hidden = order >= visible
            assert int(hidden.sum()) == size - visible
            seen = torch.cat([torch.where(hidden, UNK, target[:-1]), torch.tensor([EOS])])
            with torch.no_grad():
                features = model.fill(source, seen[None], model.encode(source))[0, :-1]
                log_probs = (features @ model.output_weight_VD.t()).log_softmax(-1)
            sums[percentage] -= float(log_probs.gather(1, target[:-1, None])[hidden].sum())
            words[percentage] += int(hidden.sum())
    assert words[100] == len(pairs)  # one word of each sentence
    expected = {f"nll_visible_{each}": pytest.approx(sums[each] / words[each], rel=1e-9) for each in VISIBLE}
    backwards = [np.array([index]) for index in reversed(range(16))]
    for batches in (data.batches(), [np.arange(16)], backwards):
        assert visible_nll(objective, data, batches, device=CPU) == expected
    assert len(set(sums.values())) == len(VISIBLE)


def test_a_word_that_is_visible_stays_visible_at_higher_percentages(tmp_path: Path) -> None:
    data = open_data(write_lengths(tmp_path), train_settings())
    batch = data.load(np.arange(16))
    order = draw_ranks(batch, range(16))
    hidden = [hide_last(Prepared.of(batch), order, visible=each / 100).keep_BT for each in VISIBLE]
    for fewer, more in zip(hidden[1:], hidden[:-1], strict=True):
        assert bool((more | ~fewer).all())
    assert torch.equal(order, draw_ranks(batch, range(16)))
    assert not torch.equal(order, draw_ranks(batch, range(16, 32)))


def test_loss_of_hidden_words_falls_only_if_the_visible_ones_are_used(tmp_path: Path) -> None:
    """A model without attention between decoder positions is flat but for the choice of words; one that copies is not.

    Targets are one word, repeated: a visible word gives the hidden ones away.
    """
    rng = np.random.default_rng(5)
    pairs = [([4], [int(word)] * 8) for word in rng.integers(4, VOCAB, 64)]
    data, model = open_data(write_pairs(tmp_path, pairs), train_settings(max_tokens=1000)), masked_model().float()
    objective = nat_objective(model)
    with torch.no_grad():
        for layer in model.decoder_layers:
            layer.self_attn.out_proj.weight.zero_()
    batches = [np.arange(64)]
    flat = list(visible_nll(objective.eval(), data, batches, device=CPU).values())
    assert max(flat[:4]) - min(flat[:4]) < 0.2
    torch.manual_seed(2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    objective.train()
    for _ in range(60):
        term = objective(objective.prepare(data.load(batches[0])))["loss"]
        (term.sum / term.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    falling = list(visible_nll(objective.eval(), data, batches, device=CPU).values())
    assert falling[-1] < 0.5 * np.log(8)
    hidden = validation_loss(objective, data, batches, device=CPU)["nll"]
    assert hidden > 0.9 * np.log(8)


def test_loss_of_hidden_words_does_not_change_the_random_state(tmp_path: Path) -> None:
    data = open_data(write_lengths(tmp_path), train_settings())
    objective = nat_objective(masked_model()).eval()
    before, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = visible_nll(objective, data, data.batches(), device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], of_numpy)
    assert visible_nll(objective, data, data.batches(), device=CPU) == first
