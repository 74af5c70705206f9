"""The size of blocks that is chosen when work begins: for CPUs, for GPUs, and that of earlier blocks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kdmt.distill.block_size import ON_CPUS, ON_GPUS, RECORD, block_size_of, choose_block_size
from kdmt.distill.blocks import BLOCKS, Block, Decoded, write_block
from kdmt.errors import UserError

TEACHER: dict[str, object] = {"teacher": "one"}


def write_earlier(state: Path, size: int, *, number: int = 0, count: int | None = None) -> Path:
    """Write one block of blocks with `size` sentences, which have no hypotheses, and the record of the size."""
    count = count or size
    decoded = Decoded.of(
        [[] for _ in range(count)],
        hashes_N=np.arange(count, dtype=np.uint64),
        max_len_N=[1] * count,
        vocab_size=10,
    )
    (state / BLOCKS).mkdir(parents=True)
    write_block(state / BLOCKS, Block(number, number * size, count), decoded, made_from=TEACHER, made_with={})
    if size == ON_GPUS:
        (state / RECORD).write_text(json.dumps({"block_size": size}))
    return state


@pytest.mark.parametrize(("on_gpus", "expected"), [(False, 1000), (True, 10_000)])
def test_the_size_is_that_of_the_device_on_which_work_begins(tmp_path: Path, on_gpus: bool, expected: int) -> None:
    choose_block_size(tmp_path, [], TEACHER, on_gpus=on_gpus)
    assert block_size_of(tmp_path, None) == expected
    assert (tmp_path / RECORD).exists() == on_gpus  # folders of CPUs have the files that they have always had


def test_a_folder_without_a_record_has_the_size_of_the_settings(tmp_path: Path) -> None:
    assert block_size_of(tmp_path, 77) == 77
    assert block_size_of(tmp_path, None) == 1000


@pytest.mark.parametrize("on_gpus", [False, True])
@pytest.mark.parametrize("size", [ON_CPUS, ON_GPUS])
def test_the_size_of_earlier_blocks_is_kept(tmp_path: Path, size: int, on_gpus: bool) -> None:
    earlier = [tmp_path / "empty", write_earlier(tmp_path / "earlier", size, number=1)]
    choose_block_size(tmp_path, earlier, TEACHER, on_gpus=on_gpus)
    assert block_size_of(tmp_path, None) == size


def test_earlier_blocks_that_cannot_be_kept_do_not_decide(tmp_path: Path) -> None:
    damaged = write_earlier(tmp_path / "damaged", ON_CPUS)
    (damaged / BLOCKS / "000000.gz").write_bytes(b"no block")
    of_other_sizes = [
        write_earlier(tmp_path / "of the settings", 300),
        write_earlier(tmp_path / "only one", ON_CPUS, count=80),  # the same block in both sizes
    ]
    choose_block_size(tmp_path, [damaged, *of_other_sizes], TEACHER, on_gpus=True)
    assert block_size_of(tmp_path, None) == 10_000
    (tmp_path / RECORD).unlink()
    another = write_earlier(tmp_path / "another", ON_CPUS)
    choose_block_size(tmp_path, [another], {"teacher": "two"}, on_gpus=True)
    assert block_size_of(tmp_path, None) == 10_000


@pytest.mark.parametrize("text", ["{}", '{"block_size": 0}', '{"block_size": "1"}', "[]", "{"])
def test_a_damaged_record_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(UserError, match=RECORD):
        block_size_of(tmp_path, None)
