"""Base class of all sections of a pipeline, bounds of numbers, kinds of settings, types that sections share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from kdmt.config.bounds import check_bounds
from kdmt.languages import code_from_yaml

KINDS = ("result", "extend", "execution")


def extend(default: Any, **rules: Any) -> Any:
    """Return a field of kind extend: the stage continues from its output if the value changes."""
    return Field(default, json_schema_extra={"kind": "extend"}, **rules)


def execution(default: Any, **rules: Any) -> Any:
    """Return a field of kind execution: the value does not change the output of the stage."""
    return Field(default, json_schema_extra={"kind": "execution"}, **rules)


def later(default: Any, **rules: Any) -> Any:
    """Return a field that is missing in records of earlier versions, which are read with its default.

    A new setting in a section that is null by default, or an item of a list, needs this. In other sections, every
    setting that a record does not have is read with its default.
    """
    return Field(default, json_schema_extra={"later": True}, **rules)


def recorded_if_set(default: Any, **rules: Any) -> Any:
    """Return a field that records have only if its value is not the default.

    Records of pipelines that do not use the setting are then the same as before the setting existed.
    """
    return Field(default, json_schema_extra={"later": True, "recorded_if_set": True}, **rules)


def later_without_settings(**rules: Any) -> Any:
    """Return a field that is `later`, for a section without settings that is null by default.

    Where the section was given, the records of earlier versions have nothing; where it was not, they have null.
    """
    return Field(None, json_schema_extra={"later": True, "unwritten": True}, **rules)


def is_recorded(field: FieldInfo, value: object) -> bool:
    """Return whether records have a setting with this value; all do but those of `recorded_if_set`."""
    extra = field.json_schema_extra
    if not (isinstance(extra, dict) and extra.get("recorded_if_set") is True):
        return True
    return value != field.get_default(call_default_factory=True)


def kind_of(field: FieldInfo) -> str:
    """Return the kind of a setting: result, extend or execution."""
    extra = field.json_schema_extra
    return str(extra.get("kind", "result")) if isinstance(extra, dict) else "result"


class Section(BaseModel):
    """Validate one mapping of the YAML file: frozen, without unknown keys, without conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _bounded(cls, value: object, info: ValidationInfo) -> object:
        check_bounds(str(info.field_name), value)
        return value

    def fixed(self) -> dict[str, str]:
        """Return the settings of the kind extend that are result settings here, because of others, with the reason."""
        return {}


def changed(section: Section) -> list[str]:
    """Return the names of the settings that differ from their defaults.

    `model_fields_set` is not sufficient, because a file may write out defaults, as the configuration stored with a run
    does.
    """
    fields = type(section).model_fields
    return [
        name for name, field in fields.items() if not field.is_required() and getattr(section, name) != field.default
    ]


def _ratio(value: float) -> float:
    if 0.0 < value <= 1.0:
        raise ValueError("should be greater than 1, or 0 for no limit")
    return value


def _two_or_none(value: int) -> int:
    if value == 1:
        raise ValueError("should be at least 2, or 0 for no limit")
    return value


def sections_in(annotation: object) -> list[tuple[type[Section], str]]:
    """Return the sections within the type of a setting, each with the suffix of its path after the setting's name.

    The suffix is `.N` for the items of a list, `.NAME` for the values of a mapping, and empty for a section itself.
    """
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [(annotation, "")]
    origin = get_origin(annotation)
    suffix = ".N" if origin is list else ".NAME" if origin is dict else ""
    found = [pair for part in get_args(annotation) for pair in sections_in(part)]
    return [(section, f"{suffix}{below}") for section, below in found]


Ratio = Annotated[float, AfterValidator(_ratio)]
TokenLimit = Annotated[int, AfterValidator(_two_or_none)]
RepetitionTimes = Annotated[int, AfterValidator(_two_or_none)]
LanguageCode = Annotated[str, BeforeValidator(code_from_yaml)]
SchedulePoint = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=0.0, le=1.0)]], Strict(False)]


def check_increasing(setting: str, points: Sequence[tuple[int, float]] | None) -> None:
    """Check that the updates of a schedule increase.

    Raises:
        ValueError: if they do not; the message has the name of the setting.
    """
    updates = [update for update, _ in points or ()]
    if updates != sorted(set(updates)):
        raise ValueError(f"'{setting}': the updates must increase")
