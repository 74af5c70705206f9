"""Tests of the reference of all settings: it is complete and deterministic; its JSON schema agrees with the loader."""

from __future__ import annotations

import copy
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tiny_pipeline
import yaml

from kdmt.config import Pipeline, resolved
from kdmt.config.reference import Table, json_schema, settings_markdown, settings_tables
from kdmt.config.section import Section, kind_of, sections_in
from kdmt.models.architecture import ARCHITECTURES

PIPELINES = sorted((Path(__file__).parents[3] / "pipelines").glob("*.yaml"))
NOT_ALLOWED = re.compile(
    r"\b(said|says|told|tells|asked|heard|beside|besides|stands|so many|what is there|of no account|crew|foreman|"
    r"ledger|house|room|goes over|lesson|lessons|teach|teaches|taught)\b"
)


def sections() -> Iterator[type[Section]]:
    """Yield every section of a pipeline once."""
    found, left = {Pipeline}, [Pipeline]
    while left:
        below = {section for field in left.pop().model_fields.values() for section, _ in sections_in(field.annotation)}
        left += below - found
        found |= below
    yield from sorted(found, key=lambda section: section.__name__)


FIELDS = [(section, name) for section in sections() for name in section.model_fields]
MARKDOWN = settings_markdown()


@functools.cache
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json_schema())


# -------------------------------------------------------------------------------------------------------- descriptions


@pytest.mark.parametrize(("section", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_every_setting_has_a_description(section: type[Section], name: str) -> None:
    description = section.model_fields[name].description
    assert description
    assert description[0].isupper() or not description[0].isalpha()
    assert not description.endswith(".")
    assert description == " ".join(description.split())
    assert not NOT_ALLOWED.search(description.lower())


@pytest.mark.parametrize("section", list(sections()), ids=lambda section: section.__name__)
def test_every_section_has_a_description(section: type[Section]) -> None:
    assert section.__doc__
    assert section.__doc__ != Section.__doc__
    assert not NOT_ALLOWED.search(section.__doc__.lower())


def test_the_sections_are_found() -> None:
    names = {section.__name__ for section in sections()}
    assert names >= {"Source", "Corpus", "HeldOut", "Train", "Model", "Decode", "NATDecode", "WordKD", "ForeignTeacher"}
    assert len(FIELDS) > 200


# ------------------------------------------------------------------------------------------------------------ Markdown


def table(path: str) -> Table:
    return next(table for table in settings_tables() if path in table.paths)


def test_every_section_has_one_table_with_every_setting() -> None:
    expected = {section.__doc__: list(section.model_fields) for section in sections()}
    found = settings_tables()
    assert len(found) == len(expected)
    assert sorted([row.name for row in table.rows] for table in found) == sorted(expected.values())


def test_a_section_with_several_paths_is_described_once() -> None:
    assert table("students.NAME.train").paths == ("teacher.train", "students.NAME.train")
    assert table("prepare.valid.raw_target").paths[0] == "prepare.train.N.source"


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("teacher.train", "max_updates", ("integer ≥ 1", "`100000`", "extend")),
        ("teacher.train", "label_smoothing", ("number ≥ 0, < 1", "`0.1`", "result")),
        ("teacher.train", "adam_betas", ("[number, number]", "`[0.9, 0.98]`", "result")),
        ("teacher.train", "tensorboard", ("boolean", "`false`", "execution")),
        ("teacher.train", "best_metric", ("string", "`bleu`", "result")),
        ("teacher.model", "activation_fn", ("`relu`, `gelu`, `swish` or null", "`null`", "result")),
        (
            "prepare",
            "test",
            (
                "mapping from name to [`prepare.valid`](#settings-prepare-valid) or list of "
                "[`prepare.valid`](#settings-prepare-valid)",
                "`{}`",
                "",
            ),
        ),
        ("prepare", "clean", ("[`prepare.clean`](#settings-prepare-clean) or `none`", "", "")),
        ("distill.reverse", "checkpoint", ("string or mapping from name to string", "required", "result")),
        ("students.NAME", "seeds", ("list of integer", "`[1]`", "extend")),
        ("students.NAME.word_kd", "alpha_schedule", ("list of [integer, number] or null", "`null`", "result")),
    ],
)
def test_type_default_and_kind_of_a_setting(path: str, name: str, expected: tuple[str, str, str]) -> None:
    row = next(row for row in table(path).rows if row.name == name)
    assert (row.type, row.default, row.kind) == expected


def test_targets_of_links_are_headings() -> None:
    anchors = re.findall(r"^##+ .*\{ #([\w-]+) \}$", MARKDOWN, re.MULTILINE)
    assert len(anchors) == len(set(anchors)) == len(settings_tables())
    links = set(re.findall(r"\]\(#([^)]+)\)", MARKDOWN))
    assert links
    assert links <= set(anchors)


def test_every_row_has_five_cells_and_no_html() -> None:
    rows = [line for line in MARKDOWN.splitlines() if line.startswith("|")]
    assert len(rows) == len(FIELDS) + 2 * len(settings_tables())
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 6
    assert not re.search(r"</?\w", re.sub(r"`[^`]*`", "", MARKDOWN))


