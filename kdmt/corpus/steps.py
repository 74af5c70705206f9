"""Steps of work that survive the end of the process: a later run takes the results of finished steps.

steps/<name>.json     values of a finished step, the names of its files and folders, and the sizes of the files
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.files import PARTIAL, read_json_object, sync_to_disk, write_json


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
        """Return the values of a finished step as JSON values; None if it is not finished or a file is not complete."""
        path = self._record(name)
        if not path.exists():
            return None
        record = read_json_object(path, required={"files": list})
        return record["values"] if self._is_complete(record) else None

    def finish(self, name: str, values: object, files: Iterable[Path]) -> None:
        """Flush the files of a step to the disk, and record that it is finished.

        Args:
            values: JSON value with the results of the step.
            files: files and folders of the step, which are complete and do not change any more.
        """
        self.records.mkdir(exist_ok=True)
        paths = [path for path in files if path.exists()]
        contents = [file for path in paths for file in _files_of(path)]
        for each in (*contents, *dict.fromkeys(path.parent for path in (*contents, *paths))):
            sync_to_disk(each)  # before the record, which must not survive a power failure that they do not
        names = [str(path.relative_to(self.folder)) for path in paths]
        sizes = {str(file.relative_to(self.folder)): file.stat().st_size for file in contents}
        write_json(self._record(name), {"values": values, "files": names, "sizes": sizes})

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
            record = read_json_object(path, required={"files": list})
            if self._is_complete(record):
                kept.update(self.folder / name for name in record["files"])
            else:
                path.unlink()
        for path in self.folder.iterdir():
            if path not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _is_complete(self, record: Mapping[str, Any]) -> bool:
        """Return whether the files of a step have their recorded sizes; records of earlier versions have none."""
        files = {self.folder / name: size for name, size in record.get("sizes", {}).items()}
        return all(path.is_file() and path.stat().st_size == size for path, size in files.items())

    def _record(self, name: str) -> Path:
        return self.records / f"{name}.json"


def _files_of(path: Path) -> list[Path]:
    """Return a file, or all files in a folder."""
    return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
