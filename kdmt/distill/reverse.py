"""Filter that drops pairs with a low probability under a reverse model, from the target to the source language.

With several directions, the pairs of each direction are scored by a model of the opposite direction: the same model for
all of them, or one for each. A direction without a model keeps its pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Distill, Reverse, Text
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.lines import iterate_lines
from kdmt.distill.dropping import best_of, drop_pairs
from kdmt.distill.inputs import Inputs
from kdmt.distill.merge import MergeReport, Outputs
from kdmt.distill.pair_scores import open_scorer, pair_tasks, read_pair_scores
from kdmt.errors import UserError
from kdmt.files import naming
from kdmt.languages import Direction
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint
from kdmt.workers.open import open_executor
from kdmt.workers.progress import block_progress

REVERSE, SCORES = "reverse", "reverse.npy"
CHECKPOINT = "distill.reverse.checkpoint"


def reverse_inputs(reverse: Reverse | None) -> dict[str, str]:
    """Return the SHA-256 of the weights of the reverse models, for a plan."""
    if reverse is None:
        return {}
    paths = [reverse.checkpoint] if isinstance(reverse.checkpoint, str) else list(reverse.checkpoint.values())
    return {path: checkpoint_sha256(resolve_checkpoint(Path(path))) for path in dict.fromkeys(paths)}


@dataclass(frozen=True)
class ReverseModel:
    """The reverse model of one direction.

    Attributes:
        checkpoint: path of the model.
        setting: YAML path of the model.
        direction: direction of the pairs.
        is_alone: whether this is the only direction, so that all pairs have it.
    """

    checkpoint: str
    setting: str
    direction: Direction
    is_alone: bool = False

    def check(self, own: Text) -> None:
        """Check that the model fits the text that is distilled. See `check_opposite`."""
        check_opposite(self.checkpoint, self.setting, self.direction, own)


def reverse_models(reverse: Reverse | None, inputs: Inputs) -> list[ReverseModel]:
    """Return the model for each direction of the text that is distilled; none without the filter."""
    if reverse is None:
        return []
    given, directions = reverse.checkpoint, inputs.directions()
    if isinstance(given, str):
        is_alone = not inputs.has_several
        return [ReverseModel(given, CHECKPOINT, each, is_alone) for each in directions]
    return [ReverseModel(path, f"{CHECKPOINT}.{name}", Direction.parse(name)) for name, path in given.items()]


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
    wanted = direction.reversed()
    if not text.directions:
        text.check_direction(wanted, f"{setting}: {checkpoint}")
    elif not any(each.matches(wanted) for each in text.directions):
        known = ", ".join(map(str, text.directions))
        raise UserError(f"{setting}: {checkpoint} translates {known}, not {wanted}, the opposite of {direction}")
    if (text.text.moses, text.text.lowercase) != (own.moses, own.lowercase):
        raise UserError(
            f"{setting}: {checkpoint} was trained on other text: moses {text.text.moses}, "
            f"lowercase {text.text.lowercase}; here moses {own.moses}, lowercase {own.lowercase}"
        )


def drop_improbable(
    settings: Distill, folder: Path, files: Outputs, report: MergeReport, models: Sequence[ReverseModel]
) -> None:
    """Remove the pairs with the lowest probability under the reverse model from the files.

    Args:
        settings: section `distill`.
        folder: folder of the stage, in which the scores of the reverse model are kept for later runs.
        files: files of the merged training set; `SCORES` is written to the same folder.
        report: counts to which the dropped pairs are added as the failure `reverse`.
        models: reverse model of each direction.
    """
    if settings.reverse is None:
        return
    is_kept = np.ones(report.num_lines, dtype=bool)
    entropies = np.full(report.num_lines, np.nan)
    for model in models:
        own = _own_lines(model, files)
        found = _cross_entropies(settings, settings.reverse, model, folder, files, own)
        places = np.arange(report.num_lines) if own is None else own
        entropies[places] = found
        is_kept[places] = best_of(-found, settings.reverse.drop_percent)
    with naming(folder / SCORES):
        np.save(files.source.with_name(SCORES), entropies.astype("<f4"))
    drop_pairs(files, report, is_kept, failure=REVERSE)


def _own_lines(model: ReverseModel, files: Outputs) -> NDArray[np.int64] | None:
    """Return the indices of the pairs that a model scores; None for all."""
    if model.is_alone:
        return None
    name = str(model.direction)
    return np.array([index for index, tag in enumerate(iterate_lines(files.tags)) if tag == name], dtype=np.int64)


def _cross_entropies(
    settings: Distill,
    reverse: Reverse,
    model: ReverseModel,
    folder: Path,
    files: Outputs,
    own: NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """Return the cross entropy of each source given its target, in nats per token; inf for too long lines.

    Args:
        own: indices of the pairs that the model scores; None for all.
    """
    scratch = folder / REVERSE
    scratch.mkdir(exist_ok=True)
    sha256 = checkpoint_sha256(resolve_checkpoint(Path(model.checkpoint)))
    engine = scratch / f"engine-{sha256[:16]}"
    key: dict[str, str] = {model.checkpoint: sha256, "compute_type": reverse.compute_type}
    source, target = files.target, files.source
    languages: dict[str, str] = {}
    if own is not None:
        scratch = scratch / str(model.direction)
        scratch.mkdir(exist_ok=True)
        source, target = (_selected(path, own, scratch / name) for path, name in ((source, "from"), (target, "to")))
        languages = dict(zip(("source_lang", "target_lang"), model.direction.reversed().sides, strict=True))
    scorer = open_scorer(Path(model.checkpoint), engine, compute_type=reverse.compute_type, raw=False, **languages)
    tasks = pair_tasks(source, target, scratch, key=key)
    missing = [task for task in tasks if not task.out.exists()]
    done = sum(task.count for task in tasks) - sum(task.count for task in missing)
    with block_progress(f"{folder.name}: reverse model", before=done) as advance:
        failed = open_executor(settings, folder).run(scorer, missing, advance)
    if failed:
        raise UserError(f"{folder.name}: the reverse model: {failed[0].error}")
    scores = read_pair_scores(tasks)
    return np.where(np.isnan(scores[:, 0]), np.inf, -scores[:, 0] / scores[:, 1])


def _selected(path: Path, own: NDArray[np.int64], out: Path) -> Path:
    """Write the lines of a file with the given ascending indices to another file, and return its path."""
    wanted = set(own.tolist())
    with naming(out), out.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for index, line in enumerate(iterate_lines(path)) if index in wanted)
    return out
