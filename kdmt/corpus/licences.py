"""Licences and citations of the corpora of a pipeline, from its lock file."""

from __future__ import annotations

from kdmt.config import Prepare, Provenance
from kdmt.corpus.given_text import texts_by_path


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
    """Return the citations of the data sets of a pipeline as BibTeX, each once; comments name those without one."""
    datasets = {dataset.name: dataset for dataset in provenance.datasets.values()}
    used: dict[str, list[str]] = {}
    for name, dataset in sorted(datasets.items()):
        used.setdefault((dataset.citation or "").strip().expandtabs(2), []).append(name)
    without = [f"% {name}: no citation known" for name in used.pop("", [])]
    entries = ["\n".join([*(f"% {name}" for name in names), citation]) for citation, names in used.items()]
    return "".join(f"{part}\n" for part in ("\n\n".join(entries), "\n".join(without)) if part)
