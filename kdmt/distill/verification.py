"""Checks of a finished training set: its text follows from its candidates, and blocks can be reproduced."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from kdmt.checksum import file_sha256
from kdmt.distill.blocks import read_block
from kdmt.distill.decoding import BlockDecoder, BlockTask
from kdmt.distill.training_text import CHOICES, NBEST, Targets, TrainingTextWriter
from kdmt.errors import UserError
from kdmt.workers.tasks import Executor

SCRATCH = ".verify-"  # prefix of the names of temporary folders


def choose_blocks(tasks: Sequence[BlockTask], count: int, seed: int) -> list[BlockTask]:
    """Return `count` tasks, drawn at random without replacement."""
    chosen = np.random.default_rng(seed).permutation(len(tasks))[:count]
    return [tasks[number] for number in sorted(chosen.tolist())]


def decode_again(
    blocks: Path, decoder: BlockDecoder, tasks: Sequence[BlockTask], executor: Executor, say: Callable[[str], None]
) -> None:
    """Decode blocks again and compare them with the existing ones.

    Args:
        blocks: folder of the existing blocks.
        decoder: decoder that writes to another folder.
        say: function that prints a line for the user.

    Raises:
        UserError: if a block cannot be decoded, or is different.
    """
    failed = executor.run(decoder, tasks, lambda _: None)
    if failed:
        raise UserError(f"{blocks.parent.name}: block {failed[0].task.number}: {failed[0].error}")
    for task in tasks:
        old, new = task.block.path(blocks), task.block.path(decoder.folder)
        if old.read_bytes() != new.read_bytes():
            _explain(task, blocks, decoder, say)


def _explain(task: BlockTask, blocks: Path, decoder: BlockDecoder, say: Callable[[str], None]) -> None:
    """Report why the bytes differ: other translations, or the same ones with another processor or other libraries.

    Raises:
        UserError: unless the translations are equal and the block was made with other libraries, processor or threads.
    """
    (old_header, old), (new_header, new) = (
        read_block(folder, task.block, made_from=decoder.made_from, hashes_N=task.hashes_N)
        for folder in (blocks, decoder.folder)
    )
    path, before, now = task.block.path(blocks), old_header["made_with"], new_header["made_with"]
    if old.hypotheses() != new.hypotheses():
        origin = "" if before == now else f"; it was made with {before}, now {now}"
        raise UserError(f"{path}: decoded again, it holds other translations{origin}")
    if before != now:
        say(f"{path}: the same translations; other bytes, since it was made with {before}, now {now}")
        return
    same = np.array_equal(old.scores_H, new.scores_H)
    raise UserError(
        f"{path}: decoded again, it {'is another file with the same content' if same else 'has other scores'}"
    )


def verify_text(writer: TrainingTextWriter, targets: Targets, recorded: Container[str]) -> None:
    """Check that the text of a training set follows from its candidates.

    Args:
        recorded: names of the files in the manifest.

    Raises:
        UserError: if a file does not; the message names it.
    """
    folder, candidates = writer.folder, targets.candidates / NBEST
    with TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:
        writer.merge(targets, Path(scratch))
        for name in writer.names:
            if name == CHOICES and name not in recorded:  # made by a version without this record
                continue
            old, new = folder / name, Path(scratch) / name
            if old.exists() != new.exists() or (old.exists() and file_sha256(old) != file_sha256(new)):
                raise UserError(f"{old}: does not follow from {candidates}")
    writer.say(f"{folder.name}: its text follows from {candidates}")
