"""The protocol of `kdmt.score.scorers` from the side of a scorer. It needs nothing but Python's standard library."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TextIO

Segment = dict[str, str]  # `source`, `hypothesis` and perhaps `reference`


def serve(
    score: Callable[[Sequence[Segment]], Sequence[float]],
    *,
    scorer: str,
    signature: str,
    packages: Sequence[str] = (),
    licence: str = "",
    batch_size: int = 16,
    output: TextIO,
) -> None:
    """Answer the segments on standard input until its end.

    Segments that arrive together are sorted by length and scored `batch_size` at a time.

    Args:
        score: function that returns a score for each segment.
        scorer: name of the metric or the model.
        signature: text with everything that scores depend on, except the model's file.
        packages: packages whose versions are part of the greeting.
        licence: licence of the model.
        batch_size: number of segments that are scored at once.
        output: stream from `take_output`.
    """
    greeting = {"scorer": scorer, "signature": signature, "versions": versions(packages), "licence": licence}
    _write(output, greeting)
    for batch in _batches(sys.stdin):
        batch.sort(key=lambda segment: -len(segment["source"]) - len(segment["hypothesis"]))
        for start in range(0, len(batch), batch_size):
            part = batch[start : start + batch_size]
            for segment, value in zip(part, score(part), strict=True):
                _write(output, {"id": segment["id"], "score": float(value)})


def take_output() -> TextIO:
    """Return a stream for answers, and send everything else that is printed to standard error.

    Libraries print progress and warnings; such lines would not follow the protocol.
    """
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return stream


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages; one that is not installed is left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _batches(lines: TextIO) -> Iterator[list[dict[str, str]]]:
    """Yield the segments before each empty line, and those before the end of the input."""
    batch: list[dict[str, str]] = []
    for line in lines:
        if line.strip():
            batch.append(json.loads(line))
        elif batch:
            yield batch
            batch = []
    if batch:
        yield batch


def _write(output: TextIO, values: Mapping[str, object]) -> None:
    output.write(f"{json.dumps(dict(values))}\n")
    output.flush()
