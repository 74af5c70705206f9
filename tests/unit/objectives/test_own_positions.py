"""Students whose decoder has positions of its own learn from a teacher's encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from copy_task import TINY, VOCAB, open_data, train_settings, write_pairs

from kdmt.config import AttentionKD, HiddenKD
from kdmt.models.architecture import Family, NATConfig
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Trace, Transformer
from kdmt.objectives.aligned import CTCObjective, DAGObjective
from kdmt.objectives.distillation import AttentionLesson, HiddenLesson
from kdmt.objectives.edited import InsertionObjective, LevenshteinObjective
from kdmt.objectives.own_positions import OwnPositionsObjective, SourceLessons
from kdmt.types import ALIGNED, EDITING, PAD, Batch

PAIRS = [([4, 5, 6], [7, 8]), ([9, 9, 5, 4, 4], [10, 11, 4, 5]), ([6, 7, 8], [8, 9]), ([7], [7])]
SOURCE_TOKENS = 3 + 5 + 3 + 1 + len(PAIRS)
OBJECTIVES: dict[str, Callable[..., OwnPositionsObjective]] = {
    "ctc": CTCObjective,
    "dag": DAGObjective,
    "levenshtein": lambda model, **others: LevenshteinObjective(model, label_smoothing=0.1, **others),
    "insertion": lambda model, **others: InsertionObjective(model, temperature=1.0, **others),
}
FAMILIES = [*ALIGNED, *EDITING]


def student(family: Family) -> NATransformer:
    torch.manual_seed(1)
    config = replace(TINY, dropout=0.0, encoder_layers=2, decoder_layers=2)
    nat = NATConfig(family=family, upsample=4)
    return build_nonautoregressive(config, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double()


def teacher() -> Transformer:
    torch.manual_seed(2)
    config = replace(TINY, encoder_layers=2, encoder_embed_dim=48, decoder_embed_dim=48)  # it has dropout
    return build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double()


def batch_of(folder: Path) -> Batch:
    return open_data(write_pairs(folder, PAIRS), train_settings()).load(torch.arange(len(PAIRS)).numpy())


def lessons_of(own: NATransformer, other: Transformer) -> SourceLessons:
    torch.manual_seed(3)
    hidden = HiddenLesson(HiddenKD(decoder="none", weight=2.0), student=own, teacher=other)
    settings = AttentionKD(encoder_self=[(0, 1)], decoder_self="none", cross="none", weight=0.5)
    attention = AttentionLesson(settings, student=own, teacher=other)
    return SourceLessons(other, [hidden.double(), attention.double()])


def make(family: Family, **others: Any) -> OwnPositionsObjective:
    return OBJECTIVES[family](student(family), **others)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_is_drawn_to_the_teachers(tmp_path: Path, family: Family) -> None:
    batch, own, other = batch_of(tmp_path), student(family), teacher().eval()
    lessons = lessons_of(own, other)
    objective = OBJECTIVES[family](own, source_lessons=lessons).train()
    prepared = objective.prepare(batch)
    terms = objective(prepared)
    places = frozenset({("encoder", 0), ("encoder", 1), ("encoder_self", 0), ("encoder_self", 1)})
    mine, theirs = Trace(places), Trace(places)
    own.encode(batch.src_tokens_BS, mine)
    other.encode(batch.src_tokens_BS, theirs)
    hidden = attention = 0.0
    for row, source in enumerate(batch.src_tokens_BS.tolist()):
        for place in (place for place, token in enumerate(source) if token != PAD):
            for layer in (0, 1):
                projected = lessons.lessons[0].projections[layer](mine.found["encoder", layer][row, place])
                hidden += float((projected - theirs.found["encoder", layer][row, place]).detach().square().mean())
            a, b = mine.found["encoder_self", 0][row, :, place], theirs.found["encoder_self", 1][row, :, place]
            seen = b > 0.0
            attention += float((b[seen] * (b[seen] / a[seen]).log()).sum().detach()) / a.size(0)
    assert float(terms["hidden"].sum.detach()) == pytest.approx(hidden, rel=1e-9)
    assert float(terms["attention"].sum.detach()) == pytest.approx(attention, rel=1e-9)
    assert (terms["hidden"].weight, terms["attention"].weight) == (2.0, 0.5)
    assert (terms["hidden"].count, terms["attention"].count) == (2 * SOURCE_TOKENS, SOURCE_TOKENS)
    assert {name: term.count for name, term in terms.items()} == objective.counts(prepared)
    assert set(objective.terms) == set(terms)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_familys_own_terms_stay_what_they_are(tmp_path: Path, family: Family) -> None:
    batch, plain = batch_of(tmp_path), make(family).train()
    taught = OBJECTIVES[family](plain.model, source_lessons=lessons_of(plain.model, teacher())).train()
    torch.manual_seed(5)
    prepared = plain.prepare(batch)
    found, expected = taught(prepared), plain(prepared)
    for name, term in expected.items():
        assert torch.equal(found[name].sum, term.sum)
    assert set(found) - set(expected) == {"hidden", "attention"}
    assert set(taught.eval()(batch)) == set(plain.eval()(batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_teacher_stays_as_it_is(tmp_path: Path, family: Family) -> None:
    own, other = student(family), teacher()
    objective = OBJECTIVES[family](own, source_lessons=lessons_of(own, other)).train()
    assert not other.training
    terms = objective(objective.prepare(batch_of(tmp_path)))
    (terms["hidden"].sum + terms["attention"].sum).backward()
    assert all(parameter.grad is None for parameter in other.parameters())
    assert all(parameter.grad is not None for parameter in own.encoder_layers.parameters())
    names = {name for name in objective.trained() if name.startswith("objective.")}
    assert names == {f"objective.source_lessons.lessons.0.projections.{layer}.weight" for layer in (0, 1)}


@pytest.mark.parametrize("settings", [{"decoder": "uniform", "encoder": "none"}, {}])
def test_decoders_are_not_compared(settings: dict[str, Any]) -> None:
    own, other = student("ctc"), teacher()
    lesson = HiddenLesson(HiddenKD(**settings), student=own, teacher=other)
    with pytest.raises(ValueError, match="compared with no teacher's"):
        SourceLessons(other, [lesson])
