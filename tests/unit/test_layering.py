"""Who imports whom, read from the source with `ast`: imports in functions and under TYPE_CHECKING count as any other.

The rules are the table below. A new package has no row and fails until it is given one.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdmt

PACKAGE = Path(kdmt.__file__).parent

# corpus -> models -> losses -> train -> decode -> distill -> score, imports to the left only; models see no data code,
# losses and settings nothing but `types`, decode no train
MAY_IMPORT = {
    "errors": set(),
    "languages": set(),
    "checksum": set(),
    "recognition": set(),
    "terminal": set(),
    "files": set(),
    "streams": set(),
    "outputs": set(),
    "types": set(),
    "config": {"types"},
    "corpus": {"types", "config"},
    "models": {"types", "config"},
    "losses": {"types"},
    "train": {"types", "config", "corpus", "models", "losses"},
    "decode": {"types", "config", "corpus", "models", "losses"},
    "distill": {"types", "config", "corpus", "models", "losses", "train", "decode"},
    "score": {"types", "config", "corpus", "models", "losses", "train", "decode", "distill"},
    "interop": {"types", "config", "corpus", "models"},
    "stages": {
        *("types", "config", "corpus", "models", "losses", "train", "decode", "distill", "score", "interop", "stages"),
        "streams",
    },
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MAY_IMPORT["__main__"] = {"cli"}
FOR_EVERYONE = {"checksum", "errors", "files", "languages", "outputs", "recognition", "score.metrics", "terminal"}
NOTHING_OF_OURS = {"errors", "languages", "score.metrics", "terminal"}  # these import nothing of kdmt themselves
WITHOUT_TORCH = {
    "",
    "errors",
    "checksum",
    "languages",
    "terminal",
    "files",
    "streams",
    "recognition",
    "outputs",
    "types",
    "config",
    "cli",
    "score.metrics",
    *(f"models.{name}" for name in ("architecture", "checkpoint_folder", "description")),
    *(
        f"corpus.{name}"
        for name in (
            *("alignment", "clean", "codec", "dropped", "indexed", "lengths", "lines", "parallel", "text", "tokenizer"),
            "vocabulary",
        )
    ),
    *(f"decode.{name}" for name in ("ctranslate2", "ctranslate2_file", "engine", "lengths")),
    *(
        f"distill.{name}"
        for name in (
            *("blocks", "candidates", "crew", "decoding", "executors", "failures", "mbr", "merge", "ray_executor"),
            *("selection", "shortlist", "similarity", "sources", "tasks", "worker"),
        )
    ),
}  # not even in a function, but for typing


def imported_modules(source: str, module: str) -> Iterator[str]:
    """Full names of the modules that a source imports; `from a import b` gives a.b where that is a module of ours."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"kdmt.{module}: relative import in line {node.lineno}"
            name = node.module or ""
            yield from (f"{name}.{alias.name}" if is_ours(f"{name}.{alias.name}") else name for alias in node.names)


def is_ours(name: str) -> bool:
    parts = name.split(".")
    path = PACKAGE.joinpath(*parts[1:])
    return parts[0] == "kdmt" and (path.is_dir() or path.with_suffix(".py").is_file())


def wrong_arrows(source: str, module: str) -> list[str]:
    """The imports of `module` (a name within kdmt) that the rules do not allow."""
    own = module.partition(".")[0]
    wrong = []
    for full_name in imported_modules(source, module):
        package, _, name = full_name.partition(".")
        top = name.partition(".")[0]
        if package != "kdmt":
            continue
        free = name in FOR_EVERYONE or (top == own and "." in module)
        if module in NOTHING_OF_OURS or not own or not (free or top in MAY_IMPORT.get(own, set())):
            wrong.append(f"kdmt.{module} imports {full_name}")
    return wrong


def modules() -> Iterator[tuple[str, str]]:
    """The name within kdmt, "" for the package itself, and the source of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path.read_text(encoding="utf-8")


def test_every_import_points_the_right_way() -> None:
    assert [arrow for module, source in modules() for arrow in wrong_arrows(source, module)] == []


def test_every_package_has_its_rule() -> None:
    assert {module.partition(".")[0] for module, _ in modules()} - {""} <= set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models.transformer", "from kdmt.corpus.batching import collate"),
        ("losses.ctc", "import kdmt.config"),
        ("decode.beam", "def f():\n    from kdmt.train.loop import Trainer"),
        ("train.loop", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kdmt.decode import engine"),
        ("corpus.clean", "from kdmt import models"),
        ("types", "from kdmt.config import Train"),
        ("errors", "from kdmt import types"),
        ("score.report", "from kdmt.stages.workspace import Workspace"),
        ("stages.score", "from kdmt import cli"),
        ("score.metrics", "from kdmt.errors import UserError"),
        ("distill.blocks", "from kdmt.interop import fairseq"),
        ("train.loop", "from kdmt.score import report"),
        ("", "from kdmt.errors import UserError"),
        ("unknown.package", "import kdmt.types"),
    ],
)
def test_a_wrong_arrow_is_seen(module: str, source: str) -> None:
    assert len(wrong_arrows(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("train.validation", "from kdmt.score.metrics import bleu"),
        ("train.validation", "from kdmt.score import metrics"),
        ("losses.cross_entropy", "from kdmt.types import PAD\nfrom kdmt.errors import UserError"),
        ("distill.decoding", "from kdmt.decode.engine import Engine"),
        ("decode.beam", "import torch\nfrom kdmt.decode import engine"),
        ("cli", "from kdmt.stages import pipeline"),
    ],
)
def test_a_right_arrow_is_let_through(module: str, source: str) -> None:
    assert wrong_arrows(source, module) == []


def runtime_imports(source: str, module: str) -> set[str]:
    """Top packages imported outside `if TYPE_CHECKING`."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return {name.partition(".")[0] for name in imported_modules(ast.unparse(tree), module)}


def test_light_modules_do_without_torch() -> None:
    heavy = {module for module, source in modules() if "torch" in runtime_imports(source, module)}
    assert heavy & WITHOUT_TORCH == set()
    assert "models.transformer" in heavy
    assert {module for module, _ in modules()} >= WITHOUT_TORCH


def test_light_modules_do_not_load_torch_by_way_of_others() -> None:
    program = f"import sys\nfrom importlib import import_module\nfor module in {sorted(WITHOUT_TORCH)}:\n"
    program += "    import_module(f'kdmt.{module}'.rstrip('.'))\n    assert 'torch' not in sys.modules, module"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("arguments", [None, ["--help"], ["teacher", "--help"]], ids=str)
def test_import_and_help_load_nothing_heavy(arguments: list[str] | None) -> None:
    program = "import sys\nimport kdmt"
    if arguments is not None:
        program += f"\nfrom kdmt.cli import main\nsys.argv = ['kdmt', *{arguments}]"
        program += "\ntry:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
    program += "\nprint(*sys.modules, file=sys.stderr)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(finished.stderr.split())
    assert "kdmt" in loaded
    assert arguments is None or "Usage: kdmt" in finished.stdout
    heavy = {"torch", "ctranslate2", "numpy", "sentencepiece", "sacremoses", "sacrebleu", "safetensors", "pandas"}
    assert loaded & heavy == set()
