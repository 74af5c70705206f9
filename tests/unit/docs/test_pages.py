"""Tests of pages of documentation, README.md and CONTRIBUTING.md: navigation, links, anchors, layout, local paths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
MKDOCS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
GENERATED = {  # files of the site, and pages whose anchors exist only in the site
    DOCS / "reference" / "pipeline.schema.json",
    DOCS / "reference" / "settings.md",
    DOCS / "reference" / "commands.md",
    DOCS / "reference" / "python.md",
}
MAX_CODE_COLUMNS = 80  # longer lines are cut off in a window of 1280 pixels
LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def navigation(entries: list | dict | str) -> Iterator[str]:
    """Yield the pages of the navigation."""
    if isinstance(entries, str):
        yield entries
        return
    for entry in entries if isinstance(entries, list) else entries.values():
        yield from navigation(entry)


def prose(path: Path) -> str:
    """Return the text of a page without code."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ {4,}\S.*$", "", text, flags=re.MULTILINE))


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the anchors of a page that the site and a repository's host both make of its headings."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        words = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        of_host, of_site = re.sub(r"\s", "-", words), re.sub(r"[-\s]+", "-", words)
        if of_host == of_site:
            found.add(of_site)
    return frozenset(found)


def test_navigation_names_every_page_once():
    named = sorted(navigation(MKDOCS["nav"]))
    assert named == [str(page.relative_to(DOCS)) for page in PAGES]


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_relative_links_and_their_anchors_exist(path):
    wrong = []
    for match in LINK.finditer(prose(path)):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() and target not in GENERATED:
            wrong.append(f"{link}: no such file")
        elif target.suffix == ".md" and anchor and target not in GENERATED and anchor not in anchors(target):
            wrong.append(f"{link}: no such heading")
    assert not wrong


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_pages_have_no_local_paths(path):
    found = re.findall(r"(?<![\w.:/])/(?:work|root|home|tmp|Users)/\S*", path.read_text(encoding="utf-8"))
    assert not found


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_pages_have_one_title_and_no_skipped_level(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    levels = [len(marks) for marks in re.findall(r"^(#{1,6}) ", text, re.MULTILINE)]
    assert levels[:1] == [1]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_code_fits_the_width_of_the_page(path):
    blocks = re.findall(r"^```.*?\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    long = [line for block in blocks for line in block.splitlines() if len(line) > MAX_CODE_COLUMNS]
    assert not long


def test_site_is_strict_and_loads_no_external_files():
    assert MKDOCS["strict"] is True
    assert MKDOCS["theme"]["font"] is False
    assert not {"repo_url", "extra_javascript"} & MKDOCS.keys()
    assert all((DOCS / style).is_file() for style in MKDOCS["extra_css"])
