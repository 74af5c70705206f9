"""Tests of docs/hooks.py, which generates parts of the documentation."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import typer

from kdmt.cli import app
from kdmt.config import WordKD

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def hooks():
    """Return docs/hooks.py as a module, loaded as by MkDocs."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_commands_page_has_the_help_text_of_every_command(hooks):
    text = hooks.fill_in((ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8"))
    for name in typer.main.get_command(app).commands:
        assert text.count(f"\n## kdmt {name}\n") == 1
        assert f"\nUsage: kdmt {name} " in text or f"\nusage: kdmt {name} " in text
    assert max(map(len, text.splitlines())) <= 120
    assert "<!-- generated" not in text


def test_settings_page_has_a_row_for_every_setting_of_a_section(hooks):
    text = hooks.fill_in((ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8"))
    section = text.partition("\n### `students.NAME.word_kd`")[2].partition("\n## ")[0].partition("\n### ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(WordKD.model_fields)
    assert "<!-- generated" not in text


def test_help_texts_do_not_depend_on_the_terminal(hooks, monkeypatch):
    texts = list(hooks.help_texts())
    monkeypatch.setenv("COLUMNS", "40")
    assert list(hooks.help_texts()) == texts


def test_text_without_markers_is_not_changed(hooks):
    text = "# Title\n\nA line with `<!-- generated: commands -->` in it.\n"
    assert hooks.fill_in(text) == text


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[`pipelines/toy.yaml`](../../pipelines/toy.yaml)", "`pipelines/toy.yaml`"),
        ("[all figures](../../benchmarks/results/kd.json)", "all figures (`benchmarks/results/kd.json`)"),
        ("[how to score](../how-to/score.md#significance)", "[how to score](../how-to/score.md#significance)"),
        ("[design](design.md)", "[design](design.md)"),
        ("[a server](https://example.org/../x)", "[a server](https://example.org/../x)"),
        ("![picture](../images/x.svg)", "![picture](../images/x.svg)"),
    ],
)
def test_links_to_files_of_the_repository_become_text(hooks, link, shown):
    assert hooks.replace_repository_links(f"See {link}.", "explanation/distillation.md") == f"See {shown}."


def test_pictures_become_an_image_for_each_mode(hooks):
    picture = (
        '<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="images/a-dark.svg">\n'
        '  <img alt="BLEU" src="images/a-light.svg">\n</picture>'
    )
    images = "![BLEU](images/a-light.svg#only-light) ![BLEU](images/a-dark.svg#only-dark)"
    assert hooks.replace_pictures(f"Before.\n\n{picture}\n\nAfter.\n") == f"Before.\n\n{images}\n\nAfter.\n"


def test_every_picture_of_the_pages_is_replaced(hooks):
    for path in (ROOT / "docs").rglob("*.md"):
        assert "<picture" not in hooks.replace_pictures(path.read_text(encoding="utf-8")), path
