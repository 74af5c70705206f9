"""Plans and manifests: what a stage was made from, and whether it is up to date, by content and not by file times.

`plan.json` is written when a stage starts, `manifest.json` when it is complete. Both hold the stage's settings and the
SHA-256 of its inputs; the manifest adds outputs, facts and library versions. Neither contains times or host names.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from kdmt.checksum import file_sha256, known_sha256
from kdmt.config import REQUIRED, Section, flatten_settings
from kdmt.errors import UserError
from kdmt.files import atomic_file, check_file, check_keys, read_json_object, read_optional_json, write_json
from kdmt.flow.folders import earlier_states, make_folder, move_aside, put_in_place

State = Literal["fresh", "new", "unfinished", "extend", "stale"]

_COPIES = "beside"  # folder in an earlier state: copies of its outputs outside the stage's folder
LIBRARIES = ("numpy", "sacrebleu", "sentencepiece", "subword-nmt", "torch")


@dataclass(frozen=True)
class Plan:
    """The settings and inputs that a stage is made from."""

    settings: dict[str, object]  # result settings: dotted path -> JSON value
    extend: dict[str, object]  # extend settings
    inputs: dict[str, str]  # name -> SHA-256
    defaults: dict[str, object] = field(default_factory=dict)  # defaults of the settings that have one; not written
    reasons: dict[str, str] = field(default_factory=dict)  # why a change of a setting redoes the stage; not written
    paths: dict[str, str] = field(default_factory=dict)  # YAML paths of settings with another name; not written
    # values in records that have other settings of the same section, but not these; not written
    unwritten: dict[str, object] = field(default_factory=dict)
    execution: frozenset[str] = frozenset()  # settings that the output does not depend on; not written

    def depending_on(self, name: str, value: object, *, default: object) -> Plan:
        """Return the plan with an additional setting; a record without it counts as having the default."""
        return replace(self, settings=self.settings | {name: value}, defaults=self.defaults | {name: default})

    def as_dict(self) -> dict[str, Any]:
        """Return the parts that are written to files, as JSON values."""
        # converted to JSON and back, so that a plan equals one that was read from a file
        return json.loads(json.dumps({"settings": self.settings, "extend": self.extend, "inputs": self.inputs}))


@dataclass(frozen=True)
class Status:
    """State of a stage's folder relative to its plan, with the reasons if it is not up to date."""

    state: State
    reasons: list[str] = field(default_factory=list)

    def explain(self) -> str:
        """Return the reasons as one line."""
        return "; ".join(self.reasons)


def make_plan(sections: Mapping[str, Section], extra: Mapping[str, object], inputs: Mapping[str, str]) -> Plan:
    """Return the plan of a stage that depends on sections (YAML path -> section) and the settings in `extra`."""
    settings: dict[str, object] = dict(extra)
    extend: dict[str, object] = {}
    defaults: dict[str, object] = {}
    reasons: dict[str, str] = {}
    unwritten: dict[str, object] = {}
    execution: list[str] = []
    for path, section in sections.items():
        for key, setting in flatten_settings(section).items():
            name = f"{path}.{key}"
            if setting.kind == "execution":
                execution.append(name)
                continue
            values = extend if setting.kind == "extend" else settings
            values[name] = setting.value
            if setting.default is not REQUIRED:
                defaults[name] = setting.default
            if setting.unwritten is not REQUIRED:
                unwritten[name] = setting.unwritten
            if setting.reason:
                reasons[name] = setting.reason
    return Plan(settings, extend, dict(inputs), defaults, reasons, unwritten=unwritten, execution=frozenset(execution))


def check_status(folder: Path, plan: Plan) -> Status:
    """Compare a stage's folder with its plan, and return its status."""
    complete = (folder / "manifest.json").is_file()
    recorded = _recorded(folder)
    if recorded is None:
        return Status("new", ["it was never made"])
    wanted = plan.as_dict()
    _use_wanted_kinds(recorded, wanted)
    recorded["settings"] |= _unwritten(recorded["settings"], plan)
    # a record of a version without a setting counts as having its default, and one of a version in which a setting of
    # the kind execution was of another kind counts as not having it
    for kind in ("settings", "extend"):
        recorded[kind] = {key: value for key, value in recorded[kind].items() if key not in plan.execution}
        known_later = {key: value for key, value in plan.defaults.items() if key in wanted[kind]}
        recorded[kind] = json.loads(json.dumps(known_later)) | recorded[kind]
    reasons = [
        *_differences("setting", recorded["settings"], wanted["settings"], plan.reasons, plan.paths),
        *_differences("input", recorded["inputs"], wanted["inputs"]),
    ]
    if complete:
        reasons += _lowered(recorded["extend"], wanted["extend"], plan.paths)
    if reasons:
        return Status("stale", reasons)
    if not complete:
        return Status("unfinished", ["it was started and not finished"])
    _check_record(folder / "manifest.json", recorded, ("outputs",))
    if damaged := _damaged_outputs(folder, recorded["outputs"]):
        return Status("unfinished", damaged)  # the stage is made again from its checkpoints or blocks
    if extended := _differences("setting", recorded["extend"], wanted["extend"], paths=plan.paths):
        return Status("extend", extended)
    return Status("fresh")


