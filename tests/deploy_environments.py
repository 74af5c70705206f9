"""Environments of programs that run exported models (`make deploy-envs`); tests with the real programs need them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / ".deploy-envs"

# Translate standard input. The arguments are those of the program's own configuration.
_PROGRAMS = {
    "marian": """
import sys
from pymarian import Translator
print(*Translator(sys.argv[1]).translate(sys.stdin.read().splitlines()), sep="\\n", file=sys.stderr)
""",
    # the package's own __init__ asks the network for a list of models
    "bergamot": """
import sys, types
from importlib.util import find_spec
package = types.ModuleType("bergamot")
package.__path__ = [sys.prefix + f"/lib/python3.{sys.version_info[1]}/site-packages/bergamot"]
sys.modules["bergamot"] = package
from bergamot import _bergamot
service = _bergamot.Service(_bergamot.ServiceConfig(numWorkers=1, logLevel="off"))
model = service.modelFromConfigPath(sys.argv[1])
lines = _bergamot.VectorString(sys.stdin.read().splitlines())
options = _bergamot.ResponseOptions(qualityScores=False, alignment=False, HTML=False)
print(*(each.target.text for each in service.translate(model, lines, options)), sep="\\n", file=sys.stderr)
""",
}
_BEGIN = "--- translations ---"


def needs(name: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test without an environment."""
    return pytest.mark.skipif(not (FOLDER / name / "complete").exists(), reason=f"make deploy-envs NAME={name}")


def translate(name: str, arguments: str, lines: list[str]) -> list[str]:
    """Translate with the program of an environment.

    Args:
        arguments: command line of Marian, or path of the configuration of Bergamot.
    """
    program = _PROGRAMS[name].replace("print(*", f"print({_BEGIN!r}, *")
    ran = subprocess.run(
        [FOLDER / name / "bin" / "python", "-c", program, arguments],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
    )
    found = ran.stderr.splitlines()
    return found[found.index(_BEGIN) + 1 :]
