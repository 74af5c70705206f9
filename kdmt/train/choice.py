"""The choice at the end of a training run between its best checkpoint and its averages, by validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdmt.config import Train
from kdmt.models.average_record import PREFIX
from kdmt.models.checkpoint_choice import Candidate, CandidateName, Choice, choose, describe_updates
from kdmt.score.metrics import METRICS
from kdmt.train.run_folder import Position


@dataclass(frozen=True)
class Scale:
    """Scale of a validation metric.

    Attributes:
        higher_is_better: whether a higher value is better.
        worst: value of the worst translation; None if there is no bound on its side.
    """

    higher_is_better: bool
    worst: float | None

    @property
    def sign(self) -> int:
        return 1 if self.higher_is_better else -1


def scale_of(metric: str) -> Scale:
    """Return the scale of a metric that kdmt computes."""
    return Scale(False, None) if metric == "loss" else Scale(METRICS[metric].higher_is_better, METRICS[metric].worst)


Validate = Callable[[Path], dict[str, float]]  # validation figures of the weights in a checkpoint folder


def choose_checkpoint(
    run: Path,
    candidates: Mapping[CandidateName, list[int]],
    position: Position,
    settings: Train,
    *,
    validate: Validate,
    signature: str | None,
    scale: Scale | None = None,
) -> Choice:
    """Return the checkpoint of a run that `auto` is, by `best_metric` and for equal scores by the loss.

    Each set of checkpoints is validated once. The figures of the best checkpoint are known from training.

    Args:
        run: folder of the run, with its averages.
        candidates: updates of each candidate; those of an average are the ones that it is the mean of.
        position: end of the training.
        validate: function that validates the weights in a folder; it is not called unless `average.of` is `auto`.
        signature: signature of `best_metric`; None for the loss.
        scale: scale of `best_metric`; None for that of a metric that kdmt computes.
    """
    metric, of = settings.best_metric, settings.average.of
    known: dict[tuple[int, ...], Candidate] = {}
    if position.best_update is not None and position.best_loss is not None:
        updates = [position.best_update]
        known[tuple(updates)] = Candidate(updates, position.best_score, position.best_loss)
    found: dict[CandidateName, Candidate] = {}
    for name, updates in candidates.items():
        if tuple(updates) not in known:
            figures = validate(_folder(run, name, updates)) if of == "auto" else {}
            known[tuple(updates)] = _candidate(updates, figures, metric)
        found[name] = known[tuple(updates)]
    higher_is_better = (scale or scale_of(metric)).higher_is_better
    return choose(found, of=of, metric=metric, higher_is_better=higher_is_better, signature=signature)


def _folder(run: Path, name: CandidateName, updates: list[int]) -> Path:
    return run / f"{PREFIX}{updates[0]}" if name == "best" else run / name


def _candidate(updates: list[int], figures: Mapping[str, float], metric: str) -> Candidate:
    """Return a candidate with its figures, without those that are not numbers."""
    score, loss = (figures.get(name, math.nan) for name in (metric, "loss"))
    return Candidate(updates, score if math.isfinite(score) else None, loss if math.isfinite(loss) else None)


def describe_choice(choice: Choice) -> str:
    """Return a line on a choice for the log."""
    chosen = describe_updates(choice.checkpoint, choice.candidates[choice.checkpoint].updates)
    if choice.of != "auto":
        return f"'auto' is {chosen}, as 'average.of: {choice.of}' sets it"
    scores = ", ".join(
        f"{name} {'none' if candidate.score is None else format(candidate.score, '.3f')}"
        for name, candidate in choice.candidates.items()
    )
    return f"'auto' is {chosen}, by validation {choice.metric}: {scores}"
