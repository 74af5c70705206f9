"""Tests of the objectives of students that edit a draft, against plain formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import nat_oracles as oracle
import pytest
import torch
from copy_task import TINY, VOCAB, nat_objective, open_data, terms_of, train_settings, write_pairs
from torch.nn import functional as F

from kdmt.corpus.batching import Batch
from kdmt.families import FamilyName
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer
from kdmt.objectives.edited import DraftPrepared
from kdmt.objectives.objective import Objective, Prepared
from kdmt.types import BOS, EOS, PAD, UNK

PAIRS = [([4, 5, 6], [7, 8]), ([9, 9], [10, 11, 4, 5]), ([6], [8, 9, 10, 11, 4]), ([6], [7, 7, 7]), ([7, 4], [5])]
WORDS = sum(len(target) for _, target in PAIRS)


def small(family: FamilyName) -> NATransformer:
    torch.manual_seed(1)
    config = replace(TINY, dropout=0.0, decoder_layers=3)
    model = build_nonautoregressive(config, NATConfig(family=family), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    return model.double()


def batch_of(folder: Path) -> Batch:
    return open_data(write_pairs(folder, PAIRS), train_settings()).load(torch.arange(len(PAIRS)).numpy())


def with_drafts(batch: Batch, drafts: list[list[int]]) -> Prepared:
    width = max(map(len, drafts)) + 2
    rows = [[BOS, *draft, EOS, *[PAD] * (width - len(draft) - 2)] for draft in drafts]
    return DraftPrepared.with_drafts(Prepared.of(batch), torch.tensor(rows))


def drafts_of(batch: Prepared) -> list[list[int]]:
    assert batch.seen_BT is not None
    return [[token for token in row if token not in (BOS, EOS, PAD)] for row in batch.seen_BT.tolist()]


def test_drafts_are_random_subsequences_of_the_target(tmp_path: Path) -> None:
    torch.manual_seed(1)
    objective, batch = nat_objective(small("levenshtein")).train(), batch_of(tmp_path)
    seen: list[set[tuple[int, ...]]] = [set() for _ in PAIRS]
    empty = 0
    for _ in range(300):
        prepared = objective.prepare(batch)
        for row, draft in enumerate(drafts_of(prepared)):
            seen[row].add(tuple(draft))
        empty += not drafts_of(prepared)[1]
    assert len(seen[1]) == 2**4  # every subsequence of four different words
    assert seen[3] == {(7,) * length for length in range(4)}
    # 30% of the drafts are empty, and 1/5 of the other drafts of the second sentence, which has four words
    assert empty / 300 == pytest.approx(0.3 + 0.7 / 5, abs=0.1)


def features(model: NATransformer, source: list[int], draft: list[int]) -> torch.Tensor:
    encoded = model.encode(torch.tensor([[*source, EOS]]))
    return model.read_draft(torch.tensor([[BOS, *draft, EOS]]), encoded)[0].detach()


def smoothed(logits: torch.Tensor, labels: list[int]) -> float:
    return float(F.cross_entropy(logits, torch.tensor(labels), reduction="sum", label_smoothing=0.01))


def test_losses_of_the_three_levenshtein_policies(tmp_path: Path) -> None:
    model, heads = small("levenshtein"), small("levenshtein").edits
    drafts: list[list[int]] = [[8], [10, 5], [], [7, 7, 7], []]
    batch = with_drafts(batch_of(tmp_path), drafts)
    objective = nat_objective(model, label_smoothing=0.0).train()
    terms = objective(batch)
    placeholders = nll = deletion = 0.0
    for (source, target), draft in zip(PAIRS, drafts, strict=True):
        gaps, left = [0], list(draft)
        for word in target:  # each draft is a subsequence in only one way, or the whole target
            if left and left[0] == word:
                left.pop(0)
                gaps.append(0)
            else:
                gaps[-1] += 1
        read = features(model, source, draft)
        pairs = torch.cat([read[:-1], read[1:]], dim=1)
        placeholders += smoothed(heads.placeholders(pairs).detach(), gaps) / len(gaps)
        opened = list(oracle.apply_insertions(draft, gaps, [UNK] * sum(gaps)))
        log_probs = (features(model, source, opened) @ model.output_weight_VD.t()).log_softmax(-1).detach()
        filled = list(opened)
        for position, token in enumerate(opened, start=1):
            if token == UNK:
                nll -= float(log_probs[position, target[position - 1]])
                filled[position - 1] = int(log_probs[position].argmax())
        wrong = expert_deletions(filled, target)
        logits = heads.deletion(features(model, source, filled)).detach()[1:-1]
        deletion += smoothed(logits, [int(each) for each in wrong])
    missing = WORDS - sum(map(len, drafts))
    assert {name: (term.count, term.weight) for name, term in terms.items()} == {
        "loss": (missing, 1.0),
        "nll": (missing, 0.0),
        "placeholders": (len(PAIRS), 1.0),
        "deletion": (WORDS, 1.0),
    }
    assert {name: term.count for name, term in terms.items()} == objective.counts(batch)
    assert float(terms["placeholders"].sum.detach()) == pytest.approx(placeholders, rel=1e-6)
    assert float(terms["nll"].sum) == pytest.approx(nll, rel=1e-9)
    assert float(terms["loss"].sum.detach()) == pytest.approx(nll, rel=1e-9)
    assert float(terms["deletion"].sum.detach()) == pytest.approx(deletion, rel=1e-6)


def expert_deletions(hypothesis: list[int], reference: list[int]) -> list[bool]:
    """Return the deletions of the shortest edit script that keeps the last possible words, by trying all scripts."""
    best: tuple[int, list[int]] | None = None
    for mask in range(2 ** len(hypothesis)):
        keep = [bool(mask >> position & 1) for position in range(len(hypothesis))]
        kept = oracle.apply_deletions(hypothesis, keep)
        rest = iter(reference)
        if all(word in rest for word in kept):
            order = (sum(keep), [position for position in range(len(keep)) if keep[position]])
            best = order if best is None or order > best else best
    assert best is not None
    return [position not in best[1] for position in range(len(hypothesis))]


def test_loss_of_the_slots_of_an_insertion_transformer(tmp_path: Path) -> None:
    model = small("insertion")
    drafts: list[list[int]] = [[8], [10, 5], [], [7, 7, 7], []]
    batch = with_drafts(batch_of(tmp_path), drafts)
    objective = nat_objective(model, insertion_temperature=0.7).train()
    terms = objective(batch)
    spans = [[[7], []], [[], [11, 4], []], [[8, 9, 10, 11, 4]], [[], [], [], []], [[5]]]
    loss = 0.0
    for (source, _), draft, slots in zip(PAIRS, drafts, spans, strict=True):
        read = features(model, source, draft)
        pairs = torch.cat([read[:-1], read[1:]], dim=1)
        log_probs = (model.slot_proj(pairs) @ model.output_weight_VD.t()).log_softmax(-1).detach()
        for slot, span in enumerate(slots):
            raw = [math.exp(-abs(position - (len(span) - 1) / 2) / 0.7) for position in range(len(span))] or [1.0]
            for word, weight in zip(span or [EOS], raw, strict=True):
                loss -= weight / sum(raw) * float(log_probs[slot, word]) / len(slots)
    assert float(terms["loss"].sum.detach()) == pytest.approx(loss, rel=1e-6)
    assert terms["loss"].count == len(PAIRS)
    assert {name: term.count for name, term in terms.items()} == objective.counts(batch)


@pytest.mark.parametrize("family", ["levenshtein", "insertion"])
def test_evaluation_starts_from_empty_drafts_and_is_deterministic(tmp_path: Path, family: FamilyName) -> None:
    objective = objective_of(family).eval()
    batch = batch_of(tmp_path)
    alone = with_drafts(batch, [[] for _ in PAIRS])
    first, second = (terms_of(objective, batch) for _ in range(2))
    assert torch.equal(first["loss"].sum, second["loss"].sum)
    torch.testing.assert_close(objective.train()(alone)["loss"].sum, first["loss"].sum)


@pytest.mark.parametrize("family", ["levenshtein", "insertion"])
def test_deep_supervision_equals_loss_of_lower_layers(tmp_path: Path, family: FamilyName) -> None:
    batch = with_drafts(batch_of(tmp_path), [[8], [10, 5], [], [7, 7, 7], []])
    deep = objective_of(family, deep_supervision=0.5).train()
    terms, model = deep(batch), deep.model
    assert terms["deep"].weight == 0.5
    assert {name: term.count for name, term in terms.items()} == deep.counts(batch)
    layers, losses = model.decoder_layers, []
    for number in range(1, len(layers)):
        model.decoder_layers = layers[:number]
        plain = objective_of(family)
        plain.model = model
        losses.append(float(plain.train()(batch)["loss"].sum.detach()))
    assert float(terms["deep"].sum.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-9)


def objective_of(family: FamilyName, *, deep_supervision: float = 0.0) -> Objective:
    return nat_objective(small(family), deep_supervision=deep_supervision)


@pytest.mark.parametrize("family", ["levenshtein", "insertion"])
def test_gradients_of_complete_drafts_are_finite(tmp_path: Path, family: FamilyName) -> None:
    objective = objective_of(family).train()
    terms = objective(with_drafts(batch_of(tmp_path), [target for _, target in PAIRS]))
    sum(term.sum * term.weight for term in terms.values() if term.weight).backward()  # type: ignore[union-attr]
    for parameter in objective.model.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
