"""Tests of `kdmt clean`: the folders that it lists, those that it removes, and those that it never changes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml
from tiny_pipeline import Finished, hash_tree, kdmt, settings, working_in, write_pipeline

import kdmt.commands.clean as clean_module
from kdmt.flow.manifest import Plan, begin, finish
from kdmt.outputs import open_lock, take, writing

ROOT = Path("runs/tiny")
CURRENT = [
    *("teacher", "distill", "prepare", "students/raw/seed_1", "students/gone/seed_1", "knowledge/raw"),
    *("students/a.previous/seed_1", "students/raw/seed_10"),  # these names are not those of earlier states
]
EARLIER = {
    "teacher.previous": "complete, 2,000 updates",
    "teacher.unfinished": "unfinished, 40 updates",
    "teacher.unfinished.2": "unfinished",
    "distill.unfinished": "unfinished, 3 blocks",
    "students/raw/seed_1.previous": "complete",
    "students/raw/seed_10/stage_2.previous": "complete",
    "students/gone/seed_2.unfinished": "unfinished",  # the pipeline no longer has this student and seed
    "knowledge/raw.previous.12": "complete",
}
HALF_DONE = [
    *("prepare.partial", "distill/.partial-x", "teacher/.partial-checkpoint_5", ".partial-removed-score.previous"),
    "students/raw/.partial-seed_10",
]
OTHERS = ["notes", "teacher.previous.old", "my.previous", "students/raw/mine.previous", "tokenizer.unfinished"]


def fill(folder: Path, *, complete: bool = True, size: int = 1000) -> None:
    begin(folder, Plan({}, {}, {}), {})
    (folder / "model").write_bytes(bytes(size))
    if complete:
        finish(folder, Plan({}, {}, {}), outputs=[folder / "model"], facts={})


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path) -> Iterator[None]:
    with working_in(tmp_path):
        write_pipeline(tmp_path)
        for name in (*CURRENT, *OTHERS):
            fill(ROOT / name)
        for name, about in EARLIER.items():
            fill(ROOT / name, complete=about.startswith("complete"), size=500_000)
        for name in HALF_DONE:
            (ROOT / name).mkdir()
            (ROOT / name / "half").write_bytes(b"1" * 2_000_000)
        for updates in (40, 2000, 7):
            (ROOT / "teacher.previous" / f"checkpoint_{updates}").mkdir()
        (ROOT / "teacher.unfinished/checkpoint_40").mkdir()
        (ROOT / "distill.unfinished/blocks").mkdir()
        for number in range(3):
            (ROOT / f"distill.unfinished/blocks/00000{number}.gz").touch()
        yield


def clean(*arguments: str, code: int = 0) -> Finished:
    result = kdmt("clean", "tiny.yaml", *arguments)
    assert result.code == code, result.err
    return result


def test_everything_is_listed_with_size_and_updates_and_nothing_is_removed() -> None:
    before = hash_tree(Path())
    lines = clean().out.splitlines()
    listed = {line.split("  ")[0].strip(): line for line in lines[:-1]}
    assert sorted(listed) == sorted(str(ROOT / name) for name in (*EARLIER, *HALF_DONE))
    for name, about in EARLIER.items():
        size = sum(path.stat().st_size for path in (ROOT / name).rglob("*") if path.is_file())
        assert re.fullmatch(rf"{re.escape(str(ROOT / name))} +{size / 1e3:.1f} kB  {about}", listed[str(ROOT / name)])
    for name in HALF_DONE:
        assert listed[str(ROOT / name)].endswith("   2.0 MB  half-done, of a run that was stopped")
    assert re.fullmatch(r"13, 14\.0 MB to remove; nothing was removed: --yes does, with names .* only these", lines[-1])
    assert hash_tree(Path()) == before


def test_yes_removes_the_listed_folders_and_nothing_else() -> None:
    before = hash_tree(Path())
    removed = tuple(str(ROOT / name) + "/" for name in (*EARLIER, *HALF_DONE))
    assert clean("--yes").out.splitlines()[-1] == "13, 14.0 MB removed"
    assert hash_tree(Path()) == {name: sha for name, sha in before.items() if not name.startswith(removed)} | {
        name: sha for name, sha in hash_tree(Path()).items() if name.endswith(".lock")
    }
    assert clean("--yes").out == "runs/tiny: no earlier states and nothing half-done\n"


@pytest.mark.parametrize(
    "name", ["teacher.unfinished", "runs/tiny/teacher.unfinished", "./runs/tiny/teacher.unfinished"]
)
def test_only_the_named_folder_is_removed(name: str) -> None:
    left = [kept for kept in (*EARLIER, *HALF_DONE) if kept != "teacher.unfinished"]
    assert len(clean(name).out.splitlines()) == 2
    assert (ROOT / "teacher.unfinished").exists()
    clean(name, "--yes")
    assert not (ROOT / "teacher.unfinished").exists()
    assert all((ROOT / kept).exists() for kept in left)


def test_a_state_that_was_exchanged_after_the_listing_is_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore a state and move another one to its name between the listing and the lock, like another process."""
    lock = clean_module.locked

    def late(folder: Path) -> AbstractContextManager[None]:
        if folder.name == "teacher":
            (ROOT / "teacher.previous").rename(ROOT / "taken")
            (ROOT / "teacher").rename(ROOT / "teacher.previous")
            (ROOT / "taken").rename(ROOT / "teacher")
        return lock(folder)

    shutil.rmtree(ROOT / "teacher/.partial-checkpoint_5")
    for updates in (40, 2000, 7):  # so that both states look the same
        (ROOT / "teacher.previous" / f"checkpoint_{updates}").rmdir()
    monkeypatch.setattr(clean_module, "locked", late)
    before, current = hash_tree(ROOT / "teacher.previous"), hash_tree(ROOT / "teacher")
    assert "nothing half-done" in clean("teacher.previous", "--yes").out
    assert hash_tree(ROOT / "teacher") == before
    assert hash_tree(ROOT / "teacher.previous") == current


