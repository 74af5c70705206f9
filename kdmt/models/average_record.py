"""Record of the checkpoints whose mean is the average of a run; it is stored in the run and in the average."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdmt.errors import UserError
from kdmt.files import write_text

PREFIX = "checkpoint_"  # prefix of the names of checkpoint folders
AVERAGE = "average"
AVERAGE_OF = "average_of"  # file with the updates of the checkpoints


def is_outdated(run: Path) -> bool:
    """Return whether a run has been validated since its average was written."""
    made_of, wanted = average_of(run / AVERAGE), average_of(run)
    if made_of is not None and wanted is not None:
        return max(wanted, default=0) > max(made_of, default=0)
    # runs of an older version have no such record: a plan without a manifest belongs to a run that is not finished
    return made_of is None and (run / "plan.json").is_file() and not (run / "manifest.json").is_file()


def average_of(folder: Path) -> list[int] | None:
    """Return the updates of the record; None if the folder was written by an older version."""
    try:
        return [int(line) for line in (folder / AVERAGE_OF).read_text().split()]
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{folder / AVERAGE_OF}: not a list of updates") from None


def write_average_of(folder: Path, checkpoints: Sequence[Path]) -> None:
    """Record the checkpoints whose mean the average is or, in the folder of a run, will be."""
    write_text(folder / AVERAGE_OF, "".join(f"{checkpoint_update(checkpoint)}\n" for checkpoint in checkpoints))


def checkpoint_update(folder: Path) -> int:
    """Return the update at which a checkpoint was written."""
    return int(folder.name.removeprefix(PREFIX))
