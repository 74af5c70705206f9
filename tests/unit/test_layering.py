"""Imports between packages, read from the source with `ast`; those in functions and under TYPE_CHECKING count as well.

The rule is the order below. A new package is not in the order, so that the test fails until it is added.
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

# from the top down: a module may import from its own package and from those after it
ORDER = (
    *("__main__", "cli", "", "api", "commands", "serve", "stages", "flow", "distill", "workers", "train", "objectives"),
    *("decode.engines", "decode.search", "decode", "documents", "score", "interop", "models", "corpus", "losses"),
    *("config", "families", "training_sets", "recognition", "outputs", "streams", "runtime", "tracking"),
    *("ranks", "rank_channel", "cuda_options", "spawn", "checksum"),
    *("html_page", "files", "types", "choices", "languages", "terminal", "log", "errors", "toy"),
)
# not allowed, although the order would allow it
NEVER = {
    "models": ("corpus", "losses"),
    "losses": ("config",),
    "flow": ("distill", "workers", "train", "objectives", "decode", "score", "interop", "models", "corpus", "losses"),
    "workers": ("train", "objectives", "decode", "score", "interop", "models", "losses"),
}
WITHOUT_TORCH = {
    "",
    "errors",
    "checksum",
    "languages",
    "terminal",
    "log",
    "files",
    "streams",
    "recognition",
    "outputs",
    "types",
    "choices",
    "families",
    "config",
    *("cli", "api", "spawn"),
    *(f"commands.{name}" for name in ("clean", "find", "lock", "new", "pipeline_file", "run", "schema", "status")),
    *("score.metrics", "score.pareto", "score.score_files", "score.report", "score.significance", "score.systems"),
    *("score.row_groups", *(f"score.report_page.{name}" for name in ("charts", "content", "gaps", "page"))),
    *("commands.report", "stages.run_summary", "stages.score_report", "stages.scored_references"),
    *("score.human_agreement", "score.report_notes", "score.test_sets", "score.translations", "stages.score"),
    *(f"score.scorers.{name}" for name in ("cache", "process", "segment_scores", "adapters.chrf", "adapters.serving")),
    *(f"models.{name}" for name in ("architecture", "average_record", "checkpoint_folder", "description")),
    *(
        f"corpus.{name}"
        for name in (
            *(
                "alignment",
                "augmentation",
                "clean",
                "codec",
                "dropped",
                "duplicates",
                "fingerprints",
                "first_pass",
                "second_pass",
                "indexed",
                "licences",
                "language_id",
                "line_index",
                "lines",
                "modifiers",
                "near_duplicates",
                "partitions",
                "process_pool",
                "sentence_lengths",
                "sentencepiece_file",
                "subword_sampling",
                "text",
                "tokenizer",
            ),
            *("translated_words", "vocabulary"),
        )
    ),
    *("corpus.datasets.catalogue", "corpus.datasets.resolve"),
    *("decode.engines.ctranslate2", "decode.engines.engine", "decode.search.lengths"),
    *("interop.ctranslate2_folder", "interop.export_folder", "interop.exporters", "interop.onnx_folder"),
    "interop.text_tokenizer",
    *("documents.document", "documents.markup", "documents.sentences"),
    "serve.detection",
    *(f"serve.{name}" for name in ("app", "batching", "limits", "metrics", "models", "protocol", "requests", "server")),
    *(
        f"distill.{name}"
        for name in (
            *(
                "blocks",
                "candidates",
                "decoding",
                "failures",
                "mbr",
                "merge",
                "ngram_counts",
                "noised",
                "selection",
                "shortlist",
                *("backward", "candidate_scores", "diversity", "rerank", "rerank_tuning", "similarity"),
            ),
            *("chosen_teacher", "comparison", "imported", "inputs", "pair_scores", "reverse", "sources"),
            *("dropping", "quality", "target_choices", "teacher_engines", "teachers", "training_text", "verification"),
            *(
                "answer_log",
                "chat_client",
                "earlier_answers",
                "endpoint_requests",
                "endpoint_teacher",
                "llm_answers",
                "llm_prompt",
            ),
            *("text_ids", "token_budget", "reverse_teachers", "target_text"),
        )
    ),
    *(f"workers.{name}" for name in ("open", "processes", "progress", "ray_actors", "scheduler", "tasks", "worker")),
    *(f"flow.{name}" for name in ("circles", "folders", "layout", "manifest", "progress", "shards", "stage")),
    *(
        f"stages.{name}"
        for name in (
            *(
                "distill",
                "distill_work",
                "external_scores",
                "followers",
                "given_checkpoints",
                "knowledge",
                "measures",
                "training",
            ),
            *("back_translation", "back_translation_work", "training_inputs", "workspace"),
        )
    ),
    "training_sets",
    *(
        f"toy.{name}"
        for name in ("corpus_files", "grammar", "lexicon", "meanings", "mode_files", "modes", "thai_letters")
    ),
}  # not even in a function, except for typing


def imported_modules(tree: ast.AST, module: str) -> Iterator[str]:
    """Yield the full names of the modules that a parsed source imports.

    `from a import b` gives a.b if that is a module of kdmt.
    """
    for node in ast.walk(tree):
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


def forbidden_imports(source: str, module: str) -> list[str]:
    """Return the imports of `module` (a name within kdmt) that the rules do not allow."""
    own = place(module)
    return [
        f"kdmt.{module} imports {full_name}"
        for full_name in imported_modules(ast.parse(source), module)
        if full_name.partition(".")[0] == "kdmt"
        if own is None
        or (place(full_name.removeprefix("kdmt").removeprefix(".")) or 0) < own
        or full_name.partition(".")[2].partition(".")[0] in NEVER.get(module.partition(".")[0], ())
    ]


def place(module: str) -> int | None:
    """Return the index of a module's package in the order, None if it has none."""
    names = [".".join(module.split(".")[:length]) for length in (2, 1)]
    return next((ORDER.index(name) for name in names if name in ORDER), None)


