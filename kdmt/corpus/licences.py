"""Licences and citations of the corpora of a pipeline, from its lock file."""

from __future__ import annotations

import re

from kdmt.config import Prepare, Provenance
from kdmt.corpus.given_text import texts_by_path

_ENTRY = re.compile(r"^(@\w+\s*\{\s*([^,\s]+).*?)(?=^@|\Z)", re.MULTILINE | re.DOTALL)  # of BibTeX, and its key


def licences_of(settings: Prepare, provenance: Provenance) -> dict[str | None, list[str]]:
    """Return the texts of a pipeline by their licence; None is the key of texts without a known licence, the last."""
    found: dict[str | None, list[str]] = {}
    for path in texts_by_path(settings):
        dataset = provenance.datasets.get(path)
        licence = None if dataset is None else dataset.licence
        found.setdefault(licence, []).append(provenance.describe(path))
    without = found.pop(None, [])
    return dict(sorted(found.items(), key=lambda each: str(each[0]))) | ({None: without} if without else {})


def describe_licences(licences: dict[str | None, list[str]]) -> list[str]:
    """Return a line for each licence, with its texts."""
    return [
        f"{'no licence known' if licence is None else f'licence {licence}'}: {', '.join(texts)}"
        for licence, texts in licences.items()
    ]


def bibtex(provenance: Provenance) -> str:
    """Return the publications to cite for the data sets of a pipeline as BibTeX, each once.

    A comment before an entry names the data sets that it is for; the last comments name those without an entry.
    """
    entries: dict[str, str] = {}  # key -> text
    names: dict[str, list[str]] = {}  # key -> data sets
    without = []
    datasets = {dataset.name: dataset for dataset in provenance.datasets.values()}
    for name, dataset in sorted(datasets.items()):
        found = _ENTRY.findall(dataset.citation or "")
        for text, key in found:
            entries.setdefault(key, text.strip().expandtabs(2))
            names.setdefault(key, []).append(name)
        if not found:
            without.append(f"% {name}: no citation known\n")
    shown = [f"% {', '.join(names[key])}\n{text}\n" for key, text in entries.items()]
    return "\n".join([*shown, *(["".join(without)] if without else [])])
