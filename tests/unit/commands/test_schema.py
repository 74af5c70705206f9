"""Tests of `kdmt schema`: it prints the JSON schema of pipeline files."""

from __future__ import annotations

import io
import json

from tiny_pipeline import kdmt

from kdmt.commands.schema import write_schema
from kdmt.config.reference import json_schema


def test_the_schema_is_written_as_json() -> None:
    out = io.StringIO()
    write_schema(out)
    assert json.loads(out.getvalue()) == json_schema()
    assert out.getvalue().endswith("}\n")


def test_the_command_prints_it() -> None:
    result = kdmt("schema")
    assert result.code == 0
    assert json.loads(result.out)["title"] == "kdmt pipeline"
