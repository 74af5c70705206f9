"""Figures about the structure of the code: files that a new reader has to open, and dependencies between packages.

    make architecture        (or: python benchmarks/bench_architecture.py [--root CHECKOUT] [--results NAME])

The files to open are found by running kdmt: a model is trained on a few sentences, and used, under a profiler. A file
of kdmt counts if one of its functions is on the call stack at one of these moments:

* student: the settings are read, the objective is built, a loss function of `kdmt.losses` is called, the gradient is
  computed. The files that define the settings and the batch count too.
* translation: the model is loaded, text is converted to ids, the network computes a step, ids are converted to text.

All other figures are counted in the source with `ast`, without running it. An import points upward if it leads to a
package above the importing package in the order of `tests/unit/test_layering.py`. With `--root`, another checkout of
the project is measured, for example the commit before a change.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import REPOSITORY, Figure, report_figures

LONG_FUNCTION = 40  # lines
STUDENTS = {
    "plain": {"data": "raw"},
    "word_kd": {"data": "raw", "word_kd": {"alpha": 0.5}},
    "cmlm": {"data": "raw", "nat": {"family": "cmlm"}},
}

# runs in a separate process and prints the files as JSON
TRACER = Path(__file__).with_name("trace_files.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="Checkout to measure (default: this one).")
    parser.add_argument("--results", default="architecture", help="Name of the results file (default: %(default)s).")
    arguments = parser.parse_args()
    root = arguments.root.resolve()

    opened = trace(root)
    for name, files in opened.items():
        print(f"{name}: {len(files)} files: {' '.join(files)}")
    modules = {
        path.relative_to(root / "kdmt"): path.read_text("utf-8") for path in sorted((root / "kdmt").rglob("*.py"))
    }
    lines = lines_by_package(modules)
    for package, count in sorted(lines.items()):
        print(f"{package}: {count:,} lines")
    untested = without_test_file(root, modules)
    print(f"without a test file of their own: {' '.join(untested) or 'none'}")
    figures = [
        *(Figure(f"files_{name}", len(files), "files") for name, files in opened.items()),
        Figure("imports_in_functions", sum(map(imports_in_functions, modules.values())), "imports"),
        Figure("any", sum(map(uses_of_any, modules.values())), "uses"),
        Figure(
            "any_in_stages",
            sum(uses_of_any(text) for path, text in modules.items() if path.parts[0] == "stages"),
            "uses",
        ),
        Figure("long_functions", sum(map(long_functions, modules.values())), "functions"),
        Figure("modules", len([path for path in modules if path.name != "__init__.py"]), "modules"),
        Figure("modules_without_test_file", len(untested), "modules"),
        Figure("largest_package", max(lines.values()), "lines"),
        Figure("mutual_imports", len(mutual_imports(modules)), "pairs"),
    ]
    order = read_order(root / "tests" / "unit" / "test_layering.py")
    if order is not None:
        upward = upward_arrows(modules, order)
        print(f"upward arrows: {' '.join(f'{own}->{target}' for own, target in upward) or 'none'}")
        figures.append(Figure("upward_arrows", len(upward), "imports"))
    report_figures(
        arguments.results, figures, settings={"lines_by_package": lines, "files": opened}, command="make architecture"
    )
    return 0


def trace(root: Path) -> dict[str, list[str]]:
    """Run the checkout and return the files to open for each student and for a translation."""
    opened = {}
    with TemporaryDirectory() as scratch:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]),
            "OMP_NUM_THREADS": "1",
        }
        for name in ("prepare", *STUDENTS, "translate"):
            command = [sys.executable, str(TRACER), name, json.dumps(STUDENTS)]
            run = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
            if run.returncode:
                raise SystemExit(f"{name}: {run.stderr}")
            if name != "prepare":
                opened[name] = json.loads(run.stdout.splitlines()[-1])
    return opened


def imports_in_functions(source: str) -> int:
    """Return the number of import statements inside functions."""
    return len(
        {
            (node.lineno, node.col_offset)
            for function in ast.walk(ast.parse(source))
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
            for node in ast.walk(function)
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
    )


def uses_of_any(source: str) -> int:
    """Return the number of uses of the name `Any`, without its imports."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(source)))


def long_functions(source: str) -> int:
    """Return the number of functions of more than 40 lines, docstrings included."""
    return sum(
        (node.end_lineno or node.lineno) - node.lineno + 1 > LONG_FUNCTION
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )


def lines_by_package(modules: dict[Path, str]) -> dict[str, int]:
    """Return the number of lines of each package.

    Packages are named by at most two parts of their paths. Modules outside of a package count as `kdmt`.
    """
    lines: Counter[str] = Counter()
    for path, source in modules.items():
        lines["/".join(path.parts[:-1][:2]) or "kdmt"] += len(source.splitlines())
    return dict(lines)


def without_test_file(root: Path, modules: dict[Path, str]) -> list[str]:
    """Return the modules that have no `tests/unit/<package>/test_<module>.py`."""
    missing = []
    for path in modules:
        is_plugin = "fairseq_plugin" in path.parts  # a program for Python 3.8, tested as a whole
        if path.name in ("__init__.py", "__main__.py") or is_plugin:
            continue
        if not (root / "tests" / "unit" / path.parent / f"test_{path.name}").exists():
            missing.append(str(path))
    return missing


def mutual_imports(modules: dict[Path, str]) -> list[tuple[str, str]]:
    """Return the pairs of modules that import each other, imports inside functions and for types included."""
    names = {module_name(path) for path in modules}
    edges = {(module_name(path), target) for path, source in modules.items() for target in imported(source, names)}
    return sorted((one, other) for one, other in edges if one < other and (other, one) in edges)


def read_order(path: Path) -> tuple[str, ...] | None:
    """Return the order of the packages, from the top down, that a file assigns to `ORDER`; None without such a line."""
    if not path.is_file():
        return None
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER":
            return tuple(eval(compile(ast.Expression(node.value), str(path), "eval"), {"__builtins__": {}}))
    return None


def upward_arrows(modules: dict[Path, str], order: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the imports that lead to a package above that of the module, as (module, imported module).

    Imports inside functions and for types count. Modules that are not in the order are left out.
    """
    names = {module_name(path) for path in modules}
    arrows = sorted(
        {(module_name(path), target) for path, source in modules.items() for target in imported(source, names)}
    )
    found = []
    for own, target in arrows:
        own_index, target_index = package_index(own, order), package_index(target, order)
        if own_index is not None and target_index is not None and target_index < own_index:
            found.append((own, target))
    return found


def package_index(module: str, order: tuple[str, ...]) -> int | None:
    """Return the index in the order of a module's package, None if it has none or is not part of kdmt."""
    package, *parts = module.split(".")
    if package != "kdmt":
        return None
    names = (".".join(parts[:2]), parts[0] if parts else "")
    return next((order.index(name) for name in names if name in order), None)


def module_name(path: Path) -> str:
    return ".".join(part for part in ("kdmt", *path.with_suffix("").parts) if part != "__init__")


def imported(source: str, names: set[str]) -> Iterator[str]:
    """Yield the modules of kdmt that a source file imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in names else node.module


if __name__ == "__main__":
    sys.exit(main())
