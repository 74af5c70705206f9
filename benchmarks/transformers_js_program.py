"""Translation with Transformers.js in Node.js (`make deploy-envs NAME=transformers-js`), without a network."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from figures import REPOSITORY

ENVIRONMENT = REPOSITORY / ".deploy-envs" / "transformers-js"
_PROGRAM = """
import { pipeline, env } from '@huggingface/transformers';
import { readFileSync } from 'node:fs';
env.allowRemoteModels = false;
env.localModelPath = '.';
const { lines, dtype, limit } = JSON.parse(readFileSync(0, 'utf8'));
const translate = await pipeline('translation', 'model', { dtype });
const found = [];
for (const line of lines) found.push((await translate(line, { max_new_tokens: limit }))[0].translation_text);
console.log(JSON.stringify(found));
"""


def translate(model: Path, lines: Sequence[str], *, dtype: Literal["fp32", "q8"] = "fp32", limit: int) -> list[str]:
    """Translate lines, one at a time.

    Args:
        model: folder that `kdmt export --to transformers-js` wrote.
        limit: maximum number of tokens.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "program.mjs").write_text(_PROGRAM, encoding="utf-8")
        (folder / "node_modules").symlink_to(ENVIRONMENT / "node_modules")
        (folder / "model").symlink_to(model.absolute())
        ran = subprocess.run(
            ["node", "program.mjs"],
            cwd=folder,
            input=json.dumps({"lines": list(lines), "dtype": dtype, "limit": limit}),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found: list[str] = json.loads(ran.stdout.splitlines()[-1])
    return found
