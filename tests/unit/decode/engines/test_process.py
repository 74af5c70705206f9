"""Processes of engines: requests, failures, and measurements with a program whose times are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmt.config import Decode
from kdmt.decode.engines import worker
from kdmt.decode.engines.process import EngineProcess, Load, measure_engine
from kdmt.errors import UserError

# the time of a sentence is its number of words in seconds
PROGRAM = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if "load" in request:
        reply = {"seconds": 3.0, "library_bytes": request["load"]["threads"]}
    elif "one_by_one" in request:
        reply = {"seconds": [len(each.split()) for each in request["one_by_one"]]}
    else:
        lines = request["translate"]
        reply = {"translations": [each.upper() for each in lines], "seconds": 2.0, "peak_bytes": 7, "joules": 8.0}
    print(json.dumps(reply), flush=True)
"""
LOAD = Load("pytorch", Path("model"), threads=2, decode=Decode())


def use_program(monkeypatch: pytest.MonkeyPatch, folder: Path, program: str) -> None:
    path = folder / "program.py"
    path.write_text(program)
    monkeypatch.setattr(worker, "__file__", str(path))


def test_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_program(monkeypatch, tmp_path, PROGRAM)
    sentences = ["a " * number for number in (0, 2, 9, 4, 9, 6, 9, 8, 9, 0)]
    with EngineProcess(LOAD) as running:
        found, translations = measure_engine(running, sentences, batch_1_sentences=4)
    assert translations == [line.upper() for line in sentences]
    assert (found.load_seconds, found.library_bytes, found.resident_bytes) == (3.0, 2, 7)
    assert (found.first_sentence_ms, found.mean_ms, found.median_ms) == (2000.0, 5000.0, 5000.0)
    assert found.p95_ms == pytest.approx(1000 * (6 + 0.85 * 2))  # of 2, 4, 6 and 8, as numpy.quantile
    assert (found.sentences_per_second, found.words_per_second) == (5.0, 28.0)
    assert found.joules_per_sentence == 0.8


def test_nothing_to_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_program(monkeypatch, tmp_path, PROGRAM)
    with EngineProcess(LOAD) as running, pytest.raises(ValueError, match="nothing to time: 0 sentences"):
        measure_engine(running, [], batch_1_sentences=1)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ('import sys\nprint("first\\nlast", file=sys.stderr)\nsys.exit(3)', "the process ended with 3; first; last"),
        ('print(\'{"error": "it is too large"}\')', "model: pytorch failed: it is too large"),
    ],
)
def test_a_failure_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str) -> None:
    use_program(monkeypatch, tmp_path, program)
    with pytest.raises(UserError, match=message):
        EngineProcess(LOAD)


def test_a_request_has_absolute_paths_and_all_settings() -> None:
    request = LOAD.request()
    assert request["folder"] == str(Path("model").absolute())
    assert request.keys() == set(Load.__dataclass_fields__)
