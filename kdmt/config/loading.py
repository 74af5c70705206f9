"""Loading of pipeline files together with their lock files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdmt.config.document import read_document
from kdmt.config.lock import Lock, LockedDataset, Substitution, lock_path, read_lock, substitute
from kdmt.config.messages import describe_problems
from kdmt.config.pipeline import Pipeline
from kdmt.errors import UserError

_LOGIN = re.compile(r"//.*@")  # too much rather than too little: a password may have any character


@dataclass(frozen=True)
class Provenance:
    """What the lock file of a pipeline says about its corpora.

    Attributes:
        lock_command: command that brings the lock file up to date, for messages.
        datasets: YAML path of a text -> its data set, for texts that are given by name.
        checksums: SHA-256 from the lock file -> YAML path of a text with this file. Empty if no lock file is needed.
        alternatives: URL -> other URLs of the same file.
    """

    lock_command: str = "kdmt lock"
    datasets: Mapping[str, LockedDataset] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)
    alternatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def describe(self, path: str) -> str:
        """Return the YAML path of a text with the name of its data set, if it has one."""
        return f"{path} ({self.datasets[path].name})" if path in self.datasets else path

    def explain(self, message: str) -> str:
        """Return the message of an error, with the name of the text if a file differs from the lock file."""
        path = next((path for sha256, path in self.checksums.items() if f"expected {sha256}" in message), None)
        if path is None:
            return message
        where = self.describe(path)  # a URL if `kdmt lock` checks a file that is locked
        shown = message if f"{where}: " in message else f"{where}: {message}"
        command = f"{self.lock_command} --update {shlex.quote(path)}"
        return f"{shown}; the lock file has the other sha256. To lock the file again: {command}"


NO_LOCK_FILE = Provenance()


@dataclass(frozen=True)
class LockedPipeline:
    """A pipeline in which every name of a data set is replaced by its files, and every URL has a SHA-256."""

    config: Pipeline
    provenance: Provenance


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Return the settings of a pipeline file. See `load_locked_pipeline`."""
    return load_locked_pipeline(path, overrides).config


def load_locked_pipeline(path: Path, overrides: Sequence[str] = ()) -> LockedPipeline:
    """Read, override and validate a pipeline file, and replace what its lock file locks.

    A pipeline without names of data sets, whose URLs have their SHA-256, needs no lock file; then none is read.

    Args:
        path: the YAML file.
        overrides: settings as `a.b=c`, with c read as YAML (`null`, `true`, `[1, 2]`, ...).

    Raises:
        UserError: if the file or a setting is not valid, with the file, or the YAML path of each setting; or if a name
            or a URL without SHA-256 is not in the lock file.
        OSError: if a file cannot be read.
    """
    document = read_document(path, overrides)
    config = validate(path, document)
    command = lock_command(path, overrides)
    if not substitute(document, Lock(), config.direction.sides).missing:
        return LockedPipeline(config, Provenance(command))
    lock_file = lock_path(path)
    lock = read_lock(lock_file)
    made = substitute(document, lock, config.direction.sides)
    if made.missing:
        raise UserError(_describe_missing(path, lock_file, made, command))
    alternatives = {each.url: each.alternatives for each in lock.files if each.alternatives}
    provenance = Provenance(command, made.datasets, made.checksums, alternatives)
    return LockedPipeline(validate(path, made.document), provenance)


def validate(path: Path, document: Mapping[str, Any]) -> Pipeline:
    """Return the settings in a document.

    Args:
        path: file of the document, for the message.

    Raises:
        UserError: if a setting is not valid; the message has the YAML path of each.
    """
    try:
        return Pipeline.model_validate(document)
    except ValidationError as error:
        raise UserError(f"{path}: {describe_problems(error, Pipeline)}") from None


def load_unlocked_pipeline(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Read, override and validate a pipeline file, and leave its names and URLs as they are.

    Raises:
        UserError: if the file or a setting is not valid.
        OSError: if the file cannot be read.
    """
    return validate(path, read_document(path, overrides))


def lock_command(path: Path, overrides: Sequence[str]) -> str:
    """Return the command that locks a pipeline with its overrides, as one types it, without logins of URLs."""
    options = [part for override in overrides for part in ("--set", _LOGIN.sub("//...@", override))]
    return shlex.join(["kdmt", "lock", str(path), *options])


def _describe_missing(path: Path, lock_file: Path, made: Substitution, command: str) -> str:
    """Return the message for names and URLs that are not locked."""
    first, *others = dict.fromkeys(made.missing)
    more = f" and {len(others)} more" if others else ""
    where = f"not in {lock_file}" if lock_file.exists() else f"no lock file {lock_file}"
    return f"{path}: {first}{more}: {where}; run {command}"
