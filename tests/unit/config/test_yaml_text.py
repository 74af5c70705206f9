"""Tests of malicious and confusing YAML, and of values that YAML 1.1 reads in surprising ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from kdmt.config import Pipeline
from kdmt.config.yaml_text import read_yaml, write_yaml

Load = Callable[..., Pipeline]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a mapping of settings at the top level"),
        ("- a\n", "expected a mapping of settings at the top level"),
        ("a: b: c", "not valid YAML: mapping values are not allowed here"),
        ("x: !!python/object:os.system {}", "not valid YAML"),
        ("? [1, 2]\n: 3\n", "found unhashable key"),
        ("name: x\nscore: {}\nname: y\n", "the key 'name' is given twice in \"<unicode string>\", line 3"),
        (
            "teacher:\n  train:\n    lr: 1.0\n    lr: 2.0\n",
            "the key 'lr' is given twice in \"<unicode string>\", line 4",
        ),
        ("a: &x {b: 1}\nc: {<<: *x, d: 1, d: 2}\n", "the key 'd' is given twice"),
        ("1: 2\n", "1: Keys should be strings"),
    ],
)
def test_files_without_settings_are_refused(refusal: Callable[..., str], text: str, problem: str) -> None:
    message = refusal(text=text)
    assert "/p.yaml: " in message
    assert problem in message


def bomb(levels: int) -> str:
    """Return YAML of 9 ** levels values: each level has nine aliases of the level below."""
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
def test_a_document_that_expands_to_too_many_values_is_refused(problem: Callable[..., str], text: str) -> None:
    assert "not valid YAML: more than 100,000 values" in problem(text=text)


def test_a_few_aliases_and_merges_are_read(problem: Callable[..., str]) -> None:
    assert problem(text=bomb(3)).startswith("name: missing; ")
    assert problem(text="name: &n {x: 1}\nteacher: {<<: *n}\n").startswith("name: ")


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: &a {b: *a}\n", "a: &a {<<: *a}\n"])
def test_an_anchor_that_contains_itself_is_refused(problem: Callable[..., str], text: str) -> None:
    assert "an anchor that contains itself" in problem(text=text)


@pytest.mark.parametrize("text", ["[" * 2_000, "- " * 20_000 + "x", "{a: " * 20_000], ids=["list", "block", "mapping"])
def test_values_nested_too_deeply_are_refused(problem: Callable[..., str], text: str) -> None:
    assert problem(text=text) == "not valid YAML: nested too deeply"
    assert "is not a YAML value" in problem(f"name={text}") or "nested" in problem(f"name={text}")


@pytest.mark.parametrize(
    ("text", "expected"),
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
def test_invalid_scalars_are_refused(problem: Callable[..., str], text: str, expected: str) -> None:
    message = problem(text=f"name: {text}\n")
    assert message.startswith("not valid YAML: ")
    assert expected in message
    assert "is not a YAML value" in problem(f"name={text}")


@pytest.mark.parametrize("text", ["1:30", "010", "2020-99-99", "2020-01-01", "1:30.5", "0o17", "=", "1__0x"])
def test_dates_and_numbers_in_other_bases_are_text(problem: Callable[..., str], text: str) -> None:
    """Check `1:30` and `010`, which YAML 1.1 reads as 90 and 8, and an invalid date, which fails with a traceback."""
    message = problem(f"teacher.train.max_updates={text}")
    assert message.startswith(f"teacher.train.max_updates: should be a valid integer (it is {text!r})")


@pytest.mark.parametrize(
    ("text", "value"), [("1_000", 1000), ("0x10", 16), ("0b11", 3), ("+5", 5), ("0", 0)], ids=lambda value: str(value)
)
def test_other_integers_are_read_as_by_pyyaml(text: str, value: int) -> None:
    assert yaml.safe_load(text) == value  # PyYAML is the reference
    assert read_yaml(text) == value


@pytest.mark.parametrize("text", ["1.5", "-1.5e+3", ".5", "1.", "5e-4", "-.inf", ".inf", "+1.0E5", "1_0.5", "1e5"])
def test_floats_are_read_as_by_python(text: str) -> None:
    assert read_yaml(text) == float(text.replace("_", "").replace(".inf", "inf"))


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "1e999"])
def test_numbers_that_are_not_finite_are_refused(problem: Callable[..., str], text: str) -> None:
    assert "lr: should be" in problem(f"teacher.train.lr={text}")


@pytest.mark.parametrize(
    "values",
    [
        {"b": 1, "a": [1.5, True, None], "c": {"d": [], "e": {}}},
        {"text": ["5e-4", "1e3", "1:30", "010", "2023-04-12", "true", "null", "~", "", "0x1f", "=", "<<", "12", "1_0"]},
        {"text": "@inproceedings{a,\n  title = {Ä # \"'},\n}\n", "tail": "two\nlines", "space": " a: b # c \n"},
        {"long": "x " * 500, "unicode": "ไทย\u2028é", "control": "a\tb\x85c"},
        {"5e-4": "a key"},
    ],
)
def test_written_values_are_read_back(values: dict[str, object]) -> None:
    text = write_yaml(values)
    assert read_yaml(text) == values
    assert list(read_yaml(text)) == list(values)
    assert write_yaml(values) == text


def test_yaml_is_written_for_readers() -> None:
    languages = ["de", "en"]
    values = {"list": languages, "again": languages, "tuple": (1, 2), "lines": "a\nb\n", "of": [{"x": 1}]}
    expected = "list: [de, en]\nagain: [de, en]\ntuple: [1, 2]\nlines: |\n  a\n  b\nof:\n- x: 1\n"
    assert write_yaml(values) == expected
