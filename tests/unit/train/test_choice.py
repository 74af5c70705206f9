"""Tests of the choice at the end of a run: which candidates are validated, and with which figures they are compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from copy_task import train_settings

from kdmt.models.checkpoint_choice import CandidateName
from kdmt.train.choice import choose_checkpoint, describe_choice
from kdmt.train.run_folder import Position

SETTINGS = {"best_metric": "bleu", "validate_bleu": True}
UPDATES: dict[CandidateName, list[int]] = {"best": [4], "average_best": [4, 6], "average": [6, 8]}
POSITION = Position(update=8, best_update=4, best_score=20.0, best_loss=2.0)


def test_averages_are_validated_and_the_best_checkpoint_is_known_from_training(tmp_path: Path) -> None:
    seen = []

    def validate(folder: Path) -> dict[str, float]:
        seen.append(folder)
        return {"loss": 1.0, "bleu": {"average_best": 22.0, "average": 21.0}[folder.name]}

    settings = train_settings(**SETTINGS)
    choice = choose_checkpoint(tmp_path, UPDATES, POSITION, settings, validate=validate, signature="nrefs:1")
    assert seen == [tmp_path / "average_best", tmp_path / "average"]
    assert choice.checkpoint == "average_best"
    assert choice.signature == "nrefs:1"
    assert [candidate.score for candidate in choice.candidates.values()] == [20.0, 22.0, 21.0]
    assert describe_choice(choice) == (
        "'auto' is average_best (updates 4, 6), by validation bleu: best 20.000, average_best 22.000, average 21.000"
    )


def test_equal_candidates_are_validated_once(tmp_path: Path) -> None:
    same: dict[CandidateName, list[int]] = {"best": [4], "average_best": [4], "average": [4]}

    def validate(_: Path) -> dict[str, float]:
        raise AssertionError

    choice = choose_checkpoint(tmp_path, same, POSITION, train_settings(**SETTINGS), validate=validate, signature=None)
    assert choice.checkpoint == "best"


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_average_that_cannot_translate_is_not_chosen(tmp_path: Path, loss: float) -> None:
    settings = train_settings(**SETTINGS)
    choice = choose_checkpoint(tmp_path, UPDATES, POSITION, settings, validate=lambda _: {"loss": loss}, signature=None)
    assert choice.checkpoint == "best"
    assert choice.candidates["average"].score is choice.candidates["average"].loss is None


def test_best_of_an_older_version_is_validated_again(tmp_path: Path) -> None:
    position = Position(update=8, best_update=4, best_score=20.0)
    figures = {"checkpoint_4": 20.0, "average_best": 5.0, "average": 30.0}

    def validate(folder: Path) -> dict[str, float]:
        return {"loss": 1.0, "bleu": figures[folder.name]}

    settings = train_settings(**SETTINGS)
    choice = choose_checkpoint(tmp_path, UPDATES, position, settings, validate=validate, signature=None)
    assert choice.checkpoint == "average"
    assert choice.candidates["best"].loss == 1.0


def test_setting_is_described(tmp_path: Path) -> None:
    settings = train_settings(**SETTINGS, average="last")
    choice = choose_checkpoint(tmp_path, UPDATES, POSITION, settings, validate=lambda _: {}, signature=None)
    assert describe_choice(choice) == "'auto' is average (updates 6, 8), as 'average.of: last' sets it"
