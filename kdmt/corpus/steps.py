"""Steps of work that survive the end of the process: a later run takes the results of finished steps.

steps/<name>.json     values of a finished step, and the names of its files
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.files import PARTIAL, read_json_object, write_json


@dataclass(frozen=True)
class Steps:
    """Records of the finished steps of a folder.

    Attributes:
        folder: folder of the files of the steps.
        records: folder of the records.
    """

    folder: Path
    records: Path

    def values(self, name: str) -> Any:
        """Return the values of a finished step as JSON values; None if it is not finished."""
        path = self._record(name)
        return read_json_object(path, required={"files": list})["values"] if path.exists() else None

    def finish(self, name: str, values: object, files: Iterable[Path]) -> None:
        """Record that a step is finished.

        Args:
            values: JSON value with the results of the step.
            files: files and folders of the step, which are complete and do not change any more.
        """
        self.records.mkdir(exist_ok=True)
        names = [str(path.relative_to(self.folder)) for path in files if path.exists()]
        write_json(self._record(name), {"values": values, "files": names})

    def remove_unfinished(self, keep: Sequence[Path]) -> None:
        """Remove everything in the folder that is not a file of a finished step.

        Args:
            keep: paths in the folder that stay as well.
        """
        kept = {*keep, self.records}
        for path in self.records.glob("*.json") if self.records.is_dir() else ():
            if path.name.startswith(PARTIAL):  # a record that was being written when the process was killed
                path.unlink()
                continue
            kept.update(self.folder / name for name in read_json_object(path, required={"files": list})["files"])
        for path in self.folder.iterdir():
            if path not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _record(self, name: str) -> Path:
        return self.records / f"{name}.json"
