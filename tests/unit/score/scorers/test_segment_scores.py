"""Tests of external scorers: order, cache, restarts, and answers that do not follow the protocol."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdmt.config import Scorer
from kdmt.errors import UserError
from kdmt.score.scorers import process
from kdmt.score.scorers import segment_scores as module
from kdmt.score.scorers.process import Segment
from kdmt.score.scorers.segment_scores import open_scorer, score_segments

# a scorer that counts its starts and the segments that it was given; `misbehave` may be replaced
PROGRAM = """
import json, os, random, sys, time
from pathlib import Path
here = Path(sys.argv[1])
starts = here / "starts"
starts.write_text(str(int(starts.read_text()) + 1 if starts.exists() else 1))
start = int(starts.read_text())
def say(**values):
    print(json.dumps(values), flush=True)
def count(lines):
    with open(here / "given", "a") as file:
        file.writelines(lines)
def value(each):
    return len(each["source"]) - len(each["hypothesis"]) + 100 * len(each.get("reference", ""))
def greet():
    say(scorer="length", signature="length|v:1", versions={"length": "1.0"}, licence="none")
def answer(batch):
    for each in batch:
        say(id=each["id"], score=value(each))
BEHAVIOUR
greet()
batch = []
for line in sys.stdin:
    if line.strip():
        count([line])
        batch.append(json.loads(line))
    else:
        answer(batch)
        batch = []
"""

TWO_LINES = b'{"scorer": "x", "signature": "y"}\n7\n'


def segments_of(count: int, start: int = 0) -> list[Segment]:
    return [Segment("s" * (n + 5), "h" * (n % 4), "r" * (n % 3)) for n in range(start, start + count)]


def value_of(segment: Segment, *, reference: bool = False) -> float:
    given = segment.reference if reference else None
    return len(segment.source) - len(segment.hypothesis) + 100 * len(given or "")


class Lengths:
    """Scorers of one folder that run the program above, and what they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []

    def settings(self, behaviour: str = "", **settings: Any) -> Scorer:
        path = self.folder / "program.py"
        path.write_text(PROGRAM.replace("BEHAVIOUR", behaviour))
        values = {
            "command": [sys.executable, "-I", "-S", str(path), str(self.folder)],
            "batch_size": 4,
            "timeout": 20.0,
        }
        return Scorer.model_validate(values | settings)

    def score(self, segments: Sequence[Segment], behaviour: str = "", **settings: Any) -> list[float]:
        chosen = self.settings(behaviour, **settings)
        with open_scorer("length", chosen, folder=self.folder / "cache", say=self.said.append) as scorer:
            return score_segments(scorer, iter(segments)).tolist()

    def fails(self, behaviour: str, *, count: int = 10, **settings: Any) -> str:
        with pytest.raises(UserError) as failed:
            self.score(segments_of(count), behaviour, **settings)
        message = str(failed.value)
        assert message.startswith("scorers.length: "), message
        assert "\n" not in message
        return message.removeprefix("scorers.length: ")

    @property
    def starts(self) -> int:
        return int((self.folder / "starts").read_text())

    @property
    def given(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "given").read_text().splitlines()]


@pytest.fixture
def lengths(tmp_path: Path) -> Lengths:
    return Lengths(tmp_path)


# ----------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("count", [0, 1, 4, 9, 50])
def test_each_segment_has_its_score_and_references_are_given_on_request(
    lengths: Lengths, count: int, reference: bool
) -> None:
    segments = segments_of(count)
    expected = [value_of(segment, reference=reference) for segment in segments]
    assert lengths.score(segments, reference=reference) == expected
    if count:
        assert all(("reference" in each) == reference for each in lengths.given)


def test_answers_in_another_order_are_matched_by_id(lengths: Lengths) -> None:
    shuffled = "def answer(batch):\n    random.Random(1).shuffle(batch)\n"
    shuffled += "    for each in batch: say(score=value(each), id=each['id'])"
    segments = segments_of(40)
    assert lengths.score(segments, shuffled) == [value_of(each) for each in segments]


def test_a_scorer_may_answer_each_line_at_once(lengths: Lengths) -> None:
    behaviour = "def count(lines):\n    for line in lines:\n        each = json.loads(line)\n"
    behaviour += "        say(id=each['id'], score=value(each))\ndef answer(batch): pass"
    segments = segments_of(40)
    assert lengths.score(segments, behaviour) == [value_of(each) for each in segments]


