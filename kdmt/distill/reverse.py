"""Filter that drops pairs with a low probability under a reverse model, from the target to the source language."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Distill, Reverse, Text
from kdmt.corpus.codec import TextCodec
from kdmt.distill.dropping import best_of, drop_pairs
from kdmt.distill.merge import MergeReport, Outputs
from kdmt.distill.pair_scores import open_scorer, pair_tasks, read_pair_scores
from kdmt.errors import UserError
from kdmt.files import naming
from kdmt.languages import Direction
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint
from kdmt.workers.open import open_executor
from kdmt.workers.progress import block_progress

REVERSE, SCORES = "reverse", "reverse.npy"


def reverse_inputs(reverse: Reverse | None) -> dict[str, str]:
    """Return the SHA-256 of the reverse model's weights, for a plan."""
    if reverse is None:
        return {}
    return {reverse.checkpoint: checkpoint_sha256(resolve_checkpoint(Path(reverse.checkpoint)))}


def check_reverse(reverse: Reverse | None, direction: Direction, own: Text) -> None:
    """Check that the reverse model fits the text that is distilled.

    Raises:
        UserError: if it does not exist, or is of other languages or other text processing.
    """
    if reverse is not None:
        check_opposite(reverse.checkpoint, "distill.reverse.checkpoint", direction, own)


def check_opposite(checkpoint: str, setting: str, direction: Direction, own: Text) -> None:
    """Check that a model of the opposite direction fits the text that is distilled.

    Args:
        setting: YAML path of the checkpoint, for messages.
        direction: direction of the text.
        own: text processing of the text.

    Raises:
        UserError: if it does not exist, or is of other languages or other text processing.
    """
    text = TextCodec.load(resolve_checkpoint(Path(checkpoint))).text
    text.check_direction(direction.reversed(), f"{setting}: {checkpoint}")
    if (text.text.moses, text.text.lowercase) != (own.moses, own.lowercase):
        raise UserError(
            f"{setting}: {checkpoint} was trained on other text: moses {text.text.moses}, "
            f"lowercase {text.text.lowercase}; here moses {own.moses}, lowercase {own.lowercase}"
        )


def drop_improbable(settings: Distill, folder: Path, files: Outputs, report: MergeReport) -> None:
    """Remove the pairs with the lowest probability under the reverse model from the files.

    Args:
        settings: section `distill`.
        folder: folder of the stage, in which the scores of the reverse model are kept for later runs.
        files: files of the merged training set; `SCORES` is written to the same folder.
        report: counts to which the dropped pairs are added as the failure `reverse`.
    """
    if settings.reverse is None:
        return
    entropies = _cross_entropies(settings, settings.reverse, folder, files)
    with naming(folder / SCORES):
        np.save(files.source.with_name(SCORES), entropies.astype("<f4"))
    drop_pairs(files, report, best_of(-entropies, settings.reverse.drop_percent), failure=REVERSE)


def _cross_entropies(settings: Distill, reverse: Reverse, folder: Path, files: Outputs) -> NDArray[np.float64]:
    """Return the cross entropy of each source given its target, in nats per token; inf for too long lines."""
    scratch = folder / REVERSE
    scratch.mkdir(exist_ok=True)
    engine = scratch / f"engine-{next(iter(reverse_inputs(reverse).values()))[:16]}"
    scorer = open_scorer(Path(reverse.checkpoint), engine, compute_type=reverse.compute_type, raw=False)
    key = reverse_inputs(reverse) | {"compute_type": reverse.compute_type}
    tasks = pair_tasks(files.target, files.source, scratch, key=key)
    missing = [task for task in tasks if not task.out.exists()]
    done = sum(task.count for task in tasks) - sum(task.count for task in missing)
    with block_progress(f"{folder.name}: reverse model", before=done) as advance:
        failed = open_executor(settings, folder).run(scorer, missing, advance)
    if failed:
        raise UserError(f"{folder.name}: the reverse model: {failed[0].error}")
    scores = read_pair_scores(tasks)
    return np.where(np.isnan(scores[:, 0]), np.inf, -scores[:, 0] / scores[:, 1])
