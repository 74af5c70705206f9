"""Tests of selective distillation by direction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from copy_task import terms_of
from small_students import EPSILON, batch_of, small

from kdmt.config import Student, WordKD
from kdmt.corpus.batching import Batch
from kdmt.objectives.build import build_objective
from kdmt.objectives.direction_selection import DirectionSelection, describe_states
from kdmt.objectives.objective import Objective
from kdmt.types import PAD

NAMES = ("en-de", "en-fr", "fr-en")
LENGTHS = [5, 3, 7, 4]
OF_PAIRS = np.array([0, 1, 2, 1], dtype=np.int16)


def selection(margin: float = 0.0) -> DirectionSelection:
    teacher = {"en-de": 2.0, "en-fr": 1.0, "fr-en": 3.0}
    return DirectionSelection(NAMES, OF_PAIRS, margin, teacher_nll=teacher)


def objective(directions: DirectionSelection | None, **settings: object) -> Objective:
    student = Student(word_kd=WordKD.model_validate({"alpha": 0.3, **settings}))
    made = build_objective(small(1), student, label_smoothing=EPSILON, teachers=[small(2)], directions=directions)
    return made.train()


@pytest.mark.parametrize(
    ("margin", "student", "taught"),
    [
        (0.0, (2.1, 0.9, 3.1), (1, 0, 1)),
        (0.0, (2.0, 1.0, 3.0), (0, 0, 0)),  # not better any more
        (0.5, (1.6, 0.6, 2.4), (1, 1, 0)),
        (-0.5, (2.4, 1.6, 3.6), (0, 1, 1)),
    ],
)
def test_a_direction_is_distilled_while_the_student_is_worse(
    margin: float, student: tuple[float, ...], taught: tuple[int, ...]
) -> None:
    chosen = selection(margin)
    assert chosen.is_taught_K.all()
    figures = {f"nll_{name}": value for name, value in zip(NAMES, student, strict=True)}
    states = chosen.after_validation(figures | {"loss": 1.0})
    assert states == {f"word_kd_{name}": float(is_on) for name, is_on in zip(NAMES, taught, strict=True)}
    assert chosen.is_taught_K.tolist() == [bool(is_on) for is_on in taught]
    assert chosen.is_any_taught == any(taught)


@pytest.mark.parametrize("taught", [(1, 0, 1), (0, 1, 0), (1, 1, 1)])
def test_the_loss_is_that_of_the_sentences_of_each_kind(taught: tuple[int, ...]) -> None:
    chosen, batch = selection(), batch_of(LENGTHS)
    chosen.is_taught_K = torch.tensor(taught, dtype=torch.bool)
    terms = terms_of(objective(chosen), batch)
    plain, distilled = build_objective(small(1), label_smoothing=EPSILON).train(), objective(None)
    expected = {"loss": 0.0, "word_kd": 0.0, "taught": 0.0}
    for place in range(len(LENGTHS)):
        alone = terms_of(distilled if taught[OF_PAIRS[place]] else plain, _sentence(batch, place))
        for name in expected:
            expected[name] += float(alone[name].sum.detach()) if name in alone else 0.0
    found = {name: float(terms[name].sum.detach()) for name in expected}
    assert found == pytest.approx(expected, rel=1e-9)


def _sentence(batch: Batch, place: int) -> Batch:
    """Return a batch of one sentence of a batch, without padding."""
    one, (prev_BT, tgt_BT) = slice(place, place + 1), batch.targets
    src, prev, tgt = batch.src_tokens_BS[one], prev_BT[one], tgt_BT[one]
    keep, keep_src = tgt[0].ne(PAD), src[0].ne(PAD)
    return replace(
        batch,
        index_B=batch.index_B[one],
        src_tokens_BS=src[:, keep_src],
        prev_tokens_BT=prev[:, keep],
        tgt_tokens_BT=tgt[:, keep],
        num_tgt_tokens=int(keep.sum()),
        num_src_tokens=int(keep_src.sum()),
    )


def test_without_a_direction_the_loss_is_cross_entropy_exactly_and_no_teacher_runs() -> None:
    chosen, batch = selection(), batch_of(LENGTHS)
    chosen.is_taught_K = torch.zeros(3, dtype=torch.bool)
    made, plain = objective(chosen), build_objective(small(1), label_smoothing=EPSILON).train()
    assert made.read_teachers(made.prepare(batch)) == []
    found, expected = (terms_of(each, batch)["loss"].sum for each in (made, plain))
    assert torch.equal(found, expected)


def test_directions_are_remembered_with_a_checkpoint() -> None:
    chosen = selection()
    made = objective(chosen, select="global", rate=0.5)
    chosen.after_validation({"nll_en-de": 1.0, "nll_en-fr": 5.0, "nll_fr-en": 1.0})
    memory = made.memory()
    again = selection()
    objective(again, select="global", rate=0.5).remember(memory)
    assert again.is_taught_K.tolist() == [False, True, False]
    assert set(memory) == {"queue", "taught_directions"}
    assert "taught_directions" not in objective(None, select="global", rate=0.5).memory()


def test_states_are_described() -> None:
    states = {"word_kd_en-de": 1.0, "word_kd_en-fr": 0.0, "word_kd_fr-en": 1.0}
    assert describe_states(states) == "distilled directions: en-de, fr-en; not distilled: en-fr"