def test_more_segments_than_a_chunk_are_scored_with_large_lines_in_both_directions(
    lengths: Lengths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 30)
    segments = [Segment("ä" * (n * 500), "h" * n) for n in range(100)]
    noisy = "def answer(batch):\n    for each in batch:\n"
    noisy += "        say(id=each['id'], score=value(each), note='x' * 100_000)"
    assert lengths.score(segments, noisy, batch_size=40) == [value_of(each) for each in segments]


def test_text_arrives_unchanged(lengths: Lengths) -> None:
    odd = ["", "a\tb", 'quote " and \\', "line\u2028end", "\U0001f600 \u0e17", "a\nb", "\x00"]
    lengths.score([Segment(text, text[::-1], f"r{text}") for text in odd], reference=True)
    assert [each["source"] for each in lengths.given] == odd
    assert [each["hypothesis"] for each in lengths.given] == [text[::-1] for text in odd]
    assert [each["reference"] for each in lengths.given] == [f"r{text}" for text in odd]


# ------------------------------------------------------------------------------------------------------------ cache


def test_scores_are_computed_once_and_the_process_is_not_started_again(lengths: Lengths) -> None:
    segments = segments_of(20)
    first = lengths.score(segments)
    assert lengths.score(segments[::-1]) == first[::-1]
    assert lengths.starts == 1
    assert len(lengths.given) == 20
    more = segments_of(25)
    assert lengths.score(more) == [value_of(each) for each in more]
    assert [len(each["source"]) - 5 for each in lengths.given] == list(range(25))


def test_equal_segments_are_given_once(lengths: Lengths) -> None:
    segments = segments_of(3) * 5
    assert lengths.score(segments) == [value_of(each) for each in segments]
    assert len(lengths.given) == 3


def test_another_signature_model_or_reference_has_other_scores(lengths: Lengths) -> None:
    segments, model = segments_of(6), lengths.folder / "model"
    model.mkdir()
    (model / "weights").write_text("1")
    lengths.score(segments, model=str(model))
    lengths.score(segments, model=str(model))
    assert len(lengths.given) == 6
    (model / "weights").write_text("22")
    lengths.score(segments, model=str(model))
    assert len(lengths.given) == 12
    newer = "def greet(): say(scorer='length', signature='length|v:2')"
    lengths.score(segments, newer, model=str(model))
    assert len(lengths.given) == 18
    lengths.score(segments, newer, model=str(model), reference=True)
    assert len(lengths.given) == 24


def test_scores_before_a_failure_are_kept(lengths: Lengths) -> None:
    dies = "def answer(batch):\n    for each in batch:\n        if len(each['source']) == 18: sys.exit(3)\n"
    dies += "        say(id=each['id'], score=value(each))"
    lengths.fails(dies, count=20, restarts=0)
    given = len(lengths.given)
    segments = segments_of(20)
    assert lengths.score(segments) == [value_of(each) for each in segments]
    again = [len(each["source"]) - 5 for each in lengths.given[given:]]
    assert again == list(range(13, 20))


def test_a_changed_command_gets_its_own_scores(lengths: Lengths) -> None:
    segments = segments_of(5)
    expected = [value_of(each) for each in segments]
    command = lengths.settings().command
    more = "def value(each): return len(each['source']) - len(each['hypothesis']) + len(sys.argv[2:])"
    assert lengths.score(segments, more) == expected
    assert lengths.score(segments, more, command=[*command, "--layer"]) == [value + 1 for value in expected]
    assert lengths.score(segments, more) == expected
    assert lengths.starts == 2


