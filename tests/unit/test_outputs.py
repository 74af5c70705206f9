"""Locks between processes, and commands with an output path: of two commands for the same path, one is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_pipeline import Finished, hash_tree, kdmt

from kdmt.errors import UserError
from kdmt.interop.export_folder import described_folder
from kdmt.outputs import Locked, open_lock, take, writing

GOLDEN = Path(__file__).parents[1] / "golden"


def test_the_second_of_two_writers_is_refused_and_no_lock_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "out"
    with writing(path):
        with pytest.raises(Locked) as caught, writing(path):
            pass
        assert str(caught.value) == f"{path}: another process is writing it; nothing was written"
        with writing(tmp_path / "sub" / "other"):
            pass
    assert list(path.parent.iterdir()) == []
    with pytest.raises(KeyError), writing(path):
        raise KeyError
    with writing(path):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    program = "import os, sys\nfrom pathlib import Path\nfrom kdmt.outputs import writing\n"
    program += "with writing(Path(sys.argv[1])):\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(Locked), writing(tmp_path / "out"):
            pass
        process.kill()
        process.wait()
        with writing(tmp_path / "out"):  # whose lock file still exists
            pass
    assert list(tmp_path.iterdir()) == []


def test_waiting_processes_write_one_after_the_other(tmp_path: Path) -> None:
    """Check that four processes can count to 200 in a file, although each removes the lock file at its end."""
    counter, path = tmp_path / "counter", tmp_path / "out"
    counter.write_text("0", encoding="utf-8")

    def count() -> None:
        for _ in range(50):
            with writing(path, wait=lambda: None):
                counter.write_text(str(int(counter.read_text(encoding="utf-8")) + 1), encoding="utf-8")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text(encoding="utf-8") == "200"
    assert list(tmp_path.iterdir()) == [counter]


def test_shared_locks_exclude_only_exclusive_ones(tmp_path: Path) -> None:
    with open_lock(tmp_path / "a") as first, open_lock(tmp_path / "a") as second, open_lock(tmp_path / "a") as third:
        assert take(first, shared=True)
        assert take(second, shared=True)
        assert not take(third)


def test_an_output_created_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(UserError, match="out: exists already; nothing was written"),
        described_folder(tmp_path / "out", {}),
    ):
        pass
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match="link: exists already"), described_folder(tmp_path / "link", {}):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def export(to: str, out: Path) -> Callable[[], Finished]:
    return lambda: kdmt("export", "--to", to, "runs/tiny/teacher", out)


COMMANDS: dict[str, tuple[Path, Callable[[], Finished]]] = {
    "ctranslate2": (Path("out/ct2"), export("ctranslate2", Path("out/ct2"))),
    "fairseq": (Path("out/model.pt"), export("fairseq", Path("out/model.pt"))),
    "import-checkpoint": (
        Path("out/imported"),
        lambda: kdmt("import-checkpoint", "given.pt", "out/imported", "--data", "dictionaries"),
    ),
    "import-fairseq": (Path("out/new.yaml"), lambda: kdmt("import-fairseq", "data-bin", "out/new.yaml")),
    "generate": (
        Path("out/generate-test.txt"),
        lambda: kdmt(
            "generate", "runs/tiny/prepare/data-bin", "--path", "runs/tiny/teacher", "--results-path", "out", "--cpu"
        ),
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_two_commands_do_not_write_the_same_output(finished: Path, command: str) -> None:
    """Check that the second command is refused and leaves the first one's files; in the end only the output exists."""
    if command == "import-checkpoint":
        assert export("fairseq", Path("given.pt"))().code == 0
        shutil.copytree("runs/tiny/prepare/data-bin", "dictionaries")
    if command == "import-fairseq":
        shutil.copytree(GOLDEN / "data_bin" / "joined", finished / "data-bin")
    path, run = COMMANDS[command]
    path.parent.mkdir()
    half = path.with_name(f".partial-{path.name}")
    with writing(path):
        half.mkdir()  # the first command is working there
        (half / "half").write_text("half", encoding="utf-8")
        before = hash_tree(path.parent)
        result = run()
        assert (result.code, result.err.splitlines()[-1]) == (
            2,
            f"kdmt: error: {path}: another process is writing it; nothing was written",
        )
        assert hash_tree(path.parent) == before
    shutil.rmtree(half)
    assert run().code == 0
    assert path.exists()
    left = {child.name for child in path.parent.iterdir()} - {"dict.en.txt", "dict.de.txt"}
    assert left == {path.name}


def test_generate_reports_that_it_replaces_an_earlier_file(finished: Path) -> None:  # noqa: ARG001
    run = COMMANDS["generate"][1]
    assert "exists already" not in run().err
    assert "out/generate-test.txt: exists already and is replaced at the end\n" in run().err
