"""Tests of `kdmt import-checkpoint`: its options set the text processing of the new folders, which it prints.

The conversion of the weights is tested in tests/unit/interop/fairseq/test_checkpoints.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input import message_of
from tiny_pipeline import hash_tree, kdmt

from kdmt.commands.import_checkpoint import import_checkpoint
from kdmt.corpus.codec import load_text_processor

GOLDEN = Path(__file__).parents[2] / "golden" / "fairseq"
CHECKPOINT, DATA = GOLDEN / "post_norm_shared.pt", GOLDEN / "joined"


def test_the_folders_are_printed(tmp_path: Path) -> None:
    one = kdmt("import-checkpoint", CHECKPOINT, tmp_path / "one", "--data", DATA)
    assert (one.code, one.out) == (0, f"{tmp_path / 'one'}\n")
    two = kdmt("import-checkpoint", f"{CHECKPOINT}:{CHECKPOINT}", tmp_path / "two", "--data", DATA)
    assert (two.code, two.out) == (0, f"{tmp_path / 'two' / '0'}\n{tmp_path / 'two' / '1'}\n")
    assert hash_tree(tmp_path / "two" / "0") == hash_tree(tmp_path / "two" / "1") == hash_tree(tmp_path / "one")


@pytest.mark.parametrize("moses", [False, True])
def test_text_settings_are_saved_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], moses: bool) -> None:
    import_checkpoint(str(CHECKPOINT), tmp_path / "out", data=DATA, moses=moses, lowercase=True)
    text = load_text_processor(tmp_path / "out" / "text.json")
    assert text.preprocess_source("Ja, Nein") == ("ja , nein" if moses else "ja, nein")
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"


def test_a_failed_import_leaves_no_files(tmp_path: Path) -> None:
    assert "nowhere.pt" in message_of(
        kdmt("import-checkpoint", tmp_path / "nowhere.pt", tmp_path / "out", "--data", DATA)
    )
    assert not (tmp_path / "out").exists()
