"""`kdmt distill --verify`: is what lies there what was made, and would it be made so again?"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from kdmt.checksum import file_sha256
from kdmt.errors import UserError
from kdmt.files import read_optional_json
from kdmt.flow.manifest import output_path
from kdmt.flow.stage import Stage
from kdmt.stages.targets import NBEST, TrainingSet, merge_text, text_names
from kdmt.stages.workspace import Workspace
from kdmt.workers.open import open_executor

if TYPE_CHECKING:
    from kdmt.distill.decoding import BlockDecoder, BlockTask
    from kdmt.stages.distill import Decoding


def verify_stage(stage: Stage, *, blocks: int, seed: int | None) -> None:
    """Check one training set.

    Args:
        blocks: so many, drawn at random, are decoded again, where it was decoded.
        seed: of the draw; None for a new one.

    Raises:
        UserError: it is not complete, or naming what is not as it was made.
    """
    assert stage.verify is not None
    status = stage.status()
    if status.state != "fresh":
        raise UserError(f"{stage.name} is not up to date: {status.explain()}")
    _check_outputs(stage.folder)
    stage.verify(blocks, seed)


def _check_outputs(folder: Path) -> None:
    """Every file that the manifest lists, read anew."""
    manifest = read_optional_json(folder / "manifest.json")
    assert manifest is not None
    for name, sha256 in manifest["outputs"].items():
        path = output_path(folder, name)
        if file_sha256(path) != sha256:
            raise UserError(f"{path}: not the file that was made: its sha256 differs")


def verify_decoding(work: Decoding, blocks: int, seed: int | None) -> None:
    """Whether all blocks are whole, what follows from them is there, and some of them come out the same again."""
    workspace, plan, sources = work.workspace, work.plan(), work.sources()
    tasks = work.tasks(sources)
    with TemporaryDirectory(dir=work.folder, prefix=".verify-") as scratch:
        work.write_candidates(work.made_from(plan), tasks, sources, Path(scratch))  # which reads and checks every block
        if file_sha256(Path(scratch) / NBEST) != file_sha256(work.folder / NBEST):
            raise UserError(f"{work.folder / NBEST}: does not follow from the blocks")
        workspace.say(f"{work.folder.name}: {len(tasks):,} blocks are whole, and {NBEST} follows from them")
        seed = secrets.randbits(31) if seed is None else seed
        chosen = np.random.default_rng(seed).permutation(len(tasks))[:blocks]
        again = [tasks[number] for number in sorted(chosen.tolist())]
        _decode_again(workspace, work, work.decoder(plan, Path(scratch)), again)
    if again:
        numbers = ", ".join(str(task.number) for task in again)
        workspace.say(f"{work.folder.name}: decoded again, the same: blocks {numbers} (--verify-seed {seed})")
    verify_text(workspace, work.folder, work.training_set())


def _decode_again(workspace: Workspace, work: Decoding, decoder: BlockDecoder, tasks: Sequence[BlockTask]) -> None:
    failed = open_executor(workspace.config.distill, work.folder).run(decoder, tasks, lambda _: None)
    if failed:
        raise UserError(f"{work.folder.name}: block {failed[0].task.number}: {failed[0].error}")
    for task in tasks:
        old, new = task.block.path(work.blocks), task.block.path(decoder.folder)
        if old.read_bytes() != new.read_bytes():
            _explain(workspace, task, work.blocks, decoder)


def _explain(workspace: Workspace, task: BlockTask, blocks: Path, decoder: BlockDecoder) -> None:
    """Other bytes are another translation, or the same on another processor or with other libraries."""
    from kdmt.distill.blocks import read_block

    wanted: dict[str, Any] = {"made_from": decoder.made_from, "hashes_N": task.hashes_N}
    (old_header, old), (new_header, new) = (
        read_block(folder, task.block, **wanted) for folder in (blocks, decoder.folder)
    )
    path, before, now = task.block.path(blocks), old_header["made_with"], new_header["made_with"]
    if old.hypotheses() != new.hypotheses():
        origin = "" if before == now else f"; it was made with {before}, now {now}"
        raise UserError(f"{path}: decoded again, it holds other translations{origin}")
    if before != now:
        workspace.say(f"{path}: the same translations; other bytes, since it was made with {before}, now {now}")
        return
    same = np.array_equal(old.scores_H, new.scores_H)
    raise UserError(
        f"{path}: decoded again, it {'is another file with the same content' if same else 'has other scores'}"
    )


def verify_text(workspace: Workspace, folder: Path, made_of: TrainingSet) -> None:
    """Whether the text of a training set follows from its candidates."""
    with TemporaryDirectory(dir=folder, prefix=".verify-") as scratch:
        merge_text(workspace, folder, made_of, Path(scratch))
        for name in text_names(workspace):
            old, new = folder / name, Path(scratch) / name
            if old.exists() != new.exists() or (old.exists() and file_sha256(old) != file_sha256(new)):
                raise UserError(f"{old}: does not follow from {made_of.candidates / NBEST}")
    workspace.say(f"{folder.name}: its text follows from {made_of.candidates / NBEST}")