def _recorded(folder: Path) -> dict[str, Any] | None:
    for name in ("manifest.json", "plan.json"):
        record = read_optional_json(folder / name)
        if record is not None:
            _check_record(folder / name, record, ("settings", "extend", "inputs"))
            return record
    return None


def _check_record(path: Path, record: Mapping[str, Any], parts: Iterable[str]) -> None:
    """Check the format of a plan or a manifest.

    Raises:
        UserError: if it is wrong.
    """
    check_keys(record, dict.fromkeys(parts, dict), f"{path}: not the record of a stage")
    for part in ("inputs", "outputs"):
        if not all(isinstance(sha256, str) for sha256 in record.get(part, {}).values()):
            raise UserError(f"{path}: not the record of a stage: {part!r} are not all sha256")


def recorded_plan(folder: Path) -> Plan | None:
    """Return the plan that a folder was or is being made from, None if no stage has been started there."""
    recorded = _recorded(folder)
    return None if recorded is None else Plan(recorded["settings"], recorded["extend"], recorded["inputs"])


def begin(folder: Path, plan: Plan, config: Mapping[str, object]) -> None:
    """Open a stage's folder for work; a state that does not match the plan is renamed."""
    state = check_status(folder, plan).state
    if state in ("stale", "new"):
        _set_aside(folder)
    make_folder(folder)
    write_json(folder / "plan.json", plan.as_dict())
    (folder / "manifest.json").unlink(missing_ok=True)  # after the plan, so that one of them always exists
    write_json(folder / "config.json", config)


def take_back(folder: Path, plan: Plan, extent: Callable[[Path], int] = lambda _: 0) -> Path | None:
    """Exchange the folder for an earlier state that matches the plan, if there is one.

    A setting that is changed by mistake and changed back thus gets its previous result. If several states match, a
    complete one is chosen, otherwise the one with the largest extent.

    Args:
        extent: function that returns the amount of work in a state.

    Returns:
        The path under which the earlier state was kept, None if none matches.
    """
    fitting = {state: check_status(state, plan).state for state in earlier_states(folder)}
    found = [state for state, status in fitting.items() if status in ("fresh", "extend", "unfinished")]
    if not found:
        return None
    best = max(found, key=lambda state: (fitting[state] == "fresh", extent(state)))
    _set_aside(folder)  # first, so that both states keep names of earlier states if the process is killed in between
    put_in_place(best, folder)
    _bring_back_outputs(folder)
    return best


def _set_aside(folder: Path) -> None:
    """Rename a state, after copying outputs outside its folder into it, since the next state overwrites them."""
    for output, copy in _outputs_outside(folder):
        if output.is_file():
            _copy_whole(output, copy)
    move_aside(folder)


def _bring_back_outputs(folder: Path) -> None:
    for output, copy in _outputs_outside(folder):
        if copy.is_file():
            _copy_whole(copy, output)


def _outputs_outside(folder: Path) -> list[tuple[Path, Path]]:
    """Return each output of a complete stage outside its folder, with the path of its copy inside."""
    outside = [output_path(folder, name) for name in recorded_outputs(folder) if name.startswith(os.pardir)]
    return [(output, folder / _COPIES / output.name) for output in outside]


