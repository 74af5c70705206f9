"""Tests that the kdmt commands, options, make targets, settings and files named in the documentation exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import typer
import yaml

from kdmt.cli import app
from kdmt.config import Pipeline
from kdmt.config.reference import settings_tables
from kdmt.interop.fairseq.flags import generate_help

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GROUP = typer.main.get_command(app)
OPTIONS_OF_ALL = {"--help"}
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
STAGES = tuple(name for name in Pipeline.model_fields if name not in ("name", "source_lang", "target_lang", "students"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_of(path: Path) -> Iterator[str]:
    """Yield the code of a page: lines of blocks, with continued lines joined, and spans."""
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:bash|text)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()
    yield from (line.strip() for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE))
    yield from (" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))


def commands_in(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the options of every kdmt command that a page shows."""
    for code in code_of(path):
        for call in re.findall(r"(?:^|\| |\$\(|srun \S*/|-m )kdmt ([a-z][^|<>)#]*)", code):
            name, *words = shlex.split(call.replace("'", '"'), posix=False)
            yield name, [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_kdmt_commands_and_their_options_exist(path):
    wrong = []
    for name, options in commands_in(path):
        command = GROUP.commands.get(name)
        if command is None:
            wrong.append(f"kdmt {name}")
            continue
        if name == "generate":
            known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", generate_help()))
        else:
            known = {option for parameter in command.params for option in parameter.opts}
        wrong += [f"kdmt {name} {option}" for option in options if option not in known | OPTIONS_OF_ALL]
    assert not wrong


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_make_targets_exist(path):
    named = [call.split() for code in code_of(path) for call in re.findall(r"^make ((?:[a-z][a-z0-9-]*\s?)+)", code)]
    assert not {target for targets in named for target in targets} - TARGETS


SETTINGS = {f"{section}.{row.name}" for table in settings_tables() for section in table.paths for row in table.rows}
NAMES = {path.rpartition(".")[2] for path in SETTINGS}
NOT_SETTINGS = re.compile(r"\.(?:json|yaml|py|html|npy|jsonl|txt|gz|pt|previous|unfinished|partial)\b|\.<lang>$")


def is_setting(path: str) -> bool:
    """Return whether a dotted path is that of a setting; names of students and list items stand for any of them."""
    if stage := re.fullmatch(r"(students\.[^.]+)\.stages\.\d+\.(.+)", path):
        return any(is_setting(f"{stage[1]}.{name}") for name in (stage[2], f"train.{stage[2]}"))
    pattern = re.sub(r"\\\.(?:\d+|<\w+>|[A-Z])(?=\\\.|$)", r"\\.N", re.escape(path))
    # a stage has settings of a student and of its section `train`
    pattern = re.sub(r"(?<=\\.)stages\\\.N\\\.", r"(?:train\\.)?", pattern)
    pattern = re.sub(r"^students\\\.[^.]+\\\.", r"students\\.NAME\\.", pattern)
    return any(re.fullmatch(pattern, known) for known in SETTINGS)


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_settings_that_are_named_by_their_path_exist(path):
    sections = "|".join((*STAGES, "students"))
    named = {
        name
        for code in code_of(path)
        for name in re.findall(rf"(?:^|--set )((?:{sections})(?:\.[\w<>-]+)+)(?=$|[:= ,\]])", code)
        if not NOT_SETTINGS.search(name)
    }
    assert not {name for name in named if not is_setting(name)}


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_yaml_of_pipelines_has_settings_that_exist(path):
    blocks = re.findall(r"^```yaml\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    keys = {key for block in blocks for piece in block.split("\n\n") for key in keys_of(piece)}
    assert not keys - NAMES - {"name", "source_lang", "target_lang", *STAGES, "students"}


def keys_of(piece: str) -> Iterator[str]:
    """Yield the keys of a piece of YAML, but for names of students, test sets, scorers and features from files."""
    text = re.sub(r"(?<=[:,])( *)\.\.\.(?=[,}\s])", r" null", piece)
    text = re.sub(r"<<: \*\w+", "data: null", re.sub(r"&\w+", "", text))
    text = re.sub(r"\*\w+", "null", text)
    is_fragment = text.startswith(" ")
    yield from _keys(yaml.load(dedent(text), Loader=yaml.BaseLoader), named=is_fragment)


def _keys(value: object, *, named: bool) -> Iterator[str]:
    """Yield the keys below a value; where `named`, those that hold mappings or lists are names."""
    if isinstance(value, list):
        for item in value:
            yield from _keys(item, named=False)
    if isinstance(value, dict):
        for key, item in value.items():
            if not (named and isinstance(item, (dict, list))) and key != "null":
                yield str(key)
            if key == "contrastive":  # names of tests -> paths
                continue
            if key == "teachers" and isinstance(item, dict):  # of directions
                yield from _keys(list(item.values()), named=False)
            # the keys of weights are names too, and hold numbers
            elif key != "weights" or not isinstance(item, dict):
                yield from _keys(item, named=key in ("students", "test", "files", "scorers", "variants", "parallel"))


@pytest.mark.parametrize("text", ["prepare.clean.max_ratio", "students.small.word_kd.alpha", "students.<name>.seeds"])
def test_paths_of_settings_are_recognised(text):
    assert is_setting(text)


@pytest.mark.parametrize("text", ["prepare.clean.min_ratio", "students.small.alpha", "teacher.seeds"])
def test_paths_that_are_not_settings_are_recognised(text):
    assert not is_setting(text)


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_modules_and_files_of_the_repository_exist(path):
    wrong = []
    for span in re.findall(r"(?<!`)`([^`\s]+)`(?!`)", path.read_text(encoding="utf-8")):
        if re.fullmatch(r"kdmt(\.\w+)+", span) and not exists_in_package(span):
            wrong.append(span)
        if re.fullmatch(r"(kdmt|tests|benchmarks|pipelines|docs)/[\w./-]+", span) and not (ROOT / span).exists():
            wrong.append(span)
    assert set(wrong) <= NAMES_OF_EXAMPLES


NAMES_OF_EXAMPLES = {"pipelines/x.yaml", "pipelines/iwslt.yaml"}


def exists_in_package(name: str) -> bool:
    """Return whether a dotted name is that of a module, or of something that a module defines."""
    path, rest = ROOT / "kdmt", name.split(".")[1:]
    while rest and (path / rest[0]).is_dir():
        path /= rest.pop(0)
    if rest and (path / f"{rest[0]}.py").is_file():
        path /= f"{rest.pop(0)}.py"
    file = path if path.suffix else path / "__init__.py"
    return all(re.search(rf"\b{part}\b", file.read_text(encoding="utf-8")) for part in rest)


def test_folders_and_files_in_the_tree_of_the_readme_exist():
    tree = (
        (ROOT / "README.md").read_text(encoding="utf-8").partition("## The repository")[2].partition("`make help`")[0]
    )
    of_repository = re.findall(r"^ {4}(\S+) ", tree, re.MULTILINE)
    of_package = [
        name for names in re.findall(r"^ {6}([^\s,]+(?:, [^\s,]+)*) ", tree, re.MULTILINE) for name in names.split(", ")
    ]
    assert not [name for name in of_repository if not (ROOT / name).is_dir()]
    assert not [name for name in of_package if not (ROOT / "kdmt" / name).exists()]
    packages = {f"{path.name}/" for path in (ROOT / "kdmt").iterdir() if any(path.glob("*.*"))}
    assert packages - {"__pycache__/"} == {name for name in of_package if name.endswith("/")}
