"""Simultaneous translation from end to end: wait-k and streaming students are trained, scored and used by word."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline
from tiny_pipeline import Finished, kdmt, read_lines, working_in

from kdmt.commands.simultaneous import translate_words
from kdmt.config import Decode
from kdmt.decode.engines.simultaneous import SimultaneousTranslator
from kdmt.decode.engines.translator import Translator
from kdmt.score.lagging import Timing, mean_latency

WAITING, CHUNKED = Path("runs/tiny/students/waiting/seed_1"), Path("runs/tiny/students/chunked/seed_1")
TEACHER = Path("runs/tiny/teacher")
CAUSAL = tiny_pipeline.MODEL | {"unidirectional_encoder": True}
LIMITS = ("--threads", "1", "--max-len-a", "1.2", "--max-len-b", "10")
SEARCH = Decode(beam=1, max_len_a=1.2, max_len_b=10)


def document() -> dict[str, Any]:
    found = tiny_pipeline.settings()
    train = tiny_pipeline.TEACHER_TRAIN
    found["teacher"]["train"] |= {"max_updates": 4, "validate_interval_updates": 2, "save_interval_updates": 2}
    found["students"] = {
        "whole": {"data": "raw", "model": tiny_pipeline.MODEL, "train": tiny_pipeline.TRAIN},
        "waiting": {"data": "raw", "model": CAUSAL, "train": train, "wait_k": [1, 2, 3]},
        "chunked": {
            "data": "raw",
            "model": tiny_pipeline.MODEL,
            "train": train,
            "nat": {"family": "ctc", "upsample": 2, "streaming": {"chunk": 3, "right_context": 1}},
        },
    }
    found["score"]["simultaneous"] = {"wait_k": [1, 3]}
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("simultaneous")
    tiny_pipeline.write_pipeline(folder, document())
    with working_in(folder), pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("kdmt.score.report_page.charts.has_charts", lambda: False)
        tiny_pipeline.run_stages("prepare", "teacher", "student", "score")
        yield folder


def rows() -> list[dict[str, Any]]:
    return [row for row in json.loads(Path("runs/tiny/scores.json").read_text()) if "missing" not in row]


def simultaneous(run: Path, wait_k: int | None = None) -> SimultaneousTranslator:
    return SimultaneousTranslator(Translator.load(run / "average", threads=1), SEARCH, wait_k=wait_k)


def word_by_word(translator: SimultaneousTranslator, line: str) -> tuple[list[str], list[int]]:
    """Return the words of a translation, and the number of source words that were read when each was written."""
    sentence, words, delays = translator.begin(), list[str](), list[int]()
    source = line.split()
    for number, word in enumerate(source, start=1):
        words += (new := sentence.read(word))
        delays += [number] * len(new)
    words += (new := sentence.end())
    return words, delays + [len(source)] * len(new)


@pytest.mark.usefixtures("scored")
def test_each_k_has_a_row_and_only_simultaneous_systems_have_latency() -> None:
    found = [(row["system"], row.get("wait_k"), "latency" in row) for row in rows()]
    whole = [(name, None, False) for name in ("teacher", "whole", "waiting") for _ in (1, 2)]
    assert found == [*whole, ("waiting", 1, True), ("waiting", 3, True), ("chunked", None, True)]


@pytest.mark.usefixtures("scored")
@pytest.mark.parametrize("way", ["wait1", "wait3", "iter1"])
def test_scores_and_latency_are_those_of_words_that_arrive_one_by_one(way: str) -> None:
    name, wait_k = ("chunked", None) if way == "iter1" else ("waiting", int(way.removeprefix("wait")))
    translator = simultaneous(CHUNKED if wait_k is None else WAITING, wait_k)
    sources, references = read_lines(Path("text/test.en")), read_lines(Path("text/test.de"))
    found = [word_by_word(translator, line) for line in sources]
    assert [" ".join(words) for words, _ in found] == read_lines(Path(f"runs/tiny/score/{name}.seed_1.test.{way}.de"))
    expected = mean_latency(
        [
            Timing(delays, len(source.split()), len(reference.split()))
            for source, reference, (_, delays) in zip(sources, references, found, strict=True)
        ]
    )
    (row,) = [row for row in rows() if row["system"] == name and "latency" in row and row.get("wait_k") == wait_k]
    assert row["latency"] == pytest.approx(expected)
    assert any(words for words, _ in found)


@pytest.mark.usefixtures("scored")
def test_scores_are_up_to_date_and_the_report_shows_latency() -> None:
    result = kdmt("score", "tiny.yaml")
    assert "score: up to date" in result.err
    for text in ("wait-3", "LAAL", "as:simuleval-1.1.4", "beam or", "wait-k"):
        assert text in result.out
        assert text in Path("runs/tiny/report.html").read_text()


def translate(stdin: bytes, *arguments: str, run: Path = WAITING) -> Finished:
    return kdmt("translate", run / "average", *LIMITS, *arguments, stdin=stdin)


@pytest.mark.usefixtures("scored")
def test_k_of_the_whole_source_gives_the_translation_of_whole_lines() -> None:
    stdin = Path("text/test.en").read_bytes() + b"\n  \nba  be\tda"
    whole = translate(stdin, "--beam", "1")
    assert (whole.code, whole.err) == (0, "")
    assert translate(stdin, "--simultaneous", "--wait-k", "60") == whole
    assert translate(stdin, "--simultaneous", "--wait-k", "1").out.count("\n") == whole.out.count("\n")


@pytest.mark.usefixtures("scored")
def test_chunks_give_the_translation_of_whole_lines() -> None:
    stdin = Path("text/test.en").read_bytes()
    assert translate(stdin, "--simultaneous", run=CHUNKED) == translate(stdin, run=CHUNKED)


@pytest.mark.usefixtures("scored")
def test_words_are_written_before_the_line_ends() -> None:
    translator = simultaneous(WAITING, 1)
    line = next(
        line
        for line in read_lines(Path("text/test.en"))
        if (delays := word_by_word(translator, line)[1]) and delays[0] < len(line.split())
    )
    words, delays = word_by_word(translator, line)
    reading, writing = os.pipe()
    answers, target = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(target, "wb") as output:
        thread = threading.Thread(target=translate_words, args=(translator, source, output))
        thread.start()
        with os.fdopen(writing, "wb", buffering=0) as stdin:
            for number, word in enumerate(line.split(), start=1):
                stdin.write(word.encode() + b" ")
                due = [text for text, delay in zip(words, delays, strict=True) if delay == number < len(line.split())]
                for text in due:
                    expected = text.encode() if text is words[0] else b" " + text.encode()
                    assert os.read(answers, len(expected)) == expected  # it blocks until the word is written
            stdin.write(b"\n")
        thread.join()
    os.close(answers)


@pytest.mark.usefixtures("scored")
def test_options_and_models_that_do_not_fit_are_refused() -> None:
    for arguments, run, message in (
        (("--wait-k", "3"), WAITING, "--wait-k has no effect without --simultaneous"),
        (("--simultaneous",), WAITING, "needs a k (--wait-k)"),
        (("--simultaneous", "--wait-k", "3"), CHUNKED, "wait-k has no effect"),
        (("--simultaneous", "--wait-k", "3"), TEACHER, "unidirectional_encoder"),
        (("--simultaneous", "--wait-k", "3", "--beam", "4"), WAITING, "--beam 4: words that were written"),
        (("--simultaneous", "--wait-k", "3", "--document"), WAITING, "leave out"),
    ):
        result = translate(b"ba\n", *arguments, run=run)
        assert (result.code, result.out) == (2, "")
        assert message in result.err
        assert result.err.count("\n") == 1
    result = translate(b"ba be\nda \xff\n", "--simultaneous", "--wait-k", "1")
    assert result.code == 2
    assert "standard input: line 2: b'\\xff' is not UTF-8" in result.err


@pytest.mark.usefixtures("scored")
@pytest.mark.parametrize("program", ["ctranslate2", "onnx", "huggingface", "fairseq"])
def test_other_programs_are_refused_a_unidirectional_encoder(program: str, tmp_path: Path) -> None:
    result = kdmt("export", "--to", program, WAITING / "average", tmp_path / "out")
    assert result.code == 2
    assert "unidirectional encoder" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("scored")
def test_long_sentences_are_cut_with_one_message() -> None:
    result = translate(b"ba " * 200 + b"\nba\n", "--simultaneous", "--wait-k", "2")
    assert (result.code, result.out.count("\n")) == (0, 2)
    assert result.err == "a sentence has more than the model's 64 tokens: its other words are not translated\n"
    assert result.out.splitlines()[1] == translate(b"ba\n", "--simultaneous", "--wait-k", "2").out.rstrip("\n")
