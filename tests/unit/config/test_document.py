"""Tests of pipeline documents: unreadable files, overrides and anchors."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from kdmt.config import Pipeline, load_pipeline
from kdmt.errors import UserError

Load = Callable[..., Pipeline]


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"name: \xff")
    for path, problem in (
        (
            broken,
            "not a pipeline's YAML file, not UTF-8 (invalid start byte at byte 6): "
            "it is a binary file of no kind that kdmt knows",
        ),
        (tmp_path, "not a pipeline's YAML file: it is a folder with broken.yaml"),
        (tmp_path / "none.yaml", "there is no such pipeline file"),
    ):
        with pytest.raises(UserError) as caught:
            load_pipeline(path)
        assert str(caught.value) == f"{path}: {problem}"


def test_a_file_that_is_too_large_is_refused(problem: Callable[..., str]) -> None:
    assert problem(text="#" * (1 << 20) + "\n") == ("not a pipeline's YAML file, larger than 1 MB: it is a text file")


def test_pipes_devices_and_sockets_are_refused(tmp_path: Path) -> None:
    pipe, listener = tmp_path / "pipe", tmp_path / "socket"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listener))
        for path, what in (
            (pipe, "a pipe"),
            (listener, "a socket"),
            (Path("/dev/zero"), "a device"),
        ):
            with pytest.raises(UserError) as caught:
                load_pipeline(path)
            assert str(caught.value) == f"{path}: {what}, expected a file"


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("teacher.train.max_updates=7", ("teacher", "train"), "max_updates", 7),
        ("teacher.train.lr=5e-4", ("teacher", "train"), "lr", 5e-4),
        ("teacher.train.lr=1E3", ("teacher", "train"), "lr", 1000.0),
        ("teacher.train.lr=1", ("teacher", "train"), "lr", 1.0),
        ("score.lowercase=true", ("score",), "lowercase", True),
        ("score.beams=[3, 4]", ("score",), "beams", [3, 4]),
        ("score.beams.1=9", ("score",), "beams", [1, 9]),
        ("students.raw.encoder_layers_from_teacher=null", ("students", "raw"), "encoder_layers_from_teacher", None),
        ("prepare.clean={max_words: 9}", ("prepare", "clean"), "max_words", 9),
        ("prepare.train.0.tag=<bt>", ("prepare", "train", 0), "tag", "<bt>"),
        (" score.baseline=raw", ("score",), "baseline", "raw"),
        ("prepare.train.0.source.path=a=b", ("prepare", "train", 0, "source"), "path", "a=b"),
        ("students.new.data=mixed", ("students", "new"), "data", "mixed"),
    ],
)
def test_set_takes_yaml_values(load: Load, override: str, section: Sequence[Any], name: str, value: Any) -> None:
    found: Any = load(override)
    for key in section:
        found = getattr(found, key) if isinstance(found, BaseModel) else found[key]
    assert getattr(found, name) == value
    assert type(getattr(found, name)) is type(value)


def test_later_overrides_win(load: Load) -> None:
    assert load("teacher.seed=1", "teacher.seed=2").teacher.seed == 2


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("teacher", "expected a.b=value"),
        ("=1", "expected a.b=value"),
        ("a..b=1", "expected a.b=value"),
        ("name.x=1", "name holds no further settings"),
        ("prepare.train.1.weight=2", "prepare.train is a list of 1"),
        ("prepare.train.first.weight=2", "prepare.train is a list of 1"),
        ("prepare.train.-1.weight=2", "prepare.train is a list of 1"),
        ("teacher.seed=[", "'[' is not a YAML value"),
    ],
)
def test_an_override_of_an_invalid_path_is_refused(refusal: Callable[..., str], override: str, problem: str) -> None:
    assert refusal(override) == f"--set {override!r}: {problem}"


def test_set_below_an_empty_section_names_it(refusal: Callable[..., str]) -> None:
    text = tiny_pipeline.to_yaml(tiny_pipeline.settings() | {"score": None})
    assert refusal("score.lenpen=1.0", text=text) == "--set 'score.lenpen=1.0': score is empty in the file"


def with_anchors() -> str:
    """Return YAML in which the teacher and two students share one `train`, and one student is merged into the other."""
    head = {key: value for key, value in tiny_pipeline.settings().items() if key not in ("teacher", "students")}
    return tiny_pipeline.to_yaml(head) + (
        "teacher: {train: &recipe {max_updates: 5, max_tokens: 100}}\n"
        "students:\n"
        "  raw: &small {data: raw, train: *recipe, seeds: [1, 2]}\n"
        "  distilled: {<<: *small, data: distilled}\n"
    )


def test_merge_keys_are_applied_and_overridden(load: Load) -> None:
    students = load(text=with_anchors()).students
    assert students["raw"].train == students["distilled"].train
    assert (students["raw"].data, students["distilled"].data) == ("raw", "distilled")
    assert students["distilled"].seeds == [1, 2]


@pytest.mark.parametrize("changed", ["teacher", "students.raw", "students.distilled"])
def test_set_does_not_change_other_aliases_of_a_section(load: Load, changed: str) -> None:
    pipeline = load(f"{changed}.train.max_updates=9", text=with_anchors())
    found = {"teacher": pipeline.teacher, **{f"students.{name}": each for name, each in pipeline.students.items()}}
    assert {name: each.train.max_updates for name, each in found.items()} == dict.fromkeys(found, 5) | {changed: 9}


@settings(max_examples=20)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-300, max_value=1e30))
def test_numbers_are_read_as_python_writes_them(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    path = tmp_path_factory.getbasetemp() / "number.yaml"
    if not path.exists():
        path.write_text(tiny_pipeline.to_yaml(tiny_pipeline.settings()), encoding="utf-8")
    assert load_pipeline(path, [f"teacher.train.lr={value!r}"]).teacher.train.lr == value


@pytest.mark.parametrize(
    ("index", "shown"), [("²", "²"), ("٣", "٣"), ("9" * 5000, "9" * 150), ("-1", "-1"), ("1_0", "1_0")]
)
def test_list_indices_that_are_not_numbers_are_refused(problem: Callable[..., str], index: str, shown: str) -> None:
    message = problem(f"prepare.train.{index}.weight=2")
    assert "prepare.train is a list of 1" in message
    assert shown in message
