"""Strict reading of YAML: bounded in size, without duplicate keys, with the types of JSON; and writing of it."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

from kdmt.config.messages import quote

_MOST_NODES = 100_000  # maximum number of values of a document, with those of an alias counted at each use
_LONGEST_NUMBER = 100  # maximum number of characters


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        yaml.YAMLError: if the text is not valid YAML, or its values are too many, nested too deeply or cannot be read.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_nodes(node)
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    finally:
        loader.dispose()


def _count_nodes(root: yaml.Node) -> None:
    """Check that a document does not contain itself and is not too large with its aliases and merges expanded."""
    counts: dict[int, int | None] = {}  # None while the content of a node is counted

    def count(node: yaml.Node) -> int:
        known = counts.get(id(node), 0)
        if known is None:
            raise yaml.constructor.ConstructorError(None, None, "an anchor that contains itself", node.start_mark)
        if known:
            return known
        counts[id(node)] = None
        below: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        total = 1 + sum(map(count, below))
        if total > _MOST_NODES:
            raise yaml.constructor.ConstructorError(
                None, None, f"more than {_MOST_NODES:,} values, aliases written out", node.start_mark
            )
        counts[id(node)] = total
        return total

    count(root)


class _Loader(yaml.SafeLoader):
    """YAML loader in which a duplicate key is an error, and `5e-4` is a number.

    Only the tags of JSON values are supported. What YAML 1.1 reads as a date or as a number to the base of 60 or 8
    (`1:30`, `010`) is text here, so that it is rejected for a setting that is a number.
    """

    _nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > _MOST_NODES:  # checked early, so that a large file is not read completely
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, f"more than {_MOST_NODES:,} values", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == f"{_TAG}merge":  # `<<: *anchor`, whose keys may be repeated
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # rejected below, with its position
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {quote(key)} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_TAG = "tag:yaml.org,2002:"


def _construct_scalar(tag: str) -> Any:
    """Return a PyYAML constructor whose errors have the position of a value that cannot be read (`!!int abc`)."""
    construct = yaml.SafeLoader.yaml_constructors[f"{_TAG}{tag}"]

    def checked(loader: _Loader, node: yaml.Node) -> Any:
        if tag in ("int", "float") and len(str(node.value)) > _LONGEST_NUMBER:
            reason = f"a number of more than {_LONGEST_NUMBER} characters"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark)
        try:
            return construct(loader, node)
        except (ValueError, KeyError, OverflowError):
            reason = f"{quote(node.value)} cannot be read as {tag}"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from None

    return checked


_Loader.yaml_constructors = {
    **{f"{_TAG}{tag}": _construct_scalar(tag) for tag in ("bool", "int", "float")},
    **{f"{_TAG}{tag}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{tag}"] for tag in ("null", "str", "seq", "map")},
    None: yaml.SafeLoader.yaml_constructors[None],
}
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in (f"{_TAG}timestamp", f"{_TAG}int", f"{_TAG}float", f"{_TAG}value")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}int",
    re.compile(r"[-+]?(0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
# YAML 1.1 accepts an exponent only after a decimal point and with a sign
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def write_yaml(values: object) -> str:
    """Return YAML text that `read_yaml` reads as the same values: mappings in their order, text of any length unbroken.

    A tuple is written as a list. Lists of plain values are on one line, text of several lines is a block.
    """
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)


class _Dumper(yaml.SafeDumper):
    """YAML writer without aliases, which quotes text that PyYAML or `read_yaml` would read as another type."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(f"{_TAG}str", text, style="|" if "\n" in text else None)


def _represent_list(dumper: _Dumper, values: list[Any] | tuple[Any, ...]) -> yaml.SequenceNode:
    is_flat = not any(isinstance(value, (list, tuple, dict)) for value in values)
    return dumper.represent_sequence(f"{_TAG}seq", values, flow_style=is_flat)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(tuple, _represent_list)
_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in yaml.SafeDumper.yaml_implicit_resolvers.keys() | _Loader.yaml_implicit_resolvers.keys()
}
