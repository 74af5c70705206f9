"""The folder in which the prepare stage works until it is complete, and the work of a stopped run in it.

prepare.partial/
    plan.json, config.json      as in the folders of all stages
    work/                       removed when the stage is complete
        versions.json           versions of the software that made the files
        steps/                  results of finished steps (`kdmt.corpus.steps`)
        train/, monolingual/    chunks of the cleaning pass (`kdmt.corpus.first_pass`)
        clean/, text/           clean text, and the finished chunks of its text processing
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdmt.corpus.steps import Steps
from kdmt.errors import UserError
from kdmt.files import read_optional_json, write_json
from kdmt.flow.manifest import Plan, begin, check_status, software_versions

WORK = "work"
_KEPT = ("plan.json", "config.json", WORK)
# libraries of cleaning rules, besides those that all stages depend on
_LIBRARIES = ("fasttext-predict", "ftfy", "py3langid", "rapidfuzz", "regex")


def is_complete(partial: Path, plan: Plan) -> bool:
    """Return whether a run was stopped after it had completed the folder, and before it renamed it."""
    if not (partial / "manifest.json").is_file():
        return False
    try:
        return check_status(partial, plan).state == "fresh"
    except UserError:
        return False


def open_partial(
    partial: Path, plan: Plan, config: Mapping[str, object], *, resume: bool, say: Callable[[str], None]
) -> Steps:
    """Create the folder, or keep the finished steps in it if they were made from the same settings and inputs.

    Args:
        config: all settings of the pipeline, for `config.json`.
        resume: whether finished steps may be kept.
        say: function that prints a line for the user.
    """
    steps = Steps(partial, partial / WORK / "steps")
    if partial.exists():
        reason = _why_unusable(partial, plan) if resume else ""
        if reason is None:
            say(f"prepare: goes on with what a stopped run left in {partial}")
            steps.remove_unfinished([partial / name for name in _KEPT])
        else:
            say(f"prepare: begins again{reason}; what a stopped run left in {partial} is removed")
            shutil.rmtree(partial)
    begin(partial, plan, config)
    steps.records.mkdir(parents=True, exist_ok=True)
    write_json(partial / WORK / "versions.json", _versions())
    return steps


def _why_unusable(partial: Path, plan: Plan) -> str | None:
    """Return the end of a message on why finished steps cannot be used; None if they can."""
    try:
        status = check_status(partial, plan)
        versions = read_optional_json(partial / WORK / "versions.json")
    except UserError:
        return ""
    if status.state == "stale":
        return f", as {status.explain()}"
    if status.state != "unfinished" or versions is None:
        return ""
    changed = [name for name, version in _versions().items() if versions.get(name) != version]
    return f", as the version of {' and '.join(changed)} changed" if changed else None


def _versions() -> dict[str, str]:
    libraries = {name: _version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **software_versions(), **libraries}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # an extra
        return "none"
