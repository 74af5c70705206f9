"""Tests of stage folders that are symbolic links: data stays on the disk of the target, and links are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_pipeline import hash_tree

from kdmt.errors import UserError
from kdmt.flow.folders import aside_of, earlier_states, make_folder, move_aside, put_in_place, real_folder
from kdmt.flow.manifest import Plan, begin, check_status, finish, take_back
from kdmt.flow.stage import locked
from kdmt.outputs import open_lock, take


def plan(setting: int) -> Plan:
    return Plan({"seed": setting}, {}, {})


def fill(folder: Path, setting: int) -> dict[str, str]:
    """Make a complete stage in the folder, and return the hashes of its files."""
    begin(folder, plan(setting), {})
    (folder / "model").write_text(f"weights {setting}", encoding="utf-8")
    report = folder.parent / "scores.json"
    report.write_text(f"scores {setting}", encoding="utf-8")
    finish(folder, plan(setting), outputs=[folder / "model"], facts={})
    return hash_tree(folder)


@pytest.fixture
def big(other_disk: Path) -> Path:
    return other_disk


@pytest.fixture
def link(tmp_path: Path, big: Path) -> Path:
    """Return the folder of a stage that a user has moved to the other disk and replaced by a link."""
    (big / "my-teacher").mkdir()
    link = tmp_path / "runs" / "x" / "teacher"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(big / "my-teacher", link.parent))
    return link


def test_running_a_linked_stage_again_keeps_the_link_and_all_states_on_its_disk(link: Path, big: Path) -> None:
    made = [fill(link, setting) for setting in (1, 2, 3)]
    assert link.is_symlink()
    assert sorted(path.name for path in link.parent.iterdir()) == ["scores.json", "teacher"]
    assert sorted(path.name for path in big.iterdir()) == ["my-teacher", "my-teacher.previous", "my-teacher.previous.2"]
    assert [hash_tree(big / f"my-teacher{ending}") for ending in (".previous", ".previous.2", "")] == made
    assert take_back(link, plan(1)) == big / "my-teacher.previous"
    assert link.is_symlink()
    assert hash_tree(link) == made[0]
    assert [hash_tree(state) for state in earlier_states(link)] == made[1:]


def test_a_state_from_before_the_link_is_restored_to_the_disk_of_the_link(link: Path, big: Path) -> None:
    """Restore a state made before a user moved the folder to the larger disk; the state is moved there too."""
    before = fill(link.with_name("teacher.previous"), 1)
    now = fill(link, 2)
    assert take_back(link, plan(1)) == link.with_name("teacher.previous")
    assert link.is_symlink()
    assert hash_tree(big / "my-teacher") == before
    assert not link.with_name("teacher.previous").exists()
    assert [hash_tree(state) for state in earlier_states(link)] == [now]
    assert sorted(path.name for path in big.iterdir()) == ["my-teacher", "my-teacher.previous"]


def test_a_link_that_an_older_version_moved_aside_is_restored(link: Path, big: Path) -> None:
    made = fill(link, 1)
    link.rename(link.with_name("teacher.previous"))
    later = fill(link, 2)
    assert take_back(link, plan(1)) == link.with_name("teacher.previous")
    assert link.is_symlink()
    assert hash_tree(big / "my-teacher") == made
    assert [hash_tree(state) for state in earlier_states(link)] == [later]


def test_the_missing_target_of_a_link_is_created(link: Path, big: Path) -> None:
    (big / "my-teacher").rmdir()
    assert check_status(link, plan(1)).state == "new"
    made = fill(link, 1)
    assert link.is_symlink()
    assert hash_tree(big / "my-teacher") == made


@pytest.mark.parametrize("lost", ["teacher", "x", "runs"])
def test_a_link_to_a_missing_disk_is_refused(tmp_path: Path, lost: str) -> None:
    """Check that no new folder is made on the small disk if the other disk is not mounted."""
    folder = tmp_path / "runs" / "x" / "teacher"
    place = next(path for path in (folder, *folder.parents) if path.name == lost)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(tmp_path / "unmounted" / "deep" / lost)
    for work in (lambda: begin(folder, plan(1), {}), lambda: make_folder(folder)):
        with pytest.raises(UserError) as caught:
            work()
        assert str(caught.value) == (
            f"{place}: a symbolic link to {tmp_path}/unmounted/deep/{lost}, and there is no folder "
            f"{tmp_path}/unmounted/deep: mount its disk, or remove the link"
        )
    with pytest.raises(UserError, match="a symbolic link to"), locked(folder):
        pass
    assert not (tmp_path / "unmounted").exists()


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "teacher").symlink_to("teacher")
    with pytest.raises(UserError, match="teacher: a symbolic link that leads to itself"):
        begin(tmp_path / "teacher", plan(1), {})


@pytest.mark.parametrize("place", ["runs", "runs/x"])
def test_missing_targets_of_linked_parents_are_created(tmp_path: Path, big: Path, place: str) -> None:
    link = tmp_path / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(big / "new")
    made = fill(tmp_path / "runs/x/teacher", 1)
    assert link.is_symlink()
    assert hash_tree(big / "new" / Path("runs/x/teacher").relative_to(place)) == made
    fill(tmp_path / "runs/x/teacher", 2)
    assert [hash_tree(state) for state in earlier_states(tmp_path / "runs/x/teacher")] == [made]


def test_outputs_next_to_a_linked_folder_are_found(link: Path) -> None:
    """Use an output like the report of `score`, which is next to the folder of the stage."""
    begin(link, plan(1), {})
    report = link.parent / "scores.json"
    report.write_text("scores", encoding="utf-8")
    finish(link, plan(1), outputs=[report], facts={})
    assert check_status(link, plan(1)).state == "fresh"
    report.write_text("other scores", encoding="utf-8")
    assert check_status(link, plan(1)).reasons == ["its output ../scores.json was changed"]


def test_two_links_to_one_folder_share_a_lock(link: Path) -> None:
    other = link.with_name("again")
    other.symlink_to("teacher")
    with locked(link), pytest.raises(UserError, match="again: another process is at work on it"), locked(other):
        pass
    with locked(other), open_lock(real_folder(link)) as file:
        assert not take(file)


def test_an_empty_folder_is_not_moved_aside(tmp_path: Path, link: Path) -> None:
    assert move_aside(link) is None
    (tmp_path / "empty").mkdir()
    assert move_aside(tmp_path / "empty") is None
    assert move_aside(tmp_path / "none") is None
    assert aside_of(tmp_path / "empty") == tmp_path / "empty.unfinished"


def test_a_state_does_not_replace_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "a.previous", 1)
    made = fill(tmp_path / "a", 2)
    with pytest.raises(OSError, match="not empty"):
        put_in_place(tmp_path / "a.previous", tmp_path / "a")
    assert hash_tree(tmp_path / "a") == made
