"""Processes of engines: requests, failures, and measurements with a program whose times are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from multilingual_models import DIRECTIONS, LINES, write_multilingual
from slow_parameters import some_of

from kdmt.choices import LanguageTokens
from kdmt.config import Decode
from kdmt.decode.engines import process, worker
from kdmt.decode.engines.process import EngineProcess, Load, measure_engine
from kdmt.decode.engines.translator import Translator
from kdmt.errors import UserError
from kdmt.interop.ctranslate2_export import export_checkpoint

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
    ("tokens", "engine"),
    some_of(
        [("source_and_decoder", "ctranslate2"), ("target_in_source", "pytorch"), ("target_in_source", "ctranslate2")], 1
    ),
)
def test_a_model_with_several_directions_translates_in_that_of_the_sentences(
    tmp_path: Path, tokens: LanguageTokens, engine: str
) -> None:
    folder = checkpoint = write_multilingual(tmp_path / "model", tokens, seed=3)
    if engine == "ctranslate2":
        folder = tmp_path / "ct2"
        export_checkpoint(checkpoint, folder)
    decode, found = Decode(beam=1, max_len_a=1.0, max_len_b=5), {}
    for direction in DIRECTIONS[:2]:
        with EngineProcess(Load(engine, folder, threads=1, decode=decode, direction=direction)) as running:
            found[direction] = running.ask({"translate": LINES})["translations"]
        translator = Translator.load(folder, threads=1).for_direction(direction)
        assert found[direction] == translator.translate_ids(translator.encode_words(LINES), decode)
    to_german, to_french = found.values()
    assert to_german != to_french


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


def test_an_error_is_named_before_the_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = "Error: no such file\\n" + "in frame\\n" * 20
    use_program(monkeypatch, tmp_path, f'import sys\nprint("{printed}", file=sys.stderr)\nsys.exit(3)')
    with pytest.raises(UserError, match=r"the process ended with 3; Error: no such file$"):
        EngineProcess(LOAD)


def test_an_engine_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_program(monkeypatch, tmp_path, "import time\ntime.sleep(600)")
    monkeypatch.setattr(process, "_MOST_SECONDS", 0.1)
    with pytest.raises(UserError, match="model: pytorch failed: no reply within 0 seconds"):
        EngineProcess(LOAD)


def test_longest_time_for_a_reply_grows_with_the_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_program(
        monkeypatch,
        tmp_path,
        PROGRAM.replace('    if "load"', '    time.sleep(1)\n    if "load"').replace("json,", "json, time,"),
    )
    with EngineProcess(LOAD) as running:
        monkeypatch.setattr(process, "_MOST_SECONDS", 0.0)
        assert running.ask({"translate": ["a", "b"]})["translations"] == ["A", "B"]


def test_version_of_a_package_is_that_of_the_environment(tmp_path: Path) -> None:
    assert process.library_version("torch") == f"torch {torch.__version__}"
    program = tmp_path / "environment" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    assert process.library_version("numpy", program) == f"numpy {np.__version__}"
    with pytest.raises(UserError, match="environment: the environment does not run, or 'no-such' is not in it"):
        process.library_version("no-such", program)


def test_a_request_has_absolute_paths_and_all_settings() -> None:
    request = LOAD.request()
    assert request["folder"] == str(Path("model").absolute())
    assert request.keys() == set(Load.__dataclass_fields__)
