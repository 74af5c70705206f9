"""The language of docstrings and comments: the rules of docs/explanation/design.md that a program can check."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdmt

PACKAGE = Path(kdmt.__file__).parent
THIS = Path(__file__).resolve()
ROOT = THIS.parents[2]
# words that the documentation of other libraries would not use, or not in this sense
UNUSED = re.compile(
    r"\b(so many|what is there|of no account|beside|anew|lest|heard|told|the like|by way of|at hand|"
    r"writes? all positions|in sight|crew|foreman|ledger|stands (?:for|on|in|at|before|behind))\b",
    re.IGNORECASE,
)
# a function does something, so its docstring does not begin with one of these; a property may
NO_VERBS = (
    *("The", "A", "An", "What", "Which", "Where", "Whose", "How", "Of"),
    *("All", "Each", "Every", "Those", "One", "As"),
)


def modules() -> Iterator[tuple[str, str]]:
    for folder in (PACKAGE, *(ROOT / name for name in ("tests", "benchmarks", "data", "docs"))):
        for path in sorted(folder.rglob("*.py")):
            if path != THIS:
                yield path.relative_to(folder.parent).as_posix(), path.read_text(encoding="utf-8")


def docstrings(source: str) -> Iterator[tuple[int, str, bool]]:
    """Yield the line of each definition, its docstring, and whether it is a function, no property or test."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if text := ast.get_docstring(node):
            # the docstring of a test is a sentence about what is tested
            is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not (
                node.name.startswith("test_") or any("property" in ast.unparse(each) for each in node.decorator_list)
            )
            yield getattr(node, "lineno", 1), text, is_function


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line of each comment and the comment; nothing if no word of the source is in `UNUSED`."""
    if not UNUSED.search(source):  # which is faster than to find the comments
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def problems(source: str) -> list[str]:
    """Return what is wrong with the docstrings and comments of a module, each with its line."""
    found = []
    for line, text, is_function in docstrings(source):
        first = text.split()[0].strip(".,:;`")
        if is_function and first in NO_VERBS:
            found.append(f"line {line}: a docstring of a function begins with {first!r}")
        found += [f"line {line}: {word!r}" for word in UNUSED.findall(text)]
    found += [f"line {line}: {word!r}" for line, text in comments(source) for word in UNUSED.findall(text)]
    return found


def test_docstrings_and_comments_are_plain() -> None:
    assert {name: found for name, source in modules() if (found := problems(source))} == {}


@pytest.mark.parametrize(
    "source",
    [
        'def f():\n    """Of a file, in hexadecimal."""',
        'def f():\n    """What a teacher expects."""',
        'class A:\n    """Files beside the model."""',
        '"""So many lines."""',
        "x = 1  # made anew",
    ],
)
def test_a_sentence_that_is_not_plain_is_found(source: str) -> None:
    assert len(problems(source)) == 1


def test_plain_sentences_and_properties_are_accepted() -> None:
    source = 'class A:\n    @property\n    def n(self):\n        """The number of tokens."""\n'
    source += 'def f():\n    """Return the SHA-256 of a file."""  # read in chunks\n'
    assert problems(source) == []
