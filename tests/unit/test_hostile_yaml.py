"""Pipeline files and `--set` values that are built to harm or to confuse: each is one short message."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import annotated_types
import pytest
import tiny_pipeline
import yaml

from kdmt.config import Decode, Section, largest, load_pipeline
from kdmt.config.yaml_text import read_yaml
from kdmt.errors import UserError

LONGEST_LINE = 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(tiny_pipeline.to_yaml(tiny_pipeline.settings()), encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str, text: str | bytes | None = None) -> str:
    """What is said about it, after the file's name."""
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        load_pipeline(path, overrides)
    message = str(caught.value).removeprefix(f"{path}: ")
    assert "\n" not in message
    assert len(message) < LONGEST_LINE
    return message


# ---------------------------------------------------------------------------------------------------- size and shape


def bomb(levels: int) -> str:
    """Nine aliases of the level below on each: 9 ** levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    return "\n".join(lines) + "\n"


def merge_bomb(levels: int) -> str:
    lines = ["a0: &a0 {b: 1}"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} {{<<: [{aliases}]}}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text", [bomb(9), merge_bomb(9), "a: [" + "x, " * 100_001 + "x]\n"], ids=["alias", "merge", "list"]
)
def test_a_document_that_becomes_too_large(path: Path, text: str) -> None:
    assert "not valid YAML: more than 100,000 values" in refusal(path, text=text)


def test_a_few_aliases_and_merges_are_read(path: Path) -> None:
    assert refusal(path, text=bomb(3)).startswith("name: missing; ")
    assert refusal(path, text="name: &n {x: 1}\nteacher: {<<: *n}\n").startswith("name: ")


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: &a {b: *a}\n", "a: &a {<<: *a}\n"])
def test_an_anchor_that_contains_itself(path: Path, text: str) -> None:
    assert "an anchor that contains itself" in refusal(path, text=text)


@pytest.mark.parametrize("text", ["[" * 2_000, "- " * 20_000 + "x", "{a: " * 20_000], ids=["list", "block", "mapping"])
def test_values_nested_too_deeply(path: Path, text: str) -> None:
    assert refusal(path, text=text) == "not valid YAML: nested too deeply"
    assert "is not a YAML value" in refusal(path, f"name={text}") or "nested" in refusal(path, f"name={text}")


def test_a_file_that_is_too_large(path: Path) -> None:
    assert refusal(path, text="#" * (1 << 20) + "\n") == (
        "not a pipeline's YAML file, larger than 1 MB: it is a text file"
    )


# -------------------------------------------------------------------------------------------------------------- scalars


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("!!int abc", "'abc' cannot be read as int"),
        ("!!float abc", "'abc' cannot be read as float"),
        ("!!bool perhaps", "'perhaps' cannot be read as bool"),
        ("!!timestamp x", "could not determine a constructor for the tag 'tag:yaml.org,2002:timestamp'"),
        ("!!binary aGk=", "could not determine a constructor for the tag 'tag:yaml.org,2002:binary'"),
        ("!!set {a}", "could not determine a constructor"),
        ("!!omap [a: 1]", "could not determine a constructor"),
        ("!!python/name:os.system", "could not determine a constructor"),
        ("!!int [1]", "expected a scalar node"),
        ("9" * 5000, "a number of more than 100 characters"),
        ("0x" + "f" * 5000, "a number of more than 100 characters"),
        ("1." + "9" * 5000, "a number of more than 100 characters"),
        ("a\0b", "unacceptable character #x0000"),
        ("a\x1bb", "unacceptable character #x001b"),
        ("*nothing", "found undefined alias 'nothing'"),
    ],
)
def test_scalars_that_cannot_be_read(path: Path, text: str, problem: str) -> None:
    message = refusal(path, text=f"name: {text}\n")
    assert message.startswith("not valid YAML: ")
    assert problem in message
    assert "is not a YAML value" in refusal(path_with_settings(path), f"name={text}")


def path_with_settings(path: Path) -> Path:
    path.write_text(tiny_pipeline.to_yaml(tiny_pipeline.settings()), encoding="utf-8")
    return path


@pytest.mark.parametrize("text", ["1:30", "010", "2020-99-99", "2020-01-01", "1:30.5", "0o17", "=", "1__0x"])
def test_dates_and_numbers_to_other_bases_are_text(path: Path, text: str) -> None:
    """YAML 1.1 reads `1:30` as 90 and `010` as 8, and a date that does not exist ends in a traceback."""
    message = refusal(path, f"teacher.train.max_updates={text}")
    assert message == f"teacher.train.max_updates: should be a valid integer (it is {text!r})"


@pytest.mark.parametrize(
    ("text", "value"), [("1_000", 1000), ("0x10", 16), ("0b11", 3), ("+5", 5), ("0", 0)], ids=lambda value: str(value)
)
def test_other_numbers_are_read_as_before(text: str, value: int) -> None:
    assert yaml.safe_load(text) == value  # PyYAML's own reading is the reference
    assert read_yaml(text) == value


@pytest.mark.parametrize("text", ["1.5", "-1.5e+3", ".5", "1.", "5e-4", "-.inf", ".inf", "+1.0E5", "1_0.5", "1e5"])
def test_floats_are_read_as_before(text: str) -> None:
    assert read_yaml(text) == float(text.replace("_", "").replace(".inf", "inf"))


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "1e999"])
def test_numbers_that_are_not_finite(path: Path, text: str) -> None:
    assert "lr: should be" in refusal(path, f"teacher.train.lr={text}")


@pytest.mark.parametrize(
    ("index", "shown"), [("²", "²"), ("٣", "٣"), ("9" * 5000, "9" * 150), ("-1", "-1"), ("1_0", "1_0")]
)
def test_indices_that_are_no_numbers(path: Path, index: str, shown: str) -> None:
    message = refusal(path, f"prepare.train.{index}.weight=2")
    assert "prepare.train is a list of 1" in message
    assert shown in message


# ---------------------------------------------------------------------------------------------------- what is quoted


@pytest.mark.parametrize(
    "override",
    [
        "source_lang={}",
        "teacher.train.lr={}",
        "teacher.model.arch=[{}]",
        "{}=1",
        "{}",
        "teacher.{}=1",
        "teacher.train={}",
        "prepare.test.{}=null",
        "distill.failures.scripts=[{}]",
        "score.baseline={}",
        "students.raw.hidden_kd={{encoder: {}}}",
        "name.{}.b=1",
    ],
)
@pytest.mark.parametrize("length", [500, 3000, 100_000])
def test_no_more_than_200_characters_are_quoted(path: Path, override: str, length: int) -> None:
    message = refusal(path, override.format("q" * length))
    assert max(map(len, re.findall("q+", message)), default=0) <= 200


def test_only_some_problems_are_listed(path: Path) -> None:
    message = refusal(path, text="".join(f"key_{number}: 1\n" for number in range(500)))
    assert message.count("unknown setting") + message.count("missing") == 20
    assert message.endswith("; and 484 more")  # 500 and the four that are missing


@pytest.mark.parametrize("text", ['"a\\0b"', '"a\\x1b[2Jb"', '"a\\nb"', '"a\\x9bb"', '"a\\ud800b"', '"a\\u2029b\\a"'])
def test_control_characters_in_settings(path: Path, text: str) -> None:
    message = refusal(path, f"prepare.train.0.source.path={text}")
    assert message.startswith("prepare.train.0.source.path: holds the control character U+00") or "U+D800" in message
    assert message.isprintable()


# -------------------------------------------------------------------------------------------------------------- bounds


def sections() -> list[type[Section]]:
    found, left = [], [Section]
    while left:
        own = left.pop().__subclasses__()
        found += own
        left += own
    return [section for section in found if section.__module__.startswith("kdmt.config.")]


def kinds_in(annotation: Any) -> Iterator[type]:
    """Every plain type in an annotation."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        yield annotation
    for part in get_args(annotation):
        yield from kinds_in(part)


