"""Tests of `kdmt import-marian`."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmt.commands.import_marian import import_marian
from kdmt.errors import UserError
from kdmt.models.checkpoint import load_model

GOLDEN = Path(__file__).parents[2] / "golden" / "marian"


def test_the_command_writes_a_checkpoint_and_prints_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    import_marian(GOLDEN / "ssru.npz", out, source_lang="en", target_lang="de", vocab=[GOLDEN / "vocab.spm"])
    assert capsys.readouterr().out == f"{out}\n"
    assert load_model(out).config.decoder == "ssru"


def test_three_vocabularies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--vocab: given 3 times"):
        import_marian(GOLDEN / "ssru.npz", tmp_path / "out", vocab=[GOLDEN / "vocab.spm"] * 3)