def test_code_is_not_escaped() -> None:
    code = re.findall(r"`[^`]*`", MARKDOWN)
    assert "`<2de> `" in code  # of source_prefix
    assert not [quoted for quoted in code if "&lt;" in quoted]


def test_every_architecture_is_named() -> None:
    row = next(row for row in table("teacher.model").rows if row.name == "arch")
    named = set(re.findall(r"`([^`]*)`", row.description)) - {"_attention"}
    students = {name for name in named if name.startswith("student_")}
    assert named | {f"{name}_attention" for name in students} == set(ARCHITECTURES)


def test_the_reference_is_the_same_in_every_process() -> None:
    program = "from kdmt.config.reference import *; import json; print(settings_markdown(), json.dumps(json_schema()))"
    runs = [
        subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
                       capture_output=True, check=True).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1]
    assert MARKDOWN in runs[0].decode()


# --------------------------------------------------------------------------------------------------------- JSON schema


def test_the_schema_is_a_valid_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_pipeline_of_the_project_fits_the_schema(path: Path) -> None:
    document = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    assert list(validator().iter_errors(document)) == []


def test_a_resolved_pipeline_fits_the_schema() -> None:
    document = resolved(Pipeline.model_validate(tiny_pipeline.settings()))
    assert list(validator().iter_errors(json.loads(json.dumps(document)))) == []


def with_setting(path: str, value: Any) -> dict[str, Any]:
    """Return the document of a small pipeline with one value changed."""
    document = copy.deepcopy(tiny_pipeline.settings())
    *parents, last = path.split(".")
    node: Any = document
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("foo", 1),
        ("prepare.clean.foo", 1),
        ("prepare.train.0.source.pth", "x"),
        ("students.raw.train.max_token", 1),
        ("teacher.train.max_tokens", 0),
        ("teacher.train.max_tokens", "4k"),
        ("teacher.train.max_tokens", 10**9),  # beyond the bound
        ("distill.decode.lenpen", -1000.0),
        ("teacher.train.precision", "bf8"),
        ("prepare.clean", "all"),
        ("prepare.clean.rules", "all"),
        ("prepare.clean.rules", {"numbers": {"max": 1.0}}),
        ("score.beams", []),
        ("distill.failures.unk", "delete"),
        ("distill.teachers", [{"source_code": "de"}]),
        ("students.raw.hidden_kd", {"encoder": "first"}),
        ("students.raw.stages", [{"max_token": 1}]),
        ("students.raw.stages", [{}, {"seeds": [1]}]),
        ("students.raw.stages", [{"lr": -1.0}]),
        ("name", "a/b"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(load: Callable[..., Pipeline], path: str, value: Any) -> None:
    document = with_setting(path, value)
    assert list(validator().iter_errors(document)) != []
    with pytest.raises(Exception, match=re.escape(path.split(".")[-1])):
        load(text=tiny_pipeline.to_yaml(document))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("prepare.clean", "none"),
        ("prepare.clean", {"rules": "default"}),
        ("prepare.clean", {"rules": ["crawled", "length_ratio", {"numbers": {"min": 0.5}, "links": False}]}),
        ("prepare.clean", {"rules": {"numbers": {"min": 0.5}, "links": None}}),
        ("prepare.train.0.clean", {"numbers": False, "script": {"min": 0.9}, "max_words": 30}),
        ("prepare.train.0.tag", None),
        ("distill.teachers", ["runs/x", {"huggingface": "y"}]),
        ("students.raw.hidden_kd", {"encoder": "last:2", "decoder": [[0, 1]]}),
        ("students.raw.word_kd", {"alpha_schedule": [[0, 1.0], [10, 0]]}),
        ("students.raw.stages", [{}, {"lr": 0.1, "word_kd": {"alpha": 1.0}, "nat": None, "model": {"dropout": 0.2}}]),
        ("students.raw.stages", None),
    ],
)
def test_the_schema_has_every_alternative(path: str, value: Any) -> None:
    assert list(validator().iter_errors(with_setting(path, value))) == []


def test_the_schema_has_kind_default_and_description() -> None:
    schema = json_schema()
    train = schema["$defs"]["Train"]["properties"]
    assert train["max_updates"] == {
        "default": 100_000,
        "description": "Number of updates after which training ends; a result setting unless 'lr_schedule' is "
        "'inverse_sqrt', since the other schedules end with it",
        "kind": "extend",
        "minimum": 1,
        "maximum": 1_000_000_000,
        "type": "integer",
    }
    assert train["lr"]["kind"] == "result"
    assert train["device"]["kind"] == "execution"
    assert "kind" not in schema["properties"]["teacher"]  # the settings of the section have kinds
    assert "later" not in schema["$defs"]["Corpus"]["properties"]["header"]
    assert "unwritten" not in schema["$defs"]["Rules"]["properties"]["links"]
    kinds = {(section.__name__, name): kind_of(section.model_fields[name]) for section, name in FIELDS}
    for name, definition in schema["$defs"].items():
        for setting, found in definition["properties"].items():
            assert found["description"]
            assert found.get("kind", "result") == kinds[name, setting]
