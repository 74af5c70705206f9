"""Reference of all settings, as Markdown for the documentation and as a JSON schema for editors.

Both are made from the models: name, type, bounds, default, kind and description of each setting.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from kdmt.config.bounds import largest
from kdmt.config.pipeline import Pipeline
from kdmt.config.section import Section, kind_of, sections_in
from kdmt.config.student import NOT_OF_A_STAGE
from kdmt.config.training import TEACHER_NOT_OF_A_STAGE

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN_TYPES: dict[object, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
_SIGNS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))
_QUOTED = re.compile(r"(?<!\w)'([^']+)'(?!\w)")  # a setting or a value in a description
_CODE_OR_TAG = re.compile(r"(?P<code>`[^`]*`)|<")  # Markdown shows `<` in code as it is


# ----------------------------------------------------------------------------------------------------------- Markdown


@dataclass(frozen=True)
class Row:
    """A setting as one line of the reference; all but the name are Markdown."""

    name: str
    type: str
    default: str
    kind: str  # empty for sections, because each of their settings has its own kind
    description: str


@dataclass(frozen=True)
class Table:
    """The settings of one section."""

    paths: tuple[str, ...]  # dotted paths at which a pipeline has the section; NAME and N for keys and indices
    description: str
    rows: tuple[Row, ...]


def settings_markdown() -> str:
    """Return the reference of all settings: a heading, a description and a table for each section."""
    return "\n\n".join(_table_markdown(table) for table in settings_tables())


def settings_tables() -> list[Table]:
    """Return a table for each section, in the order in which a pipeline has them."""
    paths: dict[type[Section], list[str]] = {}
    for path, section in _walk(Pipeline, ""):
        paths.setdefault(section, []).append(path)
    shared = Counter(found[0] for found in paths.values())
    for section, found in paths.items():
        if shared[found[0]] > 1:  # alternatives, which the first setting of their own distinguishes
            found[0] = f"{found[0]} ({next(iter(section.__annotations__))})"
    first = {section: found[0] for section, found in paths.items()}
    return [
        Table(
            tuple(found),
            _escape(_one_line(section.__doc__ or "")),
            tuple(_row(name, field, first) for name, field in section.model_fields.items()),
        )
        for section, found in paths.items()
    ]


def _walk(section: type[Section], path: str) -> Iterator[tuple[str, type[Section]]]:
    yield path, section
    for name, field in section.model_fields.items():
        for below, suffix in sections_in(field.annotation):
            yield from _walk(below, f"{path}.{name}{suffix}".removeprefix("."))


def _row(name: str, field: FieldInfo, first: dict[type[Section], str]) -> Row:
    nested = sections_in(field.annotation)
    kind = "" if nested and not field.json_schema_extra else kind_of(field)
    type_name = _type_name(field.annotation, field.metadata, first)
    return Row(name, type_name, _default(field), kind, _markdown(field.description or ""))


def _markdown(description: str) -> str:
    """Return a description with quoted names as code, and with `<` and `|` escaped for HTML and Markdown tables."""
    return _escape(_QUOTED.sub(r"`\1`", description)).replace("|", "\\|")


def _escape(text: str) -> str:
    return _CODE_OR_TAG.sub(lambda found: found["code"] or "&lt;", text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _type_name(annotation: object, metadata: Sequence[object], first: dict[type[Section], str]) -> str:
    """Return the type of a setting in words, with the bounds among its metadata."""
    *others, last = _type_names(annotation, metadata, first)
    return f"{', '.join(others)} or {last}" if others else last


def _type_names(annotation: object, metadata: Sequence[object], first: dict[type[Section], str]) -> list[str]:
    """Return the alternatives of a type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_names(arguments[0], [*arguments[1:], *metadata], first)
    if origin in (Union, UnionType):
        return [name for each in arguments for name in _type_names(each, metadata, first)]
    if origin is Literal:
        return [f"`{value}`" for value in arguments]
    if origin is list:
        return [f"list of {_type_name(arguments[0], [], first)}"]
    if origin is tuple:
        return [f"[{', '.join(_type_name(each, [], first) for each in arguments)}]"]
    if origin is dict and arguments[1] is Any:
        return ["mapping of settings"]
    if origin is dict:
        return [f"mapping from name to {_type_name(arguments[1], [], first)}"]
    if annotation is NoneType:
        return ["null"]
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [f"[{_section_name(first[annotation])}](#{_anchor(first[annotation])})"]
    return [f"{_PLAIN_TYPES[annotation]}{_bounds(metadata) if annotation in (int, float) else ''}"]


