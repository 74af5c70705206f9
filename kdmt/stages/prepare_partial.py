"""The folder in which the prepare stage works until it is complete, and the work of a stopped run in it.

prepare.partial/
    plan.json, config.json      as in the folders of all stages
    work/                       removed when the stage is complete
        versions.json           versions of the software that made the files
        steps/                  results of finished steps (`kdmt.corpus.steps`)
        train/, monolingual/, monolingual_target/   chunks of the cleaning pass (`kdmt.corpus.first_pass`)
        shards.json             number of shards of the cleaning pass, if it is made in shards
        shards/                 their chunks (`kdmt.corpus.chunk_shards`), and their copies of the held-out text
        clean/, text/           clean text, and the finished chunks of its text processing
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdmt.corpus.chunk_shards import ChunkShards
from kdmt.corpus.prepared import PARTIAL_SUFFIX
from kdmt.corpus.steps import Steps
from kdmt.errors import UserError
from kdmt.files import read_optional_json, write_json
from kdmt.flow.folders import real_folder
from kdmt.flow.manifest import Plan, begin, check_status, software_versions

WORK = "work"
SHARDS = "shards"
_NUM_SHARDS = "shards.json"
_KEPT = ("plan.json", "config.json", WORK)
# libraries of cleaning rules, besides those that all stages depend on
_LIBRARIES = ("fasttext-predict", "ftfy", "py3langid", "rapidfuzz", "regex")


def partial_of(folder: Path) -> Path:
    """Return the folder in which the stage is written. It is on the disk of the stage's folder, also behind a link."""
    final = real_folder(folder)
    return final.with_name(f"{final.name}{PARTIAL_SUFFIX}")


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


def is_begun_for_shards(partial: Path, plan: Plan) -> bool:
    """Return whether the folder is open for the shards of the cleaning pass.

    Raises:
        UserError: if it has the work of another plan or version, which a shard does not remove.
    """
    if is_complete(partial, plan):
        return True
    reason = _why_unusable(partial, plan)
    if reason:
        raise UserError(
            f"{partial}: unfinished work that this shard cannot use{reason}; "
            f"`kdmt clean PIPELINE.yaml {partial.name} --yes` removes it"
        )
    return reason is None


def require_num_shards(partial: Path, num_shards: int) -> None:
    """Record the number of shards, or check that it is the recorded one. The caller holds a lock.

    Raises:
        UserError: if it is another one.
    """
    recorded = _num_shards(partial)
    if recorded is None:
        write_json(partial / WORK / _NUM_SHARDS, {"shards": num_shards})
    elif recorded != num_shards:
        raise UserError(
            f"--shard: the chunks in {partial} are divided into {recorded} shards, not {num_shards}; "
            "without --shard the same command cleans the missing ones"
        )


def shards_of(partial: Path, name: str) -> ChunkShards | None:
    """Return the shards of the cleaning pass of some text, None if it is not made in shards.

    Args:
        name: step of the cleaning pass: "train", "monolingual" or "monolingual_target".
    """
    num_shards = _num_shards(partial)
    return None if num_shards is None else ChunkShards(partial / WORK / SHARDS / name, num_shards)


def _num_shards(partial: Path) -> int | None:
    path = partial / WORK / _NUM_SHARDS
    record = read_optional_json(path, required={"shards": int})
    if record is not None and record["shards"] < 1:
        raise UserError(f"{path}: 'shards' is less than 1")
    return None if record is None else record["shards"]


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
