"""Settings by dotted path, for manifests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kdmt.config.section import KINDS, Section, is_recorded, kind_of


def resolved(section: Section) -> dict[str, Any]:
    """Return a section with all defaults written out, as plain YAML/JSON values."""
    return _without_unrecorded(section, section.model_dump(mode="json"))


def _without_unrecorded(value: Any, dumped: Any) -> Any:
    """Return the dumped form of a value without the settings in it that are not recorded."""
    if isinstance(value, Section):
        fields = type(value).model_fields
        return {
            name: _without_unrecorded(getattr(value, name), item)
            for name, item in dumped.items()
            if is_recorded(fields[name], getattr(value, name))
        }
    if isinstance(value, dict):
        return {key: _without_unrecorded(value[key], item) for key, item in dumped.items()}
    if isinstance(value, list):
        return [_without_unrecorded(*both) for both in zip(value, dumped, strict=True)]
    return dumped


REQUIRED = object()


@dataclass(frozen=True)
class Setting:
    """One value of a section."""

    value: Any
    default: Any  # REQUIRED if there is none
    kind: str
    reason: str = ""  # why a setting of the kind extend is a result setting here
    # value in records of earlier versions that have other settings of the section but not this one; REQUIRED if none
    unwritten: Any = REQUIRED


def flatten_settings(section: Section, kind: str | None = None) -> dict[str, Setting]:
    """Return the settings of one kind by dotted path, in which list items have their index, as in `train.0.weight`.

    Without a kind, return all settings.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not one of {KINDS}")
    return {path: setting for path, setting in _leaves(section, "") if kind in (None, setting.kind)}


def _leaves(section: Section, prefix: str, *, expected: bool = True) -> Iterator[tuple[str, Setting]]:
    """Yield the dotted path and the value of each setting in a section.

    Args:
        expected: whether the section exists by default, so that a setting that a record does not have had its default.
    """
    fixed = section.fixed()
    for name, field in type(section).model_fields.items():
        if not is_recorded(field, getattr(section, name)):
            continue
        if name in fixed:
            yield f"{prefix}{name}", Setting(getattr(section, name), field.default, "result", fixed[name])
            continue
        extra = field.json_schema_extra
        later = isinstance(extra, dict) and extra.get("later") is True
        known = (expected or later) and not field.is_required()
        default = field.get_default(call_default_factory=True) if known else REQUIRED
        leaves = _leaf_values(getattr(section, name), f"{prefix}{name}", default, kind_of(field))
        if isinstance(extra, dict) and extra.get("unwritten") is True:
            leaves = ((path, replace(setting, unwritten={})) for path, setting in leaves)
        yield from leaves


def _leaf_values(value: object, path: str, default: object, kind: str) -> Iterator[tuple[str, Setting]]:
    if isinstance(value, Section):
        leaves = list(_leaves(value, f"{path}.", expected=isinstance(default, Section)))
        yield from leaves
        if not leaves and not isinstance(default, Section):
            yield path, Setting({}, REQUIRED, kind)  # a section without settings, which is null by default
    elif isinstance(value, dict):
        for key, item in value.items():
            if item == {}:
                yield f"{path}.{key}", Setting(item, REQUIRED, kind)
            yield from _leaf_values(item, f"{path}.{key}", REQUIRED, kind)
    elif isinstance(value, list) and any(isinstance(item, Section) for item in value):
        for position, item in enumerate(value):
            yield from _leaf_values(item, f"{path}.{position}", REQUIRED, kind)
    else:  # with `clean: none`, the default is a section, which is not a value that the record of a stage can hold
        yield path, Setting(value, REQUIRED if isinstance(default, Section) else default, kind)
