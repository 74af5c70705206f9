"""Tests of the record of the checkpoints that were averaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmt.errors import UserError
from kdmt.models.average_record import AVERAGE, average_of, checkpoint_update, is_outdated, write_average_of


def checkpoints(*updates: int) -> list[Path]:
    return [Path(f"run/checkpoint_{update}") for update in updates]


def test_record_lists_the_updates_in_order(tmp_path: Path) -> None:
    assert average_of(tmp_path) is None
    write_average_of(tmp_path, checkpoints(20, 100))
    assert average_of(tmp_path) == [20, 100]
    assert checkpoint_update(Path("run/checkpoint_100")) == 100


def test_invalid_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "average_of").write_text("20\nx\n")
    with pytest.raises(UserError, match="average_of: not a list of updates"):
        average_of(tmp_path)


@pytest.mark.parametrize(("newer", "expected"), [((20, 40), False), ((40, 60), True), ((20,), False)])
def test_average_is_outdated_if_the_run_has_newer_checkpoints(
    tmp_path: Path, newer: tuple[int, ...], expected: bool
) -> None:
    (tmp_path / AVERAGE).mkdir()
    write_average_of(tmp_path / AVERAGE, checkpoints(20, 40))
    write_average_of(tmp_path, checkpoints(*newer))
    assert is_outdated(tmp_path) is expected


@pytest.mark.parametrize(("records", "expected"), [((), False), (("plan.json",), True), (("manifest.json",), False)])
def test_outdated_average_of_a_run_of_an_older_version(
    tmp_path: Path, records: tuple[str, ...], expected: bool
) -> None:
    for name in records:
        (tmp_path / name).touch()
    assert is_outdated(tmp_path) is expected
