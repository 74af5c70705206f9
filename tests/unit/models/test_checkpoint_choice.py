"""Tests of the choice among the checkpoints of a run: its rule, and its record."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from kdmt.errors import UserError
from kdmt.models.checkpoint_choice import (
    CANDIDATES,
    CHOSEN,
    Candidate,
    CandidateName,
    Choice,
    choose,
    describe_updates,
    read_choice,
    updates_of,
    write_choice,
)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_choice_is_the_best_by_score_then_by_loss_then_in_order(higher_is_better: bool) -> None:
    """Compare with a sorted list for all combinations of three scores, some of which are missing, and two losses."""
    figures = list(itertools.product([None, 1.0, 2.0], [1.0, 2.0]))
    for given in itertools.product(figures, repeat=3):
        candidates = {name: Candidate([1], *pair) for name, pair in zip(CANDIDATES, given, strict=True)}
        scored = [name for name in CANDIDATES if candidates[name].score is not None] or list(CANDIDATES)
        sign = -1 if higher_is_better else 1
        expected = sorted(scored, key=lambda name: (sign * (candidates[name].score or 0.0), candidates[name].loss))[0]
        choice = choose(candidates, of="auto", metric="bleu", higher_is_better=higher_is_better)
        assert choice.checkpoint == expected


def test_setting_decides_without_scores() -> None:
    candidates = {name: Candidate([1], 5.0, 1.0) for name in CANDIDATES}
    for of, expected in (("best", "average_best"), ("last", "average")):
        assert choose(candidates, of=of, metric="bleu", higher_is_better=True).checkpoint == expected  # type: ignore[arg-type]


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_choice(tmp_path) is None
    candidates: dict[CandidateName, Candidate] = {"best": Candidate([8], 41.5, 2.0), "average": Candidate([8, 9])}
    choice = Choice("best", "auto", "bleu", "nrefs:1", candidates)
    write_choice(tmp_path, choice)
    assert read_choice(tmp_path) == choice


@pytest.mark.parametrize("content", ["[]", "{}", '{"checkpoint": "../x", "of": "auto", "metric": "bleu"}'])
def test_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / CHOSEN).write_text(content)
    with pytest.raises(UserError, match=CHOSEN):
        read_choice(tmp_path)


def test_updates_of_pointers(tmp_path: Path) -> None:
    (tmp_path / "best").write_text("checkpoint_5500\n")
    (tmp_path / "last").write_text("x")
    assert updates_of(tmp_path, "best") == [5500]
    assert updates_of(tmp_path, "last") == updates_of(tmp_path, "average") == []


def test_description_lists_the_updates() -> None:
    assert describe_updates("best", [5500]) == "best (update 5500)"
    assert describe_updates("average", [1, 2]) == "average (updates 1, 2)"
    assert describe_updates("average", []) == "average (updates not recorded)"
