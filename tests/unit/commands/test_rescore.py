"""Tests of `kdmt rescore`: scores of given sentence pairs, compared with those of the PyTorch engine."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from bad_input import message_of, unharmed
from random_multilingual import scores_in
from tiny_pipeline import Finished, kdmt, read_lines, write_lines

from kdmt.corpus.codec import TextCodec
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.distill import pair_scores as pairs
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint

TEACHER = Path("runs/tiny/teacher")
SOURCE, TARGET = Path("text/train.en"), Path("text/train.de")


def rescore(source: Path = SOURCE, target: Path = TARGET, *more: str, model: Path = TEACHER) -> Finished:
    return kdmt("rescore", model, source, target, "--workers", "1", *more)


def by_torch(sources: list[str], targets: list[str]) -> list[tuple[float, int]]:
    checkpoint = resolve_checkpoint(TEACHER)
    codec, engine = TextCodec.load(checkpoint), TorchEngine(load_model(checkpoint))
    tgt = codec.encode_target(targets)
    found = engine.score_pairs(codec.encode_source(sources), tgt)
    return [(float(each.sum(dtype=np.float64)), len(tokens)) for each, tokens in zip(found, tgt, strict=True)]


def rows(result: Finished) -> list[tuple[float, int]]:
    assert result.code == 0, result.err
    pairs = (line.split("\t") for line in result.out.splitlines())
    return [(float(score), int(count)) for score, count in pairs]


def check(found: list[tuple[float, int]], expected: list[tuple[float, int]]) -> None:
    assert [count for _, count in found] == [count for _, count in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-3)


@pytest.mark.usefixtures("finished")
def test_scores_equal_those_of_the_pytorch_engine() -> None:
    expected = by_torch(read_lines(SOURCE), read_lines(TARGET))
    check(rows(rescore()), expected)
    assert kdmt("export", TEACHER, "exported", "--to", "ctranslate2").code == 0
    check(rows(rescore(model=Path("exported"))), expected)
    with gzip.open("pairs.de.gz", "wt", encoding="utf-8") as file:
        file.write(TARGET.read_text(encoding="utf-8"))
    check(rows(rescore(SOURCE, Path("pairs.de.gz"))), expected)


@pytest.mark.usefixtures("finished")
def test_output_does_not_depend_on_pieces_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rescore().out
    monkeypatch.setattr(pairs, "LINES_A_TASK", 7)
    assert kdmt("rescore", TEACHER, SOURCE, TARGET, "--workers", "2").out == whole


@pytest.mark.usefixtures("finished")
def test_raw_text_is_processed_and_unusual_lines_keep_their_positions() -> None:
    """Score lines with extra spaces, empty lines, lines that are too long on either side, and unknown symbols."""
    words, long = "ba be di", " ".join(["ba"] * 200)
    sources = [f"  {words} ", "", long, words, words, "😀 \x01"]
    targets = ["ok uk ilp", "ok", "ok", " ".join(["ok"] * 200), "", "ok\tok"]
    write_lines(Path("a"), sources)
    write_lines(Path("b"), targets)
    result = rescore(Path("a"), Path("b"))
    found = rows(result)
    assert len(found) == len(sources)
    assert [np.isnan(score) for score, _ in found] == [False, False, True, True, False, False]
    assert "rescore: 2 pairs are longer than the model reads and have no score" in result.err
    codec = TextCodec.load(resolve_checkpoint(TEACHER))
    clean = [codec.text.preprocess_source(line) for line in sources]
    expected = by_torch([clean[i] for i in (0, 1, 4)], [codec.text.preprocess_target(targets[i]) for i in (0, 1, 4)])
    check([found[i] for i in (0, 1, 4)], expected)


@pytest.mark.usefixtures("finished")
def test_invalid_inputs_are_refused() -> None:
    write_lines(Path("short"), read_lines(TARGET)[:-1])
    with unharmed():
        short, lines = Path("short"), len(read_lines(TARGET))
        for source, target, counts in ((SOURCE, short, (lines, lines - 1)), (short, SOURCE, (lines - 1, lines))):
            message = message_of(rescore(source, target))
            assert message.startswith(f"{source} has {counts[0]} lines, {target} has {counts[1]}: ")
        assert message_of(rescore(Path("nowhere"), TARGET)).startswith("nowhere: ")
        assert message_of(rescore(model=Path("nowhere"))).startswith("nowhere: neither a checkpoint folder nor")
        Path("bad").write_bytes(b"ba\n\xff\n")
        assert message_of(rescore(Path("bad"), Path("bad"))) == "bad line 2: not UTF-8"
    write_lines(Path("none"), [])
    assert rows(rescore(Path("none"), Path("none"))) == []


@pytest.mark.usefixtures("finished")
def test_a_non_autoregressive_model_is_refused() -> None:
    assert kdmt("student", "tiny.yaml", "--student", "raw", "--set", "students.raw.nat={family: cmlm}").code == 0
    fast = Path("runs/tiny/students/raw/seed_1")
    message = message_of(rescore(model=fast))
    assert message == f"{fast}: is non-autoregressive and has no probability for a given target"


def test_pairs_are_scored_in_the_direction_of_the_languages(multilingual_model: Path, tmp_path: Path) -> None:
    pairs = [("ba be", "ok uk"), ("di ga ge", "zilp zrom"), ("be", "uk")]
    files = [tmp_path / side for side in ("source", "target")]
    for path, lines in zip(files, zip(*pairs, strict=True), strict=True):
        write_lines(path, lines)
    for target in ("de", "fr"):
        found = rows(rescore(*files, "--from", "en", "--to", target, model=multilingual_model))
        assert [score for score, _ in found] == pytest.approx(scores_in(multilingual_model, target, pairs), abs=1e-3)
    message = message_of(rescore(*files, model=multilingual_model))
    assert message.startswith("the model translates in several directions: choose one of en-de, en-fr, fr-en, fr-de")
    message = message_of(rescore(*files, "--from", "de", model=multilingual_model))
    assert message == "the model does not translate from de; it translates en-de, en-fr, fr-en, fr-de"
