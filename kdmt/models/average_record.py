"""Records of the checkpoints whose mean an average of a run is; they are stored in the run and in the average.

A run has two averages: `average` is the mean of the last checkpoints, `average_best` that of the best ones by
validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdmt.choices import AverageName
from kdmt.errors import UserError
from kdmt.files import write_text

PREFIX = "checkpoint_"  # prefix of the names of checkpoint folders
AVERAGE: AverageName = "average"
AVERAGE_BEST: AverageName = "average_best"
AVERAGES: tuple[AverageName, ...] = (AVERAGE, AVERAGE_BEST)
AVERAGE_OF = "average_of"  # file in the folder of an average with the updates of the checkpoints


def is_outdated(run: Path, name: AverageName = AVERAGE) -> bool:
    """Return whether an average of a run is not the one of the run's latest validation."""
    made_of, wanted = average_of(run / name), wanted_of(run, name)
    if made_of is not None and wanted is not None:
        # the last checkpoints of a run that is extended are those of its earlier end until the next validation
        return max(wanted, default=0) > max(made_of, default=0) if name == AVERAGE else wanted != made_of
    if name != AVERAGE:
        return False
    # runs of an older version have no such record: a plan without a manifest belongs to a run that is not finished
    return made_of is None and (run / "plan.json").is_file() and not (run / "manifest.json").is_file()


def average_of(average: Path) -> list[int] | None:
    """Return the updates of the checkpoints that an average is the mean of; None if an older version wrote it."""
    return _read(average / AVERAGE_OF)


def wanted_of(run: Path, name: AverageName = AVERAGE) -> list[int] | None:
    """Return the updates of the checkpoints that an average of a run should be the mean of; None if not recorded."""
    return _read(run / _record_of(name))


def _read(path: Path) -> list[int] | None:
    try:
        return [int(line) for line in path.read_text().split()]
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{path}: not a list of updates") from None


def write_average_of(average: Path, checkpoints: Sequence[Path]) -> None:
    """Record in the folder of an average the checkpoints whose mean it is."""
    _write(average / AVERAGE_OF, checkpoints)


def write_wanted_of(run: Path, checkpoints: Sequence[Path], name: AverageName = AVERAGE) -> None:
    """Record in the folder of a run the checkpoints whose mean an average should be."""
    _write(run / _record_of(name), checkpoints)


def _record_of(name: AverageName) -> str:
    return f"{name}_of"


def _write(path: Path, checkpoints: Sequence[Path]) -> None:
    write_text(path, "".join(f"{checkpoint_update(checkpoint)}\n" for checkpoint in checkpoints))


def checkpoint_update(folder: Path) -> int:
    """Return the update at which a checkpoint was written."""
    return int(folder.name.removeprefix(PREFIX))