def numeric_fields() -> list[tuple[type[Section], str]]:
    return [
        (section, name)
        for section in sections()
        for name, field in section.model_fields.items()
        if {int, float} & set(kinds_in(field.annotation))
    ]


def test_there_are_numeric_settings() -> None:
    fields = {f"{section.__name__}.{name}" for section, name in numeric_fields()}
    assert fields >= {"Model.encoder_layers", "Decode.beam", "Score.beams", "Train.adam_betas", "WordKD.alpha_schedule"}
    assert len(fields) > 100


@pytest.mark.parametrize(("section", "name"), numeric_fields(), ids=lambda value: getattr(value, "__name__", value))
def test_every_number_has_an_upper_bound(section: type[Section], name: str) -> None:
    """Whatever else is wrong with it, a number beyond the bound is refused at its own place."""
    kinds = set(kinds_in(section.model_fields[name].annotation))
    bound = largest(name)
    assert 0 < bound <= 1e30
    for number in (float(bound) * 10, -float(bound) * 10) if float in kinds else (int(bound) * 10, -int(bound) * 10):
        for value in (number, [number], [[number, number]], [[0, number]], [number, number]):
            with pytest.raises(ValueError) as caught:  # noqa: PT011  (a ValidationError)
                section.model_validate({name: value})
            assert any(problem["loc"][0] == name for problem in caught.value.errors())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("teacher.model.encoder_layers", 10**9),
        ("teacher.model.encoder_embed_dim", 10**12),
        ("teacher.model.max_source_positions", 10**12),
        ("prepare.tokenizer.vocab_size", 10**12),
        ("distill.decode.beam", 10**9),
        ("distill.workers", 10**9),
        ("distill.threads", 10**9),
        ("distill.decode.batch_size", 10**12),
        ("distill.block_size", 10**12),
        ("distill.decode.nbest", 10**9),
        ("distill.decode.lenpen", -1000.0),
        ("prepare.vocabulary.padding_factor", 10**9),
        ("score.beams", [1, 10**9]),
    ],
)
def test_sizes_that_nobody_means_are_refused_by_name(path: Path, setting: str, value: Any) -> None:
    message = refusal(path, f"{setting}={json.dumps(value)}")
    assert re.search(rf"{re.escape(setting)}: should be (at most|at least) -?[\d,]+ \(it is ", message)


def test_the_bound_itself_is_allowed() -> None:
    assert Decode(beam=10_000, lenpen=-100.0).beam == 10_000
    constraint = next(each for each in Decode.model_fields["beam"].metadata if isinstance(each, annotated_types.Ge))
    assert constraint.ge == 1


# ---------------------------------------------------------------------------------------------- what is no file at all


def test_no_pipe_device_or_socket_is_opened(tmp_path: Path) -> None:
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
