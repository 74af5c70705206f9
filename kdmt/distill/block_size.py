"""Number of sentences in a block if the settings do not give it: a choice that is made once for each folder.

A GPU wants large blocks, since the batches of a block have sentences of this block only; workers on CPUs want small
ones. The size is chosen when work on a folder begins. A size other than that of CPUs is recorded in the folder, so that
any other machine continues with the same blocks. The plan of the stage always has the size of CPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from kdmt.distill.blocks import BLOCKS, DamagedBlock, read_header
from kdmt.errors import UserError
from kdmt.files import check_keys, read_optional_json, write_json

ON_CPUS, ON_GPUS = 1000, 10_000
RECORD = "block-size.json"  # in the folder of the stage
_KEY = "block_size"


def block_size_of(folder: Path, wanted: int | None) -> int:
    """Return the size of the blocks of a folder in which work has begun.

    Args:
        wanted: value of `distill.block_size`, for a folder without a record; None for the size of CPUs.

    Raises:
        UserError: if the record is damaged.
    """
    path = folder / RECORD
    record = read_optional_json(path)
    if record is None:
        return wanted or ON_CPUS
    check_keys(record, {_KEY: int}, f"{path}: not the record of a block size")
    if record[_KEY] < 1:
        raise UserError(f"{path}: not the record of a block size: {_KEY!r} is {record[_KEY]}")
    return int(record[_KEY])


def choose_block_size(folder: Path, earlier: Iterable[Path], made_from: Mapping[str, object], *, on_gpus: bool) -> None:
    """Choose the size of the blocks of a folder in which work begins, and record it.

    If an earlier state has blocks of the same teacher and settings, its size is kept, so that the blocks can be kept.

    Args:
        earlier: earlier states of the folder.
        made_from: values that blocks depend on besides their sources.
    """
    size = ON_GPUS if on_gpus else ON_CPUS
    size = next((kept for state in earlier if (kept := _kept_size(state, made_from)) is not None), size)
    if size != ON_CPUS:
        record_block_size(folder, size)


def record_block_size(folder: Path, size: int) -> None:
    """Record the size of the blocks of a folder in which work begins."""
    write_json(folder / RECORD, {_KEY: size})


def _kept_size(state: Path, made_from: Mapping[str, object]) -> int | None:
    """Return the size of the blocks of an earlier state; None if the settings gave it or it does not matter."""
    first = next(iter(sorted((state / BLOCKS).glob("*.gz"))), None)
    if first is None:
        return None
    try:
        header, size = read_header(first), block_size_of(state, None)
    except (DamagedBlock, UserError):
        return None
    is_whole = header["first"] == header["block"] * size and header["count"] == size
    return size if is_whole and header["made_from"] == dict(made_from) else None