def _bounds(metadata: Sequence[object]) -> str:
    signs = [(sign, getattr(rule, name)) for kind, name, sign in _SIGNS for rule in metadata if type(rule) is kind]
    return " " + ", ".join(f"{sign} {value:g}" for sign, value in signs) if signs else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Section):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _section_name(path: str) -> str:
    return f"`{path}`" if path else "the pipeline"


def _anchor(path: str) -> str:
    return f"settings-{re.sub(r'[. (]+', '-', path.lower().rstrip(')'))}" if path else "settings-pipeline"


def _table_markdown(table: Table) -> str:
    path, *others = table.paths
    title = _section_name(path) if path else "The whole file"
    also = f"Also: {', '.join(map(_section_name, others))}.\n\n" if others else ""
    names = [part for part in path.split(".") if part not in ("N", "NAME")]
    level = "##" if len(names) == 1 else "###"
    rows = [f"| `{row.name}` | {row.type} | {row.default} | {row.kind} | {row.description} |" for row in table.rows]
    head = "| setting | type | default | kind | description |\n| --- | --- | --- | --- | --- |"
    return f"{level} {title} {{ #{_anchor(path)} }}\n\n{table.description}\n\n{also}{head}\n" + "\n".join(rows)


# --------------------------------------------------------------------------------------------------------- JSON schema


class _WithoutTitles(GenerateJsonSchema):
    """Leave out the titles of settings, which repeat their names."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002
        return False


def json_schema() -> dict[str, Any]:
    """Return a JSON schema of pipeline files, with the kind, the bounds and the description of each setting."""
    schema = Pipeline.model_json_schema(schema_generator=_WithoutTitles)
    definitions = schema.pop("$defs")
    for section in (schema, *definitions.values()):
        section["description"] = _one_line(section["description"])
        for name, setting in section.get("properties", {}).items():
            for mark in ("later", "recorded_if_set", "unwritten"):
                setting.pop(mark, None)
            if not _refers_to_section(setting):
                setting.setdefault("kind", "result")
            _add_bounds(setting, largest(name))
    _add_stage_settings(definitions)
    del definitions["NAT"]["required"]  # a recipe may give the family
    return {"$schema": SCHEMA_DIALECT, **schema, "title": "kdmt pipeline", "$defs": definitions}


def _add_stage_settings(definitions: dict[str, Any]) -> None:
    """Add the settings that a stage of a teacher or student may have: those of the model and of `train`.

    Of sections within them a stage may have any part, which only the loader can check.
    """
    for owner, refused in (("Teacher", TEACHER_NOT_OF_A_STAGE), ("Student", NOT_OF_A_STAGE)):
        own, train = (definitions[name]["properties"] for name in (owner, "Train"))
        found = {name: setting for name, setting in {**own, **train}.items() if name not in refused}
        for name, setting in found.items():
            if _refers_to_section(setting) and not _may_be_list(setting):
                found[name] = {"type": ["object", "null"], "description": setting.get("description", "")}
        stage = {"type": "object", "properties": found, "additionalProperties": False}
        stages = next(each for each in own["stages"]["anyOf"] if each.get("type") == "array")
        stages["items"] = stage


def _may_be_list(schema: dict[str, Any]) -> bool:
    return any(each.get("type") == "array" for key in ("anyOf", "oneOf") for each in schema.get(key, ()))


def _refers_to_section(schema: object) -> bool:
    if isinstance(schema, list):
        return any(map(_refers_to_section, schema))
    if not isinstance(schema, dict):
        return False
    return "$ref" in schema or any(
        _refers_to_section(schema.get(key)) for key in ("anyOf", "oneOf", "items", "additionalProperties")
    )


def _add_bounds(schema: Any, bound: float) -> None:
    """Add the upper bound of a setting's numbers, and the lower one of those that may be negative."""
    if isinstance(schema, list):
        for each in schema:
            _add_bounds(each, bound)
        return
    if not isinstance(schema, dict):
        return
    if schema.get("type") in ("integer", "number"):
        if not schema.keys() & {"maximum", "exclusiveMaximum"}:
            schema["maximum"] = bound
        if not schema.keys() & {"minimum", "exclusiveMinimum"}:
            schema["minimum"] = -bound
    for key in ("anyOf", "oneOf", "items", "prefixItems"):
        _add_bounds(schema.get(key), bound)
