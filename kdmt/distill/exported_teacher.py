"""The teacher in CTranslate2's format, with a shortlist of target words if the settings have one."""

from __future__ import annotations

from pathlib import Path

from kdmt.config import Shortlist
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.distill.shortlist import build_shortlist
from kdmt.interop.ctranslate2_export import export_checkpoint
from kdmt.interop.ctranslate2_folder import SHORTLIST_FILE, add_shortlist


def export_teacher(checkpoint: Path, folder: Path, *, shortlist: Shortlist | None, corpus: PreparedCorpus) -> None:
    """Write the missing files of the folder.

    Args:
        shortlist: settings for the choice of target words for each source word; None for all words.
        corpus: corpus whose training text the shortlist is learnt from, since the teacher's translations do not exist
            yet.
    """
    if not folder.exists():
        export_checkpoint(checkpoint, folder)
    if shortlist is not None and not (folder / SHORTLIST_FILE).exists():
        _write_shortlist(folder, shortlist, corpus)


def _write_shortlist(folder: Path, settings: Shortlist, corpus: PreparedCorpus) -> None:
    sources, targets = (IndexedDataset(corpus.prefix("train", lang)) for lang in corpus.direction.sides)
    made = build_shortlist(
        sources,
        targets,
        per_token=settings.per_token,
        frequent=settings.frequent,
        max_pairs=settings.pairs or len(sources),
    )
    add_shortlist(folder, made.frequent.tolist(), {token: ids.tolist() for token, ids in made.of_token.items()})
