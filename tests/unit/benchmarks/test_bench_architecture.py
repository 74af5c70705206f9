"""Tests of the counts of `make architecture`, on sources with known counts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """Import the script as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("bench_architecture")
    finally:
        sys.path.remove(str(BENCHMARKS))


def modules(**sources: str) -> dict[Path, str]:
    """Return sources by the path of the module; in the argument names, `__` separates folders."""
    return {Path(*name.split("__")).with_suffix(".py"): source for name, source in sources.items()}


IMPORTS = """
import os
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import numpy
def f():
    import a, b
    def g():
        from c import d
class C:
    import e
    async def h(self):
        from i import (j, k)
"""


def test_imports_in_functions_are_counted_once_each(bench: ModuleType) -> None:
    assert bench.imports_in_functions(IMPORTS) == 3
    assert bench.imports_in_functions("import os") == 0


def test_uses_of_any_without_its_import(bench: ModuleType) -> None:
    source = "from typing import Any\ndef f(x: Any, y: list[Any]) -> dict[str, Any]:\n    z: Anything = any(x)"
    assert bench.uses_of_any(source) == 3


@pytest.mark.parametrize(("lines", "count"), [(39, 0), (40, 0), (41, 1)])
def test_functions_are_long_from_41_lines_on(bench: ModuleType, lines: int, count: int) -> None:
    body = "\n".join("    x = 1" for _ in range(lines - 1))
    assert bench.long_functions(f"def f():\n{body}\n") == count


def test_methods_and_docstrings_count_as_lines_of_functions(bench: ModuleType) -> None:
    body = "\n".join("        x = 1" for _ in range(39))
    assert bench.long_functions(f'class C:\n    async def f(self):\n        """Do it."""\n{body}\n') == 1


def test_lines_by_package(bench: ModuleType) -> None:
    found = bench.lines_by_package(modules(cli="a\nb", train__loop="a", train__data="a\nb", decode__search__beam="a\n"))
    assert found == {"kdmt": 2, "train": 3, "decode/search": 1}


def test_modules_without_a_test_file(bench: ModuleType, tmp_path: Path) -> None:
    tested = tmp_path / "tests" / "unit" / "train" / "test_loop.py"
    tested.parent.mkdir(parents=True)
    tested.write_text("")
    given = modules(train__loop="", train__data="", train____init__="", files="", interop__fairseq_plugin__x="")
    given = {**given, Path("train/__init__.py"): "", Path("__main__.py"): ""}
    given.pop(Path("train/init__.py"), None)
    missing = bench.without_test_file(tmp_path, given)
    assert {"train/data.py", "files.py"} <= set(missing)
    assert not {"train/loop.py", "train/__init__.py", "__main__.py", "interop/fairseq_plugin/x.py"} & set(missing)


@pytest.mark.parametrize(
    ("path", "name"),
    [("cli.py", "kdmt.cli"), ("train/loop.py", "kdmt.train.loop"), ("train/__init__.py", "kdmt.train")],
)
def test_module_name(bench: ModuleType, path: str, name: str) -> None:
    assert bench.module_name(Path(path)) == name


def test_imported_modules_and_names_in_them(bench: ModuleType) -> None:
    names = {"kdmt.files", "kdmt.train", "kdmt.train.loop"}
    source = "import os, kdmt.files\nfrom kdmt.train import loop, Trainer\ndef f():\n    from kdmt.files import naming"
    assert list(bench.imported(source, names)) == ["kdmt.files", "kdmt.train.loop", "kdmt.train", "kdmt.files"]


def test_mutual_imports_are_found_inside_functions(bench: ModuleType) -> None:
    given = modules(
        a="from kdmt.b import x", b="def f():\n    from kdmt import a", c="import kdmt.a", d="from kdmt.d import x"
    )
    assert bench.mutual_imports(given) == [("kdmt.a", "kdmt.b")]


ORDER = ("cli", "stages", "decode.engines", "decode", "files", "")


def test_upward_arrows(bench: ModuleType) -> None:
    given = modules(
        cli="from kdmt.stages import run\nfrom kdmt import files",
        stages__run="import kdmt.files\nimport torch",
        files="def f():\n    from kdmt.cli import app",
        decode__arrivals="if TYPE_CHECKING:\n    from kdmt.decode.engines.nat import X",
        decode__engines__nat="from kdmt.decode.arrivals import y\nfrom kdmt.decode.engines.onnx import z",
        decode__engines__onnx="",
        unknown="from kdmt.cli import app",
    )
    assert bench.upward_arrows(given, ORDER) == [
        ("kdmt.decode.arrivals", "kdmt.decode.engines.nat"),
        ("kdmt.files", "kdmt.cli"),
    ]


@pytest.mark.parametrize(
    ("module", "index"),
    [
        ("kdmt.cli", 0),
        ("kdmt.stages.run", 1),
        ("kdmt.decode.engines.nat", 2),
        ("kdmt.decode.arrivals", 3),
        ("kdmt", 5),
        ("kdmt.unknown", None),
        ("torch.nn", None),
    ],
)
def test_package_index(bench: ModuleType, module: str, index: int | None) -> None:
    assert bench.package_index(module, ORDER) == index


def test_order_is_read_from_the_layering_test(bench: ModuleType, tmp_path: Path) -> None:
    order = bench.read_order(ROOT / "tests" / "unit" / "test_layering.py")
    assert order.index("cli") < order.index("stages") < order.index("models") < order.index("errors")
    (tmp_path / "other.py").write_text("X = 1\nORDER = (*('a', 'b'), 'c')\n")
    assert bench.read_order(tmp_path / "other.py") == ("a", "b", "c")
    (tmp_path / "none.py").write_text("X = 1\n")
    assert bench.read_order(tmp_path / "none.py") is None
    assert bench.read_order(tmp_path / "missing.py") is None