def _copy_whole(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    with atomic_file(target) as aside:
        shutil.copyfile(source, aside)


def finish(folder: Path, plan: Plan, *, outputs: Iterable[Path], facts: Mapping[str, object]) -> None:
    """Write the manifest, which declares a stage complete.

    Args:
        outputs: files of the stage, usually inside its folder.
        facts: counts and scores of the stage.
    """
    write_json(
        folder / "manifest.json",
        {
            **plan.as_dict(),
            "outputs": {os.path.relpath(path, folder): known_sha256(path) for path in sorted(outputs)},
            "facts": dict(facts),
            "versions": software_versions(),
        },
    )
    (folder / "plan.json").unlink(missing_ok=True)


def replace_output(folder: Path, path: Path) -> None:
    """Record the checksum of an output of a complete stage that was written again; the stage stays up to date."""
    manifest = read_json_object(folder / "manifest.json", required={"outputs": dict})
    manifest["outputs"][os.path.relpath(path, folder)] = known_sha256(path)
    write_json(folder / "manifest.json", manifest)


def recorded_versions(folder: Path) -> dict[str, str]:
    """Return the software versions with which a complete stage was made; an empty mapping if it is not complete."""
    versions = (read_optional_json(folder / "manifest.json") or {}).get("versions")
    return versions if isinstance(versions, dict) else {}


def software_versions() -> dict[str, str]:
    """Return the versions of kdmt and of the libraries that results may depend on."""
    return {"kdmt": version("kdmt"), **{name: version(name) for name in LIBRARIES}}


def recorded_outputs(folder: Path) -> dict[str, str]:
    """Return the outputs of a complete stage (relative path -> SHA-256), an empty mapping if it is not complete."""
    manifest = read_optional_json(folder / "manifest.json")
    if manifest is None:
        return {}
    _check_record(folder / "manifest.json", manifest, ("outputs",))
    return manifest["outputs"]


def check_outputs(folder: Path) -> None:
    """Read all outputs of a complete stage and check their checksums.

    Raises:
        UserError: if there is a checksum mismatch; the message names the file.
    """
    for name, sha256 in recorded_outputs(folder).items():
        path = output_path(folder, name)
        if file_sha256(path) != sha256:
            raise UserError(f"{path}: not the file that was made: its sha256 differs")


def output_path(folder: Path, name: str) -> Path:
    """Return the path of a recorded output; `../name` is next to the folder, even if that is a symbolic link."""
    return Path(os.path.normpath(folder / name))


def file_input(path: Path) -> str:
    """Return the SHA-256 of a file in the settings.

    Raises:
        UserError: if there is no such file.
    """
    check_file(path)
    return known_sha256(path)


def _damaged_outputs(folder: Path, outputs: Mapping[str, str]) -> list[str]:
    reasons = []
    for name, expected in outputs.items():
        path = output_path(folder, name)
        if not path.is_file():
            reasons.append(f"its output {name} is missing")
        elif known_sha256(path) != expected:
            reasons.append(f"its output {name} was changed")
    return reasons


def _lowered(old: Mapping[str, Any], new: Mapping[str, Any], paths: Mapping[str, str]) -> list[str]:
    """Return a reason for each number that was lowered: a stage with more updates cannot be extended to fewer."""
    return [
        f"the setting {paths.get(key, key)} was lowered from {old[key]!r} to {new[key]!r}"
        for key in sorted(old.keys() & new.keys())
        if isinstance(new[key], int) and new[key] < old[key]
    ]


def _unwritten(recorded: Mapping[str, Any], plan: Plan) -> dict[str, object]:
    """Return settings of sections in a record that its version did not write, with the values that they had."""
    sections = {key.rpartition(".")[0] for key in recorded}
    return {
        key: value
        for key, value in plan.unwritten.items()
        if key not in recorded and key.rpartition(".")[0] in sections
    }


def _use_wanted_kinds(recorded: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """Move settings that a plan has as another kind than the record, so that their values are compared."""
    for kind, other in (("settings", "extend"), ("extend", "settings")):
        for key in recorded[kind].keys() & wanted[other].keys():
            recorded[other][key] = recorded[kind].pop(key)


def _differences(
    noun: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    why: Mapping[str, str] | None = None,
    paths: Mapping[str, str] | None = None,
) -> list[str]:
    """Return a line for each difference, with the reason in `why` and the YAML path in `paths` where there is one."""
    reasons = []
    for key in sorted(old.keys() | new.keys()):
        path = key if paths is None else paths.get(key, key)
        if key not in new:
            reasons.append(f"the {noun} {path} is gone")
        elif key not in old:
            reasons.append(f"the {noun} {path} is new")
        elif old[key] != new[key]:
            change = f" from {old[key]!r} to {new[key]!r}" if noun == "setting" else ""
            reason = f" ({why[key]})" if why and key in why else ""
            reasons.append(f"the {noun} {path} changed{change}{reason}")
    return reasons
