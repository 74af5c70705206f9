"""`kdmt schema`: write a JSON schema of pipeline files, for editors that complete and check YAML."""

from __future__ import annotations

import json
from typing import TextIO

from kdmt.config.reference import json_schema


def write_schema(out: TextIO) -> None:
    """Write the JSON schema of pipeline files to a stream."""
    out.write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
