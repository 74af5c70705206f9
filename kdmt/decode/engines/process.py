"""An engine in a process of its own (`kdmt.decode.engines.worker`), whose speed and memory are measured there.

Marian and Bergamot run in environments of their own (`make deploy-envs`). This module does not load PyTorch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from kdmt.config import Decode, NATDecode
from kdmt.decode.engines import worker
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.score.deployment import EngineMeasurement

_LAST_LINES = 5  # of what an engine printed, in the message of an error
# longest time for a reply, after which the process is ended: a constant part, and one for each sentence
_MOST_SECONDS, _MOST_SECONDS_PER_SENTENCE = 3600.0, 10.0
_VERSION_PROGRAM = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"


@dataclass(frozen=True)
class Load:
    """Model that a process loads, with its settings.

    Attributes:
        engine: library: pytorch, ctranslate2, onnxruntime, marian or bergamot.
        folder: exported model, or a checkpoint for pytorch.
        threads: number of CPU threads.
        decode: search settings.
        device: device of pytorch and ctranslate2.
        search, iterations, rescorer: settings of non-autoregressive models; see `EngineOptions`.
        shortlist: whether CTranslate2 uses the lexical shortlist of the folder.
        direction: direction of the sentences, if the model has several.
    """

    engine: str
    folder: Path
    threads: int
    decode: Decode
    device: str = "cpu"
    search: NATDecode = field(default_factory=NATDecode)
    iterations: int | None = None
    rescorer: Path | None = None
    shortlist: bool = False
    direction: Direction | None = None

    def request(self) -> dict[str, object]:
        """Return the values as JSON."""
        return {
            **{name: getattr(self, name) for name in ("engine", "threads", "device", "iterations", "shortlist")},
            "folder": str(self.folder.absolute()),
            "decode": self.decode.model_dump(),
            "search": self.search.model_dump(),
            "rescorer": None if self.rescorer is None else str(self.rescorer.absolute()),
            "direction": None if self.direction is None else str(self.direction),
        }


class EngineProcess:
    """A process with a loaded engine. Use it as a context manager.

    Args:
        load: what to load.
        python: Python of the environment in which the engine is installed; None for that of this process.

    Raises:
        UserError: if the engine cannot load the model.
    """

    def __init__(self, load: Load, python: Path | None = None) -> None:
        self._load = load
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        # `-I`, so that no module next to the program hides a library
        self._process = subprocess.Popen(
            [str(python or sys.executable), "-I", worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        own_path = [] if python is not None else [path for path in sys.path if path]
        try:
            self.loaded = self.ask({"load": {**load.request(), "path": own_path}})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Send a request and return the reply.

        Raises:
            UserError: if the engine fails, the process ends, or there is no reply for a long time.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        sentences = sum(len(value) for value in request.values() if isinstance(value, list))
        most = _MOST_SECONDS + _MOST_SECONDS_PER_SENTENCE * sentences
        is_late = threading.Event()
        timer = threading.Timer(most, self._end, [is_late])
        timer.start()
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
        if is_late.is_set() and not line.endswith(b"\n"):
            raise UserError(f"{self._load.folder}: {self._load.engine} failed: no reply within {most:,.0f} seconds")
        reply: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {"error": self._ending()}
        if "error" in reply:
            raise UserError(f"{self._load.folder}: {self._load.engine} failed: {reply['error']}")
        return reply

    def _end(self, is_late: threading.Event) -> None:
        is_late.set()
        self._process.kill()

    def _ending(self) -> str:
        """Return how the process ended, with the last lines of errors that it printed, or else its last lines."""
        code = self._process.wait()
        self._errors.seek(0)
        printed = self._errors.read().decode(errors="replace").splitlines()
        errors = [line for line in printed if "error" in line.lower()]
        return "; ".join([f"the process ended with {code}", *(errors or printed)[-_LAST_LINES:]])


@cache
def library_version(package: str, python: Path | None = None) -> str:
    """Return the name of a package with its version.

    Args:
        python: Python of the environment in which the package is installed; None for that of this process.

    Raises:
        UserError: if the environment does not have the package.
    """
    if python is None:
        return f"{package} {import_module(package).__version__}"
    command = [str(python), "-I", "-c", _VERSION_PROGRAM, package]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_MOST_SECONDS)
    except (OSError, subprocess.SubprocessError):
        raise UserError(f"{python.parents[1]}: the environment does not run, or {package!r} is not in it") from None
    return f"{package} {found.stdout.strip()}"


def measure_engine(
    process: EngineProcess, sentences: Sequence[str], *, batch_1_sentences: int
) -> tuple[EngineMeasurement, list[str]]:
    """Measure an engine that was just loaded, and return the measurement with the translations.

    Args:
        process: process that has not translated anything.
        sentences: sources, in the form that the tokenizer reads.
        batch_1_sentences: number of sentences, spread evenly over all, that are translated one by one.

    Raises:
        ValueError: if there is no sentence, or none to translate one by one.
        UserError: if the engine fails.
    """
    if not sentences or batch_1_sentences < 1:
        raise ValueError(f"nothing to time: {len(sentences)} sentences, {batch_1_sentences} of them at batch 1")
    timed = [line for line in sentences if line.strip()] or sentences  # an empty line takes no time
    count = min(batch_1_sentences, len(timed))
    singles = [timed[index * len(timed) // count] for index in range(count)]
    (first,) = process.ask({"one_by_one": singles[:1]})["seconds"]
    times = sorted(process.ask({"one_by_one": singles})["seconds"])
    whole = process.ask({"translate": list(sentences)})
    joules = whole["joules"]
    measured = EngineMeasurement(
        load_seconds=process.loaded["seconds"],
        first_sentence_ms=1000 * first,
        mean_ms=1000 * sum(times) / len(times),
        median_ms=1000 * _quantile(times, 0.5),
        p95_ms=1000 * _quantile(times, 0.95),
        sentences_per_second=len(sentences) / whole["seconds"],
        words_per_second=sum(len(line.split()) for line in sentences) / whole["seconds"],
        library_bytes=process.loaded["library_bytes"],
        resident_bytes=whole["peak_bytes"],
        joules_per_sentence=None if joules is None else joules / len(sentences),
    )
    return measured, whole["translations"]


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of ordered values, interpolated between neighbours."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