def test_compiled_files_of_adapters_do_not_change_a_scorer(
    lengths: Lengths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = tmp_path / "adapters"
    (adapters / "__pycache__").mkdir(parents=True)
    (adapters / "one.py").write_text("1")
    monkeypatch.setattr(module, "_ADAPTERS", adapters)
    assert lengths.score(segments_of(5)) == lengths.score(segments_of(5))
    (adapters / "__pycache__" / "one.pyc").write_text("compiled")
    lengths.score(segments_of(5))
    assert lengths.starts == 1
    (adapters / "one.py").write_text("other")
    lengths.score(segments_of(5))
    assert lengths.starts == 2


def test_a_damaged_cache_is_named(lengths: Lengths) -> None:
    lengths.score(segments_of(3))
    (lengths.folder / "cache" / "length.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"length\.sqlite: cache of scores: file is not a database; it can be deleted"):
        lengths.score(segments_of(3))


# --------------------------------------------------------------------------------------------------------- restarts


def test_a_process_that_ends_is_started_again_with_the_segments_without_a_score(lengths: Lengths) -> None:
    dies = "def answer(batch):\n    for each in batch:\n"
    dies += "        if start < 3 and each['id'] == 5: os.kill(os.getpid(), 9)\n"
    dies += "        say(id=each['id'], score=value(each))"
    segments = segments_of(30)
    assert lengths.score(segments, dies) == [value_of(each) for each in segments]
    assert lengths.starts == 3
    assert lengths.said == ["scorers.length: warning: the process ended by SIGKILL; it is started again"] * 2


def test_a_process_that_ends_too_often_is_an_error_with_its_last_words(lengths: Lengths) -> None:
    dies = "def answer(batch):\n    print('no memory left', file=sys.stderr)\n    sys.exit(7)"
    message = lengths.fails(dies, restarts=2)
    assert message.startswith("segment 1 ('sssss'): the process ended with exit status 7: no memory left (log: ")
    assert message.endswith("length.log), 3 times")
    assert lengths.starts == 3
    assert (lengths.folder / "cache" / "length.log").read_text() == "no memory left\n" * 3


def test_a_process_that_does_not_begin_is_an_error(lengths: Lengths) -> None:
    message = lengths.fails("def greet(): sys.exit('no such model')", restarts=1)
    assert message.startswith("the process ended with exit status 1: no such model")
    assert lengths.starts == 2


@pytest.mark.parametrize("where", ["def greet(): time.sleep(60)", "def answer(batch): time.sleep(60)"])
def test_a_silent_process_is_an_error(lengths: Lengths, where: str) -> None:
    assert "the process was silent for 1.5 seconds" in lengths.fails(where, restarts=1, timeout=1.5)
    assert lengths.starts == 2


@pytest.mark.parametrize("where", ["def greet():", "def answer(batch):"])
def test_a_process_that_closes_its_output_and_does_not_end_is_an_error(
    lengths: Lengths, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_SECONDS_TO_END", 0.5)
    message = lengths.fails(f"{where} os.close(1); time.sleep(60)", restarts=1)
    assert "the process closed its output and did not end within 0.5 seconds, 2 times" in message
    assert lengths.starts == 2


def test_a_process_that_reads_nothing_is_an_error(lengths: Lengths) -> None:
    message = lengths.fails("greet(); time.sleep(60)", restarts=0, timeout=1.5, count=400, batch_size=200_000)
    assert "was silent for 1.5 seconds" in message


# ------------------------------------------------------------------------------------------- answers that are wrong


def says(line: str, *, at: int = 6) -> str:
    """Return a behaviour in which a line is written instead of the answer to the segment with the index `at`."""
    text = "def answer(batch):\n    for each in batch:\n        if each['id'] == AT: print(LINE, flush=True)\n"
    text += "        else: say(id=each['id'], score=value(each))"
    return text.replace("AT", str(at)).replace("LINE", repr(line))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": 6, "score": NaN}', "not valid JSON (NaN is no number)"),
        ('{"id": 6, "score": Infinity}', "not valid JSON (Infinity is no number)"),
        ('{"id": 6, "score": 1e999}', "not valid JSON (1e999 is too large a number)"),
        ('{"id": 6, "score": ' + "9" * 400 + "}", "wrote too large a number as the score"),
        ('{"id": 6, "score": null}', "wrote no number as the score"),
        ('{"id": 6, "score": true}', "wrote no number as the score"),
        ('{"id": 6, "score": "0.5"}', "wrote no number as the score"),
        ('{"id": 6}', "wrote no number as the score"),
        ('{"id": 6, "score"', "not valid JSON"),
        ("0.5", "wrote a line without an id: '0.5'"),
        ('{"id": "6", "score": 1}', "wrote a line without an id"),
        ('{"id": 6, "score": 101}', "the score 101 is outside of 'range' (-100 to 100)"),
        ('{"id": 6, "score": -100.5}', "the score -100.5 is outside of 'range' (-100 to 100)"),
    ],
)
def test_an_answer_that_is_no_score_names_its_segment(lengths: Lengths, line: str, expected: str) -> None:
    message = lengths.fails(says(line), range=[-100, 100])
    assert expected in message
    assert message.startswith("segment 7 ('sssssssssss'): ")
    assert lengths.starts == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": 99, "score": 1}', "wrote the id 99, which is unknown"),
        ('{"id": -1, "score": 1}', "wrote the id -1, which is unknown"),
        ('{"id": 2, "score": 1}', "segment 3 ('sssssss'): the process wrote the id 2, which is answered twice"),
    ],
)
def test_an_unknown_or_repeated_id_is_an_error(lengths: Lengths, line: str, expected: str) -> None:
    assert expected in lengths.fails(says(line))