def modules() -> Iterator[tuple[str, str]]:
    """Yield the name within kdmt ("" for the package itself) and the source of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path.read_text(encoding="utf-8")


def test_every_import_follows_the_order() -> None:
    assert [arrow for module, source in modules() for arrow in forbidden_imports(source, module)] == []


def test_every_package_is_in_the_order() -> None:
    assert [module for module, _ in modules() if module and place(module) is None] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models.transformer", "from kdmt.corpus.batching import collate"),
        ("losses.ctc", "import kdmt.config"),
        ("decode.search.beam", "def f():\n    from kdmt.train.loop import Trainer"),
        ("train.loop", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kdmt.distill import merge"),
        ("corpus.clean", "from kdmt import models"),
        ("types", "from kdmt.config import Train"),
        ("families", "from kdmt.config import NAT"),
        ("errors", "from kdmt import types"),
        ("score.report", "from kdmt.stages.workspace import Workspace"),
        ("stages.score", "from kdmt import cli"),
        ("models.build", "from kdmt.interop import kenlm"),
        ("flow.stage", "from kdmt.stages import prepare"),
        ("flow.manifest", "from kdmt.models.checkpoint_folder import num_updates"),
        ("workers.scheduler", "from kdmt.models import build"),
        ("score.report", "from kdmt.train.loop import Trainer"),
        ("decode.search.beam", "from kdmt.decode.engines.engine import Engine"),
        ("unknown.package", "import kdmt.types"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert len(forbidden_imports(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("train.validation", "from kdmt.score.metrics import bleu"),
        ("train.validation", "from kdmt.score import metrics"),
        ("losses.cross_entropy", "from kdmt.types import PAD\nfrom kdmt.errors import UserError"),
        ("distill.decoding", "from kdmt.decode.engines.engine import Engine"),
        ("decode.engines.pytorch", "import torch\nfrom kdmt.decode.search import beam"),
        ("cli", "from kdmt.stages import pipeline"),
        ("", "from kdmt.api import load"),
    ],
)
def test_an_allowed_import_is_accepted(module: str, source: str) -> None:
    assert forbidden_imports(source, module) == []


def runtime_imports(source: str, module: str) -> set[str]:
    """Return the top-level packages that are imported outside `if TYPE_CHECKING`."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return {name.partition(".")[0] for name in imported_modules(tree, module)}


def test_light_modules_do_not_import_torch() -> None:
    heavy = {module for module, source in modules() if "torch" in runtime_imports(source, module)}
    assert heavy & WITHOUT_TORCH == set()
    assert "models.transformer" in heavy
    assert {module for module, _ in modules()} >= WITHOUT_TORCH


def test_light_modules_do_not_import_torch_through_other_modules() -> None:
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
