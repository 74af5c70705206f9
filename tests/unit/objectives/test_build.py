"""Tests of distilling a teacher's encoder into students whose decoder positions differ from the teacher's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from copy_task import TINY, VOCAB, nat_objective, open_data, terms_of, train_settings, write_pairs

from kdmt.config import NAT, HiddenKD, Student
from kdmt.corpus.batching import Batch
from kdmt.families import ALIGNED, EDITING, FamilyName
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Trace, Transformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.distillation import HiddenStates
from kdmt.objectives.objective import Objective
from kdmt.types import PAD

PAIRS = [([4, 5, 6], [7, 8]), ([9, 9, 5, 4, 4], [10, 11, 4, 5]), ([6, 7, 8], [8, 9]), ([7], [7])]
SOURCE_TOKENS = 3 + 5 + 3 + 1 + len(PAIRS)
FAMILIES = [*ALIGNED, *EDITING]


def student(family: FamilyName) -> NATransformer:
    torch.manual_seed(1)
    config = replace(TINY, dropout=0.0, encoder_layers=2, decoder_layers=2)
    nat = NATConfig(family=family, upsample=4)
    return build_nonautoregressive(config, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double()


def teacher() -> Transformer:
    torch.manual_seed(2)
    config = replace(TINY, encoder_layers=2, encoder_embed_dim=48, decoder_embed_dim=48)  # with dropout
    return build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double()


def batch_of(folder: Path) -> Batch:
    return open_data(write_pairs(folder, PAIRS), train_settings()).load(torch.arange(len(PAIRS)).numpy())


LESSONS = {
    "hidden_kd": {"decoder": "none", "weight": 2.0},
    "attention_kd": {"encoder_self": [[0, 1]], "decoder_self": "none", "cross": "none", "weight": 0.5},
}


def taught_by(own: NATransformer, other: Transformer) -> Objective:
    torch.manual_seed(3)
    made = nat_objective(own, teachers=[other], besides=LESSONS)
    made.terms.double()
    return made.train()


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_terms_equal_the_formulas(tmp_path: Path, family: FamilyName) -> None:
    batch, own, other = batch_of(tmp_path), student(family), teacher().eval()
    objective = taught_by(own, other)
    hidden_states = next(term for term in objective.terms if isinstance(term, HiddenStates))
    prepared = objective.prepare(batch)
    terms = objective(prepared)
    requested = frozenset({("encoder", 0), ("encoder", 1), ("encoder_self", 0), ("encoder_self", 1)})
    mine, theirs = Trace(requested), Trace(requested)
    own.encode(batch.src_tokens_BS, mine)
    other.encode(batch.src_tokens_BS, theirs)
    hidden = attention = 0.0
    for row, source in enumerate(batch.src_tokens_BS.tolist()):
        for position in (position for position, token in enumerate(source) if token != PAD):
            for layer in (0, 1):
                projected = hidden_states.projections[layer](mine.found["encoder", layer][row, position])
                hidden += float((projected - theirs.found["encoder", layer][row, position]).detach().square().mean())
            a, b = mine.found["encoder_self", 0][row, :, position], theirs.found["encoder_self", 1][row, :, position]
            seen = b > 0.0
            attention += float((b[seen] * (b[seen] / a[seen]).log()).sum().detach()) / a.size(0)
    assert float(terms["hidden"].sum.detach()) == pytest.approx(hidden, rel=1e-9)
    assert float(terms["attention"].sum.detach()) == pytest.approx(attention, rel=1e-9)
    assert (terms["hidden"].weight, terms["attention"].weight) == (2.0, 0.5)
    assert (terms["hidden"].count, terms["attention"].count) == (2 * SOURCE_TOKENS, SOURCE_TOKENS)
    assert {name: term.count for name, term in terms.items()} == objective.counts(prepared)
    assert set(objective.weights) == set(terms)


@pytest.mark.parametrize("family", FAMILIES)
def test_terms_of_the_family_do_not_change(tmp_path: Path, family: FamilyName) -> None:
    batch, own = batch_of(tmp_path), student(family)
    plain, taught = nat_objective(own).train(), taught_by(own, teacher())
    torch.manual_seed(5)
    prepared = plain.prepare(batch)
    found, expected = taught(prepared), plain(prepared)
    for name, term in expected.items():
        assert torch.equal(found[name].sum, term.sum)
    assert set(found) - set(expected) == {"hidden", "attention"}
    assert set(terms_of(taught.eval(), batch)) == set(terms_of(plain.eval(), batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_is_not_trained(tmp_path: Path, family: FamilyName) -> None:
    own, other = student(family), teacher()
    objective = taught_by(own, other)
    assert not other.training
    terms = objective(objective.prepare(batch_of(tmp_path)))
    (terms["hidden"].sum + terms["attention"].sum).backward()
    assert all(parameter.grad is None for parameter in other.parameters())
    assert all(parameter.grad is not None for parameter in own.encoder_layers.parameters())
    names = {name for name in objective.trained() if name.startswith("objective.")}
    assert names == {f"objective.source_lessons.lessons.0.projections.{layer}.weight" for layer in (0, 1)}


@pytest.mark.parametrize("settings", [{"decoder": "uniform", "encoder": "none"}, {}])
def test_comparing_decoders_is_refused(settings: dict[str, Any]) -> None:
    given = Student.model_construct(nat=NAT(family="ctc"), hidden_kd=HiddenKD(**settings))
    with pytest.raises(ValueError, match="cannot be compared with that of a teacher"):
        build_objective(student("ctc"), given, label_smoothing=0.1, teachers=[teacher()])
