"""MkDocs hooks: the parts of the documentation that are generated from the code while the site is built.

`reference/settings.md` and `reference/commands.md` are written by hand up to a marker, `<!-- generated: settings -->`
and `<!-- generated: commands -->`. The hook replaces the marker by the generated text. The JSON schema of pipeline
files is added to the site as the file `reference/pipeline.schema.json`.

An image with a version for dark mode is a `<picture>` element, which repository hosts support. The theme of the site
has a switch for dark mode and needs an image for each mode instead.

Pages link to files of the repository, for example `../pipelines/toy.yaml`. These links work in the repository. The site
does not contain the files, so the hook replaces such a link by the path as text.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from unittest.mock import patch

import typer

from kdmt.cli import app
from kdmt.config.reference import json_schema, settings_markdown
from kdmt.interop.fairseq.flags import generate_help

if TYPE_CHECKING:  # the tests read this file without MkDocs
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

SCHEMA_FILE = "reference/pipeline.schema.json"
HELP_WIDTH = 80

_MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_PICTURE = re.compile(
    r"<picture>\s*"
    r'<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img alt="(?P<text>[^"]+)" src="(?P<light>[^"]+)">\s*'
    r"</picture>"
)
_LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(([^()\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the JSON schema of pipeline files to the site."""
    from mkdocs.structure.files import File

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    files.append(File.generated(config, SCHEMA_FILE, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Fill in the generated parts of a page, and adapt its pictures and its links to files outside of docs/."""
    return replace_repository_links(replace_pictures(fill_in(markdown)), page.file.src_uri)


def fill_in(markdown: str) -> str:
    """Replace the markers of a page by the text that is generated from the code."""
    return _MARKER.sub(lambda match: GENERATED[match[1]](), markdown)


def replace_repository_links(markdown: str, page_path: str) -> str:
    """Turn links to files of the repository that are not pages of the site into text that names the path.

    Args:
        markdown: the text of a page.
        page_path: the page's path below docs/, as `tutorials/from-fairseq.md`.
    """

    def replace(match: re.Match[str]) -> str:
        text, target = match[1], match[2].partition("#")[0]
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page_path), target))
        if "://" in target or not target.startswith("..") or path.startswith("docs/"):
            return match[0]
        name = posixpath.basename(path)
        return text if name in text else f"{text} (`{path}`)"

    return _LINK.sub(replace, markdown)


def replace_pictures(markdown: str) -> str:
    """Turn `<picture>` elements with a version for dark mode into one image for each mode of the theme."""
    return _PICTURE.sub(r"![\g<text>](\g<light>#only-light) ![\g<text>](\g<dark>#only-dark)", markdown)


def commands_reference() -> str:
    """Return the `--help` text of every command as Markdown, one section per command."""
    return "\n\n".join(f"## kdmt {name}\n\n```text\n{text}\n```" for name, text in help_texts())


def help_texts() -> Iterator[tuple[str, str]]:
    """Yield the name and the `--help` text of every command, in the order of `kdmt --help`."""
    group = typer.main.get_command(app)
    root = group.make_context("kdmt", [], resilient_parsing=True)
    for name in group.list_commands(root):  # type: ignore[attr-defined]
        if name == "generate":  # its flags are parsed by argparse
            with patch.dict(os.environ, COLUMNS=str(HELP_WIDTH)):  # width for argparse
                yield name, generate_help()
            continue
        command = group.get_command(root, name)  # type: ignore[attr-defined]
        context = command.make_context(
            f"kdmt {name}", [], resilient_parsing=True, terminal_width=HELP_WIDTH, max_content_width=HELP_WIDTH
        )
        yield name, command.get_help(context).strip()


GENERATED = {"settings": settings_markdown, "commands": commands_reference}
