"""Record of the checkpoint of a run that the name `auto` is, chosen by validation when training ends.

The candidates are `best`, `average_best` and `average`. The record, `chosen.json`, has the validation score of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from kdmt.choices import AutoCheckpoint, CheckpointName
from kdmt.config import read_record
from kdmt.files import read_optional_json, write_json
from kdmt.models.average_record import AVERAGES, PREFIX, average_of, is_outdated

AUTO: CheckpointName = "auto"
CHOSEN = "chosen.json"
CandidateName = Literal["best", "average_best", "average"]
CANDIDATES: tuple[CandidateName, ...] = ("best", "average_best", "average")  # the first one of equal ones is chosen
_RULES: dict[AutoCheckpoint, CandidateName] = {"best": "average_best", "last": "average"}


@dataclass(frozen=True)
class Candidate:
    """One of the checkpoints among which one is chosen.

    Attributes:
        updates: the update of the checkpoint, or the updates of the checkpoints that it is the mean of.
        score: validation score by the metric of the choice; None if it was not validated, or cannot translate.
        loss: validation loss.
    """

    updates: list[int]
    score: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Choice:
    """The checkpoint that `auto` is.

    Attributes:
        checkpoint: name of the checkpoint.
        of: the setting `train.average.of`: only `auto` compares the candidates.
        metric: validation metric, `train.best_metric`.
        signature: signature of the metric; None for the loss.
        candidates: all candidates by name.
    """

    checkpoint: CandidateName
    of: AutoCheckpoint
    metric: str
    signature: str | None = None
    candidates: dict[CandidateName, Candidate] = field(default_factory=dict)


def choose(
    candidates: Mapping[CandidateName, Candidate],
    *,
    of: AutoCheckpoint,
    metric: str,
    higher_is_better: bool,
    signature: str | None = None,
) -> Choice:
    """Return the choice among candidates: by the score and, for equal scores, by the loss, unless `of` names one.

    A candidate without a score is worse than all others.
    """
    sign = 1 if higher_is_better else -1

    def rank(name: CandidateName) -> tuple[bool, float, float]:
        each = candidates[name]
        worst = float("-inf")
        score = worst if each.score is None else sign * each.score
        return each.score is not None, score, worst if each.loss is None else -each.loss

    named = (name for name in CANDIDATES if name in candidates)
    chosen = _RULES[of] if of in _RULES else max(named, key=rank)
    return Choice(chosen, of, metric, signature, dict(candidates))


def read_choice(run: Path) -> Choice | None:
    """Return the choice of a run; None if an older version trained it, or its training has not ended.

    Raises:
        UserError: if the record is damaged.
    """
    values = read_optional_json(run / CHOSEN)
    return None if values is None else read_record(Choice, values, str(run / CHOSEN))


def write_choice(run: Path, choice: Choice) -> None:
    """Record the choice of a run."""
    write_json(run / CHOSEN, asdict(choice))


def is_current(run: Path, choice: Choice) -> bool:
    """Return whether the candidates of a choice are the present ones, so that the run was not validated since."""
    made_of = {name: candidate.updates for name, candidate in choice.candidates.items()}
    if any(average_of(run / name) != made_of.get(name) or is_outdated(run, name) for name in AVERAGES):
        return False
    return made_of.get("best") == updates_of(run, "best")


def updates_of(run: Path, name: CheckpointName) -> list[int]:
    """Return the update of a checkpoint of a run, or those that an average is the mean of; [] if they are unknown."""
    if name in AVERAGES:
        return average_of(run / name) or []
    try:
        update = (run / name).read_text().strip().removeprefix(PREFIX)
    except (OSError, UnicodeDecodeError):
        return []
    return [int(update)] if update.isascii() and update.isdigit() else []


def describe_updates(name: str, updates: Sequence[int]) -> str:
    """Return a checkpoint of a run for messages, such as `best (update 5500)`."""
    if not updates:
        return f"{name} (updates not recorded)"
    return f"{name} (update{'s' if len(updates) > 1 else ''} {', '.join(map(str, updates))})"
