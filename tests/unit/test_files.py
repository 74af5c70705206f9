"""Files: which ones may be opened, JSON with required keys, atomic writing, errors that name the file."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_pipeline import kdmt

from kdmt import cli
from kdmt.errors import UserError
from kdmt.files import (
    LARGEST_JSON,
    PARTIAL,
    JsonType,
    atomic_file,
    atomic_folder,
    check_file,
    check_keys,
    explain_os_error,
    naming,
    parse_json,
    partial_path,
    read_json,
    read_json_object,
    read_optional_json,
    sync_to_disk,
    write_json,
    write_text,
)

WORKER = Path(__file__).parents[1] / "limited_disk_worker.py"

# -------------------------------------------------------------------------------------------- files that may be opened


def test_an_ordinary_file_may_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    check_file(tmp_path / "file")
    check_file(tmp_path / "link")


def test_everything_else_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nothing")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path, problem in (
            (tmp_path / "pipe", "a pipe, expected a file"),
            (tmp_path / "socket", "a socket, expected a file"),
            (tmp_path, "a folder, expected a file"),
            (Path("/dev/zero"), "a device, expected a file"),
            (tmp_path / "nothing", "there is no such file"),
            (tmp_path / "dangling", "there is no such file"),
        ):
            with pytest.raises(UserError) as caught:
                check_file(path)
            assert str(caught.value) == f"{path}: {problem}"
    with pytest.raises(UserError, match="NUL"):
        check_file(Path("a\0b"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("prepare", "tiny.yaml", "--set", "prepare.train.0.source.path=PIPE"),
        ("prepare", "tiny.yaml", "--set", "prepare.valid.target.path=PIPE"),
        ("prepare", "tiny.yaml", "--set", "prepare.tokenizer.source_path=PIPE"),
        (
            "prepare",
            "tiny.yaml",
            "--set",
            "prepare.tokenizer={source_path: TOKENIZER}",
            "--set",
            "prepare.vocabulary={source_path: PIPE}",
        ),
        ("prepare", "PIPE"),
        ("distill", "tiny.yaml", "--set", "distill.imported=PIPE", "--set", "students.raw.data=imported"),
        ("distill", "tiny.yaml", "--set", "distill.reverse={checkpoint: PIPE}"),
        ("translate", "PIPE"),
        ("export", "--to", "ctranslate2", "PIPE", "out"),
        ("import-checkpoint", "PIPE", "out", "--data", "."),
        ("generate", "runs/tiny/prepare/data-bin", "--path", "PIPE"),
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-1]}",
)
@pytest.mark.usefixtures("finished")
def test_commands_do_not_wait_for_data_from_a_pipe(arguments: tuple[str, ...]) -> None:
    os.mkfifo("PIPE")
    shutil.copy(next(Path("runs/tiny/prepare/tokenizer").glob("*.model")), "TOKENIZER")
    result = kdmt(*arguments)
    assert result.code == 2
    last = result.err.splitlines()[-1]
    assert last.startswith("kdmt: error: ")
    assert "PIPE" in last


# ---------------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "not valid JSON: the key 'a' is given twice"),
        (b'{"x": [{"b": 2, "b": 2}]}', "not valid JSON: the key 'b' is given twice"),
        (b'{"a": NaN}', "not valid JSON: NaN is no number"),
        (b'{"a": -Infinity}', "not valid JSON: -Infinity is no number"),
        (b'{"a": 1e999}', "not valid JSON: 1e999 is too large a number"),
        (b"[" * 100_000, "not valid JSON: nested too deeply"),
        (b'{"a":' * 100_000, "not valid JSON: nested too deeply"),
        (b"9" * 5000, "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
    ],
    ids=lambda value: str(value[:30]),
)
def test_invalid_json_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json_object(path)
    assert str(caught.value) == f"{path}: {problem}"


def test_json_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_JSON + 1)  # uses no disk space
    with pytest.raises(UserError, match=r"x\.json: larger than 256 MB"):
        read_json(path)


@pytest.mark.parametrize("value", [{}, {"a": [1, 2.5, None, True, "ä\0"]}, [[]], 1e308, -0.0, 2**80])
def test_json_is_read_as_python_reads_it(value: Any) -> None:
    text = json.dumps(value)
    assert parse_json(text) == json.loads(text) == value
    assert parse_json(text.encode()) == value


WHOLE = {"name": "x", "count": 3, "ratio": 1, "on": True, "files": [], "made_from": {}, "best": None}
REQUIRED: dict[str, JsonType] = {
    **{"name": str, "count": int, "ratio": float, "on": bool, "files": list, "made_from": dict},
    "best": (str, type(None)),
}


def test_missing_keys_of_a_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, WHOLE)
    assert read_json_object(path, required=REQUIRED) == WHOLE
    assert read_optional_json(path, required=REQUIRED) == WHOLE
    assert read_optional_json(tmp_path / "b.json", required=REQUIRED) is None
    with pytest.raises(UserError, match=r"a\.json: the key 'size' is missing$"):
        read_json_object(path, required={"name": str, "size": int})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("name", 3, "'name' is 3, expected a string"),
        ("count", 3.0, "'count' is 3.0, expected an integer"),
        ("count", True, "'count' is True, expected an integer"),
        ("ratio", "1", "'ratio' is '1', expected a number"),
        ("ratio", True, "'ratio' is True, expected a number"),
        ("on", 1, "'on' is 1, expected true or false"),
        ("files", {}, "'files' is {}, expected a list"),
        ("made_from", None, "'made_from' is None, expected an object"),
        ("best", 3, "'best' is 3, expected a string or null"),
        ("best", ["x" * 500], f"'best' is ['{'x' * 78}, expected a string or null"),
    ],
)
def test_a_required_key_of_another_type_is_refused(key: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        check_keys(WHOLE | {key: value}, REQUIRED, "a.json")
    assert str(caught.value) == f"a.json: {expected}"


# ------------------------------------------------------------------------------------------------------ atomic writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stop_while_writing(path: Path, error: BaseException) -> None:
    with atomic_file(path) as aside:
        aside.write_text("half")
        raise error


def stop_while_filling(path: Path, error: BaseException) -> None:
    with atomic_folder(path) as aside:
        (aside / "file").write_text("")
        raise error


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_file(path) as aside:
        aside.write_text("new")
        assert names(tmp_path) == [aside.name] == [f"{PARTIAL}a.txt"]
        assert aside == partial_path(path)
    assert names(tmp_path) == ["a.txt"]
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_an_unfinished_file_leaves_the_earlier_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        stop_while_writing(path, error)
    assert names(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_a_partial_file_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    partial_path(path).mkdir()
    (partial_path(path) / "old").write_text("half")
    with atomic_folder(path) as aside:
        (aside / "new").write_text("")
    assert names(tmp_path) == ["a"]
    assert names(path) == ["new"]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a"
    with atomic_folder(path) as aside:
        (aside / "file").write_text("")
        assert not path.exists()
    assert names(path.parent) == ["a"]
    with pytest.raises(OSError, match="Directory not empty") as caught, atomic_folder(path) as aside:
        (aside / "other").write_text("")
    assert names(path.parent) == ["a"]
    assert names(path) == ["file"]
    assert caught.value.filename == str(path)


def test_an_unfinished_folder_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"):
        stop_while_filling(tmp_path / "a", ValueError("x"))
    assert names(tmp_path) == []


def test_errors_name_the_final_path(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "a.txt", tmp_path / "missing" / "b.json"):
        with pytest.raises(FileNotFoundError) as caught:
            write_text(path, "x")
        assert caught.value.filename == str(path)
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError) as found:
        write_json(tmp_path / "a", {})
    assert found.value.filename == str(tmp_path / "a")
    assert names(tmp_path) == ["a"]
    with pytest.raises(OSError, match="full") as full, atomic_file(tmp_path / "b"):
        raise OSError(errno.ENOSPC, "full")
    assert full.value.filename == str(tmp_path / "b")


def test_written_json_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for value in (WHOLE, [1, "ä\u2028"], {}, None):
        write_json(path, value)
        assert read_json(path) == value
    write_json(path, {"a": ["ü"]})
    assert path.read_bytes() == '{\n "a": [\n  "ü"\n ]\n}\n'.encode()
    write_json(path, {"a": 1}, indent=None)
    assert path.read_bytes() == b'{"a": 1}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}


def test_text_is_written_unchanged(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "ä\r\nb\n")
    assert (tmp_path / "a").read_bytes() == "ä\r\nb\n".encode()


def test_a_file_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    write_text(tmp_path / "a", "x")
    assert synced == [partial_path(tmp_path / "a")]
    with atomic_file(tmp_path / "b", sync=False) as aside:
        aside.write_text("")
    assert len(synced) == 1
    sync_to_disk(tmp_path)
    assert synced[1:] == [tmp_path]


# -------------------------------------------------------------------------------------------- errors that name a file

OF_FILES = [
    "ENAMETOOLONG",
    "ENOTDIR",
    "EISDIR",
    "EMFILE",
    "EFBIG",
    "EIO",
    "ENOSPC",
    "EDQUOT",
    "EACCES",
    "EROFS",
    "ELOOP",
    "ENOENT",
]


@pytest.mark.parametrize("name", OF_FILES)
def test_an_error_with_a_file_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    number = getattr(errno, name)

    def fail() -> None:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr(cli, "app", fail)
    result = kdmt()
    assert result.code == 2
    assert result.err.startswith("kdmt: error: some/file: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG", "EIO", "EMFILE", "EROFS"])
def test_errors_of_disks_and_limits_are_file_errors_without_a_name(name: str) -> None:
    number = getattr(errno, name)
    assert explain_os_error(OSError(number, os.strerror(number)))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        OSError("no number"),
        OSError(errno.EINVAL, "Invalid argument"),
        ConnectionResetError(104, "reset"),
        OSError(errno.EBADF, "Bad file descriptor", 7),
    ],
    ids=repr,
)
def test_other_exceptions_are_not_caught(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(type(error)) as caught:
        kdmt()
    assert caught.value is error


def test_an_error_while_writing_names_the_file() -> None:
    for number in (errno.ENOSPC, errno.EFBIG, errno.EIO):
        with pytest.raises(OSError, match="x/y") as caught, naming(Path("x/y")):
            raise OSError(number, os.strerror(number))
        assert (caught.value.errno, caught.value.filename) == (number, "x/y")
        back = pickle.loads(pickle.dumps(caught.value))  # as when a worker sends it
        assert (back.errno, back.filename) == (number, "x/y")


def test_an_error_that_names_a_file_is_unchanged() -> None:
    with pytest.raises(FileNotFoundError) as caught, naming("other"):
        Path("/nonexistent/file").read_text()
    assert caught.value.filename == "/nonexistent/file"


def test_an_error_of_another_kind_is_unchanged() -> None:
    with pytest.raises(KeyError), naming("x"):
        raise KeyError("y")


def test_a_copied_folder_names_the_file_that_failed(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a").write_text("x")

    def fail(_: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    with pytest.raises(OSError, match="No space left") as caught, naming("x"):
        shutil.copytree(tmp_path / "from", tmp_path / "to", copy_function=fail)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "to" / "a"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_array_that_is_not_written_completely_is_an_error() -> None:
    path = Path("/dev/full")
    with pytest.raises(OSError, match=r"/dev/full") as caught, naming(path), path.open("wb") as file:
        np.save(file, np.zeros(100_000))
    line = explain_os_error(caught.value)
    assert line is not None
    assert line.startswith("/dev/full: the disk is full")


# -------------------------------------------------------------------------------------- real limits of disks and files

TEACHER = "runs/tiny/teacher/average"
STUDENT = ["student", "tiny.yaml", "--student", "raw"]


def run_limited(limit: str, commands: list[list[str]], *, before: tuple[str, ...] = ()) -> list[tuple[int, str]]:
    """Return exit code and last line of each command."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # otherwise Python would cache bytecode that the limit truncates
    worker = [*before, sys.executable, str(WORKER), limit]
    done = subprocess.run(worker, input=json.dumps(commands), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    results = []
    for code, err in json.loads(done.stdout):
        assert "Traceback" not in err
        results.append((code, err.splitlines()[-1]))
    return results


def has_namespaces() -> bool:
    """Return whether a process may mount a disk that only it can see."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/tmp"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.usefixtures("finished")
def test_a_full_disk_is_a_clear_error() -> None:
    if not has_namespaces():
        pytest.skip("no disk can be mounted here")
    Path("small").mkdir()
    script = 'mount -t tmpfs -o size=28k none small && exec "$@"'
    commands = [
        ["export", "--to", "ctranslate2", TEACHER, "small/ct2"],
        ["export", "--to", "fairseq", TEACHER, "small/fairseq.pt"],
        ["prepare", "tiny.yaml", "--runs", "small/runs"],
        [
            "generate",
            "runs/tiny/prepare/data-bin",
            "--path",
            TEACHER,
            "--gen-subset",
            "train",
            "--nbest",
            "5",
            "--results-path",
            "small/out",
        ],
    ]
    for code, line in run_limited("disk", commands, before=("unshare", "-rm", "sh", "-c", script, "sh")):
        assert code == 2, line
        assert line.startswith("kdmt: error: small/")
        assert "the disk is full" in line


@pytest.mark.usefixtures("finished")
def test_the_limit_on_file_sizes_is_a_clear_error() -> None:
    commands = [
        ["export", "--to", "ctranslate2", TEACHER, "out/ct2"],
        ["export", "--to", "fairseq", TEACHER, "out/fairseq.pt"],
        ["prepare", "tiny.yaml", "--runs", "out/runs"],
        [*STUDENT, "--set", "students.raw.train.lr=0.02"],
    ]
    results = run_limited("size:3000", commands)
    for code, line in results:
        assert code == 2, line
        assert line.startswith("kdmt: error: ")
        assert "larger than the system allows" in line
        assert "out/" in line or "runs/tiny/students/raw" in line
    assert not Path("out/ct2").exists()
    assert not Path("out/fairseq.pt").exists()


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("limit", [pytest.param(5, marks=pytest.mark.slow), 7, pytest.param(9, marks=pytest.mark.slow)])
def test_too_many_open_files_are_a_clear_error(limit: int) -> None:
    ((code, line),) = run_limited(f"files:{limit}", [["prepare", "tiny.yaml", "--runs", "out"]])
    assert code == 2
    assert re.match(r"kdmt: error: (out/tiny/|(prepare\.[\w.]+: )?text/)", line)
    assert line.endswith(": too many open files: raise the limit ('ulimit -n')")


@pytest.mark.usefixtures("pipeline")
def test_invalid_paths_are_clear_errors() -> None:
    Path("loop").symlink_to("loop")
    for path, reason in (
        ("x" * 300, "File name too long"),
        ("tiny.yaml/x", "Not a directory"),
        ("loop", "Too many levels"),
    ):
        for arguments in (
            ("prepare", path),
            ("translate", path),
            ("prepare", "tiny.yaml", "--set", f"prepare.train.0.source.path={path}"),
        ):
            result = kdmt(*arguments)
            assert result.code == 2
            last = result.err.splitlines()[-1]
            assert last.startswith("kdmt: error: ")
            assert reason in last or "no such file" in last or arguments[0] == "translate"
            assert "Traceback" not in result.err
