"""Tests of `kdmt distill --verify`: every change of a block, a text or a manifest is found."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input import message_of
from distilled_pipeline import (
    MADE,
    distill,
    manifest,
    verified,
    watch_decoding,
)
from tiny_pipeline import (
    read_lines,
)

from kdmt.checksum import file_sha256
from kdmt.decode.engines.pytorch import TorchEngine

BLOCKS = [MADE / f"blocks/00000{number}.gz" for number in range(3)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of sentences of each call of the engine."""
    return watch_decoding(monkeypatch)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.usefixtures("finished")
def test_unchanged_training_set_passes(decoded: list[int]) -> None:
    result = verified("--verify-blocks", "2", "--verify-seed", "3")
    assert result.code == 0
    first, second = sorted(np.random.default_rng(3).permutation(3)[:2].tolist())
    assert result.err.splitlines() == [
        "distill: 3 blocks are whole, and nbest follows from them",
        f"distill: decoded again, the same: blocks {first}, {second} (--verify-seed 3)",
        f"distill: its text follows from {MADE}/nbest",
    ]
    assert len(decoded) == 2
    assert verified("--verify-blocks", "0").code == 0
    assert len(decoded) == 2
    assert verified("--verify-blocks", "99").code == 0
    assert len(decoded) == 5


@pytest.mark.usefixtures("finished")
def test_all_training_sets_are_verified() -> None:
    sets = ("students.sampled={data: sampled}", "students.near={data: mbr}", "distill.decode.nbest=2")
    assert distill(sets=sets).code == 0
    result = verified(sets=sets)
    assert result.code == 0, result.err
    for name in ("distill", "sampled", "mbr"):
        assert f"{name}: its text follows from " in result.err


@pytest.mark.usefixtures("finished")
def test_training_set_that_is_not_up_to_date_is_refused() -> None:
    message = message_of(verified(sets=("distill.decode.beam=1",)))
    assert message == "distill is not up to date: the setting distill.decode.beam changed from 2 to 1"
    shutil.rmtree(MADE)
    assert message_of(verified()) == "distill is not up to date: it was never made"


@pytest.mark.usefixtures("finished")
def test_a_flipped_bit_in_a_block() -> None:
    flip_a_bit(BLOCKS[1])
    assert message_of(verified()).startswith(f"{BLOCKS[1]}: damaged")


@pytest.mark.usefixtures("finished")
def test_flipped_bit_in_gzip_time_is_found() -> None:
    """The time in gzip's header does not affect the content, but the file differs from the one that was written."""
    data = bytearray(BLOCKS[1].read_bytes())
    data[5] ^= 1
    BLOCKS[1].write_bytes(data)
    message = message_of(verified("--verify-blocks", "3"))
    assert message == f"{BLOCKS[1]}: decoded again, it is another file with the same content"


@pytest.mark.usefixtures("finished")
def test_block_under_the_name_of_another() -> None:
    shutil.copy(BLOCKS[1], BLOCKS[0])
    assert message_of(verified()) == f"{BLOCKS[0]}: holds sentences 30 to 59, not 0 to 29"
    BLOCKS[0].unlink()
    assert message_of(verified()) == f"{BLOCKS[0]}: the block is missing"


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("name", ["distilled.de", "distilled.en", "nbest", "data-bin/train.en-de.de.bin"])
def test_an_edited_file(name: str) -> None:
    path = MADE / name
    flip_a_bit(path)
    assert message_of(verified()) == f"distill is not up to date: its output {name} was changed"


@pytest.mark.usefixtures("finished")
def test_edited_file_with_the_same_size_and_time() -> None:
    """The size and time are unchanged, and checksums are cached by size and time."""
    path = MADE / "distilled.de"
    assert distill().code == 0  # caches the file's checksum
    stat = path.stat()
    flip_a_bit(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert message_of(verified()) == f"{path}: not the file that was made: its sha256 differs"


def edit_with_record(name: str, old: str, new: str) -> None:
    """Edit a file and its checksum in the manifest, to hide the change."""
    path, record = MADE / name, manifest()
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    record["outputs"][name] = file_sha256(path)
    (MADE / "manifest.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.usefixtures("finished")
def test_text_edited_together_with_the_manifest() -> None:
    line = read_lines(MADE / "distilled.de")[4]
    edit_with_record("distilled.de", f"{line}\n", f"{line} ok\n")
    assert message_of(verified()) == f"{MADE}/distilled.de: does not follow from {MADE}/nbest"


@pytest.mark.usefixtures("finished")
def test_nbest_edited_together_with_the_manifest() -> None:
    row = read_lines(MADE / "nbest")[4]
    edit_with_record("nbest", f"{row}\n", f"{row} ok\n")
    assert message_of(verified()) == f"{MADE}/nbest: does not follow from the blocks"


@pytest.mark.usefixtures("finished")
def test_translations_that_differ_from_the_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are consistent; the change is found only by decoding again."""
    decode = TorchEngine.decode

    def wrong(engine: TorchEngine, sources: Any, *rest: Any, **more: Any) -> Any:
        return decode(engine, sources, *rest, **more)[::-1]

    shutil.rmtree(MADE)
    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "decode", wrong)
        assert distill().code == 0
    message = message_of(verified("--verify-blocks", "3"))
    assert message == f"{BLOCKS[0]}: decoded again, it holds other translations"
