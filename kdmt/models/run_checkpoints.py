"""The checkpoints of a run by their names, and the record of which of them its average is the mean of.

Nothing here loads PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kdmt.errors import UserError
from kdmt.files import write_text

PREFIX = "checkpoint_"
_NAME = re.compile(rf"{PREFIX}[0-9]{{1,18}}")
AVERAGE = "average"
AVERAGE_OF = "average_of"  # in a run and in its average: the updates of the checkpoints that the average is the mean of


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first."""
    folders = [path for path in run.glob(f"{PREFIX}*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(folders, key=checkpoint_update)


def checkpoint_update(folder: Path) -> int:
    """Return the update at which a checkpoint was written."""
    return int(folder.name.removeprefix(PREFIX))


def num_updates(run: Path) -> int:
    """Return the update of the newest checkpoint of a run, 0 if it has none."""
    folders = list_checkpoints(run)
    return checkpoint_update(folders[-1]) if folders else 0


def average_of(folder: Path) -> list[int] | None:
    """Return the updates of an average's checkpoints or, for a run, of its next average; None for older versions."""
    try:
        return [int(line) for line in (folder / AVERAGE_OF).read_text().split()]
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{folder / AVERAGE_OF}: not a list of updates") from None


def write_average_of(folder: Path, checkpoints: Sequence[Path]) -> None:
    """Record the checkpoints of an average or, in a run, of its next average."""
    write_text(folder / AVERAGE_OF, "".join(f"{checkpoint_update(checkpoint)}\n" for checkpoint in checkpoints))


def is_outdated(run: Path) -> bool:
    """Return whether a run has validated since its average was made."""
    made_of, wanted = average_of(run / AVERAGE), average_of(run)
    if made_of is not None and wanted is not None:
        return max(wanted, default=0) > max(made_of, default=0)
    # a run of an older version, which keeps no lists: a record without a manifest is that of a run that goes on
    return made_of is None and (run / "plan.json").is_file() and not (run / "manifest.json").is_file()
