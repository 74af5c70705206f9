"""The modules that read a clock, and for what purpose: no clock decides anything that changes results."""

from __future__ import annotations

import ast
from pathlib import Path

import kdmt

PACKAGE = Path(kdmt.__file__).parent
CLOCKS = {"time", "timeit", "datetime"}
READERS = {
    # reports to the user, measured speeds
    "score/latency.py": "sentences a second",
    "commands/generate.py": "sentences a second",
    "commands/status.py": "age of each stage",
    "flow/progress.py": "progress of prepare",
    "workers/progress.py": "progress of decoding",
    "train/meter.py": "tokens a second",
    "train/data.py": "share of the time that training waits for data",
    "train/run_log.py": "progress of training",
    "workers/worker.py": "the worker's log",
    "commands/arrivals.py": "how long translate waits for more lines; a translation does not depend on its batch",
    # when to save, to give up or to try again; the outputs are the same
    "decode/engines/worker.py": "sentences a second of an engine, and how long it loads",
    "serve/app.py": "seconds of a request, in the metrics of the server",
    "serve/batching.py": "how long the server waits for more sentences; a translation does not depend on its batch",
    "tracking/trackers.py": "times of metrics in MLflow",
    "train/loop.py": "save_interval_minutes: a checkpoint more, which counts for no average",
    "corpus/connection.py": "how long a server may be silent",
    "distill/chat_client.py": "how long a server may take to answer",
    "corpus/embeddings.py": "how long a command may take to answer",
    "rank_channel.py": "how long ranks wait for one another",
    "workers/scheduler.py": "workers that are silent for too long; their blocks are decoded again",
    "workers/processes.py": "the same",
    "workers/ray_actors.py": "the same",
}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_the_modules_that_read_a_clock_are_known() -> None:
    """Check the list of modules that read a clock.

    Add a new module above with its purpose, which must not be a choice that changes results.
    """
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if _imports(path) & CLOCKS and "fairseq_plugin" not in path.parts
    }
    assert found == set(READERS)