@pytest.mark.parametrize("name", ["teacher", "distill", "notes", "..", ".", "teacher.previous.old", "/"])
def test_current_and_unknown_folders_are_refused(name: str) -> None:
    before = hash_tree(Path())
    result = clean("teacher.previous", name, "--yes", code=2)
    assert result.err == f"kdmt: error: {name}: not among what `kdmt clean` lists; nothing was removed\n"
    assert hash_tree(Path()) == before


@pytest.mark.parametrize("shared", [False, True])
def test_a_stage_that_another_process_is_running_is_refused(shared: bool) -> None:
    before = hash_tree(Path())
    with open_lock(ROOT / "distill") as file:
        assert take(file, shared=shared)
        result = clean("--yes", code=2)
        assert result.err == "kdmt: error: runs/tiny/distill: another process is at work on it\n"
        assert {name: sha for name, sha in hash_tree(Path()).items() if not name.endswith(".lock")} == before
        clean("teacher.previous", "--yes")
    assert not (ROOT / "teacher.previous").exists()


def test_a_state_that_a_setting_names_is_kept() -> None:
    document = settings()
    document["students"]["raw"]["train"]["init_from"] = "runs/tiny/teacher.previous/checkpoint_40"
    Path("tiny.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    assert "; not removed: students.raw.train.init_from names it\n" in clean("--yes").out
    assert (ROOT / "teacher.previous").exists()
    assert not (ROOT / "teacher.unfinished").exists()
    result = clean("teacher.previous", "--yes", code=2)
    assert "teacher.previous: students.raw.train.init_from names it; nothing was removed" in result.err


def test_a_symbolic_link_is_removed_but_not_its_target() -> None:
    """Remove a link as older versions of kdmt left it: they renamed the link itself to move a state aside."""
    fill(Path("big/teacher"))
    made = hash_tree(Path("big"))
    (ROOT / "teacher.previous.2").symlink_to(Path("big/teacher").resolve())
    assert "a symbolic link to " in clean("teacher.previous.2").out
    clean("teacher.previous.2", "--yes")
    assert not (ROOT / "teacher.previous.2").is_symlink()
    assert hash_tree(Path("big")) == made


def test_states_on_the_disk_that_a_link_points_to_are_listed(tmp_path: Path) -> None:
    (ROOT / "mbr").symlink_to(tmp_path / "big" / "m")
    (tmp_path / "big").mkdir()
    fill(ROOT / "mbr")
    fill(tmp_path / "big" / "m.previous")
    assert f"{tmp_path}/big/m.previous " in clean().out
    clean("--yes")
    assert [path.name for path in sorted((tmp_path / "big").iterdir())] == [".m.lock", "m"]


def test_a_partial_download_of_the_pipeline_is_listed() -> None:
    document, sha256 = settings(), "ab" * 32
    document["prepare"]["train"][0]["source"] = {"url": "http://localhost/text.en", "sha256": sha256}
    Path("tiny.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    part, other = (Path("runs/downloads") / f"{name}-text.en.part" for name in (sha256[:16], "0" * 16))
    part.parent.mkdir()
    record = part.with_name(f"{part.name}.json")  # of the origin of the part
    for path in (part, record, other):
        path.write_bytes(bytes(3000))
    assert f"{part}  " in clean().out
    with writing(part.with_suffix("")):
        for path in (part, record):
            assert "another process is writing it; nothing was written" in clean(str(path), "--yes", code=2).err
    assert part.exists()
    assert record.exists()
    for path in (part, record):
        clean(str(path), "--yes")
    assert [path.name for path in part.parent.iterdir()] == [other.name]


def test_a_partial_file_is_removed_under_the_lock_of_its_stage() -> None:
    (ROOT / "teacher/.partial-best").write_text("checkpoint_5", encoding="utf-8")
    with open_lock(ROOT / "teacher") as file:
        assert take(file)
        assert "teacher: another process is at work on it" in clean("teacher/.partial-best", "--yes", code=2).err
    clean("teacher/.partial-best", "--yes")
    assert not (ROOT / "teacher/.partial-best").exists()
    assert (ROOT / ".teacher.lock").exists()  # other processes may have it open


def test_blocks_of_an_older_cache_are_listed() -> None:
    (ROOT / "knowledge/raw/blocks.old.2").mkdir()
    line = clean("knowledge/raw/blocks.old.2").out.splitlines()[0]
    assert re.fullmatch(r"runs/tiny/knowledge/raw/blocks\.old\.2 +0\.0 kB  old blocks of another cache", line)
    clean("knowledge/raw/blocks.old.2", "--yes")
    assert not (ROOT / "knowledge/raw/blocks.old.2").exists()


def test_damaged_checkpoints_are_listed() -> None:
    (ROOT / "teacher/damaged-checkpoint_5").mkdir()
    assert clean("teacher/damaged-checkpoint_5").out.splitlines()[0].endswith("  a damaged checkpoint")
    clean("teacher/damaged-checkpoint_5", "--yes")
    assert not (ROOT / "teacher/damaged-checkpoint_5").exists()


def test_a_pipeline_that_was_never_run_has_nothing_to_clean(tmp_path: Path) -> None:
    assert clean("--runs", "elsewhere", "--yes").out == "elsewhere/tiny: no earlier states and nothing half-done\n"
    assert not (tmp_path / "elsewhere").exists()
