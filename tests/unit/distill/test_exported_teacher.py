"""Tests of the teacher's export to CTranslate2: missing files are written, existing files are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmt.config import Shortlist
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.distill.exported_teacher import export_teacher
from kdmt.interop.ctranslate2_folder import SHORTLIST_FILE
from kdmt.languages import Direction
from kdmt.models.checkpoint_folder import resolve_checkpoint

CORPUS = PreparedCorpus(Path("runs/tiny/prepare"), Direction("en", "de"), (True, True))
SHORTLIST = Shortlist(per_token=2, frequent=5)


@pytest.mark.usefixtures("finished")
def test_shortlist_is_added_to_an_existing_export() -> None:
    checkpoint, folder = resolve_checkpoint(Path("runs/tiny/teacher")), Path("engine")
    export_teacher(checkpoint, folder, shortlist=None, corpus=CORPUS)
    assert not (folder / SHORTLIST_FILE).exists()
    weights = (folder / "model.bin").stat().st_mtime_ns
    export_teacher(checkpoint, folder, shortlist=SHORTLIST, corpus=CORPUS)
    assert (folder / SHORTLIST_FILE).stat().st_size
    assert (folder / "model.bin").stat().st_mtime_ns == weights
    learnt = (folder / SHORTLIST_FILE).read_bytes()
    export_teacher(checkpoint, folder, shortlist=SHORTLIST, corpus=CORPUS)
    assert (folder / SHORTLIST_FILE).read_bytes() == learnt
    CTranslate2Engine(folder, device="cpu", compute_type="float32", threads=1, shortlist=True)  # loads the shortlist