def test_too_few_answers_are_an_error(lengths: Lengths) -> None:
    few = "def answer(batch):\n    for each in batch[:2]: say(id=each['id'], score=value(each))\n    sys.exit(0)"
    assert lengths.fails(few) == "segment 3 ('sssssss'): the process ended with 2 scores for 10 segments"


def test_a_line_after_the_last_answer_is_an_error(lengths: Lengths) -> None:
    many = "import atexit\natexit.register(lambda: say(id=0, score=1))"
    assert "wrote a line that answers no segment" in lengths.fails(many)


@pytest.mark.parametrize(
    ("greeting", "expected"),
    [
        ("print('Loading the model', flush=True)", "its first line is no JSON object: 'Loading the model'"),
        ("say(scorer='length')", "its first line: the key 'signature' is missing"),
        ("say(scorer='length', signature=3)", "its first line: 'signature' is 3, expected a string"),
        ("say(scorer='x', signature='y', versions=[])", "'versions' is an object"),
        (f"os.write(1, {TWO_LINES})", "before it was given a segment"),
    ],
)
def test_a_first_line_that_is_no_greeting_is_an_error(lengths: Lengths, greeting: str, expected: str) -> None:
    assert expected in lengths.fails(f"def greet(): {greeting}")


def test_a_program_that_does_not_exist_is_named(lengths: Lengths) -> None:
    message = lengths.fails("", command=["/no/such/program", "--x"])
    assert message == "cannot run '/no/such/program': No such file or directory"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model": "/no/model"}, "scorers.length.model: /no/model: there is no such file"),
        ({"environment": "/no/venv"}, "scorers.length.environment: /no/venv: not a virtual environment"),
    ],
)
def test_missing_files_are_named_by_their_setting(lengths: Lengths, settings: dict[str, str], expected: str) -> None:
    with pytest.raises(UserError) as failed:
        lengths.score(segments_of(1), **settings)
    assert str(failed.value) == expected


# ------------------------------------------------------------------------------------------------------ environment


def test_an_environment_of_its_own_has_kdmt_and_none_of_its_packages(tmp_path: Path) -> None:
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    # a Python without site packages, as that of an empty virtual environment
    (programs / "python").write_text(f'#!/bin/sh\nexec {Path(sys.executable).resolve()} -S "$@"\n')
    (programs / "python").chmod(0o755)
    program = tmp_path / "program.py"
    program.write_text(
        "import importlib.util as u\nfrom kdmt.score.scorers.adapters.serving import serve, take_output\n"
        "out = take_output()\nprint('Loading ...')\n"
        "found = [name for name in ('numpy', 'torch', 'sacrebleu') if u.find_spec(name)]\n"
        "serve(lambda batch: [len(found)] * len(batch), scorer='x', signature='x', output=out)\n"
    )
    settings = Scorer(command=["python", str(program)], environment=str(tmp_path / "venv"))
    with open_scorer("x", settings, folder=tmp_path / "cache", say=print) as scorer:
        assert score_segments(scorer, segments_of(5)).tolist() == [0.0] * 5
    assert (tmp_path / "cache" / "x.log").read_text() == "Loading ...\n"


def test_the_adapter_for_chrf_gives_the_scores_of_sacrebleu(tmp_path: Path) -> None:
    from sacrebleu import sentence_chrf

    settings = Scorer(command=["python", "-m", "kdmt.score.scorers.adapters.chrf"], reference=True, range=(0.0, 100.0))
    segments = [Segment("x", "the cat sat", "the cat sits"), Segment("y", "a", "a"), Segment("z", "", "dog")]
    with open_scorer("chrf", settings, folder=tmp_path, say=print) as scorer:
        found = score_segments(scorer, segments)
        assert "nc:6" in scorer.signature
        assert "sacrebleu:" in scorer.signature
        mean = scorer.mean(found)
    expected = [sentence_chrf(each.hypothesis, [each.reference or ""]).score for each in segments]
    np.testing.assert_allclose(found, expected)
    assert (mean.value, mean.range, mean.higher_is_better) == (np.mean(expected), (0.0, 100.0), True)
