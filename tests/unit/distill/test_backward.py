"""Tests of scores by a model of the opposite direction, against those computed with PyTorch."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bad_input import refused
from distilled_pipeline import MADE, NBEST, PREPARED, TINY, done, manifest, verified
from tiny_pipeline import read_lines, write_lines

from kdmt.config import Distill
from kdmt.corpus.codec import TextCodec
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.distill.backward import BackwardScores
from kdmt.distill.merge import TrainingText
from kdmt.languages import Direction
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint

RERANKED = TINY / "reranked"
CHECKPOINT = "runs/reverse/teacher"
SETS = (*NBEST, "students.near={data: reranked}")


def mean_log_probs(sources: list[str], candidates: list[str]) -> list[float]:
    checkpoint = resolve_checkpoint(Path(CHECKPOINT))
    codec, engine = TextCodec.load(checkpoint), TorchEngine(load_model(checkpoint))
    found = engine.score_pairs(codec.encode_source(candidates), codec.encode_target(sources))
    return [float(each.mean()) for each in found]


def check_scores(folder: Path, nbest: Path, split: str) -> list[float]:
    """Check the scores of all candidates, and return them."""
    (path,) = folder.glob("*.txt")
    scores = [float(line) for line in read_lines(path)]
    rows = [line.split("\t") for line in read_lines(nbest)]
    texts = list(dict.fromkeys(read_lines(PREPARED / f"{split}.en")))
    expected = mean_log_probs([texts[int(row[0])] for row in rows], [row[-1] for row in rows])
    assert scores == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert not list(folder.glob("*.npy"))
    return scores


@pytest.mark.usefixtures("reverse")
def test_backward_scores_are_those_of_the_reverse_model_and_choose() -> None:
    sets = (*SETS, f"distill.rerank={{features: [backward], backward: {CHECKPOINT}, weights: {{backward: 1.0}}}}")
    done(*sets)
    scores = check_scores(RERANKED / "backward", MADE / "nbest", "train")
    rows = [line.split("\t") for line in read_lines(MADE / "nbest")]
    own: dict[int, list[float]] = {}
    for row, score in zip(rows, scores, strict=True):
        if row[3] == "-":
            own.setdefault(int(row[0]), []).append(score)
    for line in read_lines(RERANKED / "choices.tsv")[1:]:
        number, _, place, _, _, value, feature = line.split("\t")
        if place != "-":
            assert value == feature
            assert float(value) == pytest.approx(max(own[int(number)]), rel=1e-4)
    assert "distill.rerank.backward" in manifest(RERANKED)["inputs"]
    assert verified("--verify-blocks", "0", sets=sets).code == 0


@pytest.mark.usefixtures("reverse")
def test_weights_are_tuned_with_backward_scores_of_the_validation_set() -> None:
    sets = (*SETS, f"distill.rerank={{features: [score, backward], backward: {CHECKPOINT}}}")
    done(*sets)
    check_scores(RERANKED / "valid/backward", RERANKED / "valid/nbest", "valid")
    tuned = json.loads((RERANKED / "weights.json").read_text())["weights"]
    assert list(tuned) == ["score", "backward"]
    names = read_lines(RERANKED / "choices.tsv")[0].split("\t")
    assert names[5:] == ["value", "score", "backward"]
    assert verified("--verify-blocks", "0", sets=sets).code == 0


def score_by_place(scores: BackwardScores, key: object, direction: Direction) -> list[SimpleNamespace]:
    """Write scores that tell the candidate and its source; every 1000th pair is too long."""
    del key
    files = [path.open(encoding="utf-8") for path in scores._pairs(str(direction))]
    tasks = []
    while pairs := [tuple(map(int, pair)) for pair in itertools.islice(zip(*files, strict=True), 500)]:
        rows = [(np.nan if row % 1000 == 7 else -(row + source / 1e6), 1) for row, source in pairs]
        tasks.append(SimpleNamespace(out=scores.folder / f"{direction}.{len(tasks)}.npy"))
        np.save(tasks[-1].out, np.array(rows))
    for file in files:
        file.close()
    return tasks


def write_scores_of_directions(folder: Path, num_sentences: int) -> int:
    """Write the scores of 10 candidates for each sentence, check them, and return the most memory in use."""
    total = 10 * num_sentences
    folder.mkdir()
    write_lines(folder / "src", map(str, range(num_sentences)))
    write_lines(folder / "tags", (["en-de", "de-en", "en-fr"][number % 3] for number in range(num_sentences)))
    write_lines(folder / "nbest", (f"{row // 10}\t0\t1\t-\t{row}" for row in range(total)))
    np.save(folder / "sentences.npy", np.arange(num_sentences))
    text = TrainingText(folder / "src", None, folder / "tags")
    nbest, sentences = folder / "nbest", folder / "sentences.npy"
    scores = BackwardScores(folder, Distill(), [text], nbest, sentences, folder / "scores", of_directions=True)
    scores.folder.mkdir()
    tracemalloc.start()
    try:
        scores._write_directions(folder / "out", {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    lowest = f"{-(total - 1 + (num_sentences - 1) / 1e6):.7g}"
    expected = [lowest if row % 1000 == 7 else f"{-(row + row // 10 / 1e6):.7g}" for row in range(total)]
    assert read_lines(folder / "out") == expected
    return peak


def test_memory_for_several_directions_grows_by_some_bytes_for_each_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BackwardScores, "_score", score_by_place)
    write_scores_of_directions(tmp_path / "first", 500)  # what is loaded once
    small, large = (write_scores_of_directions(tmp_path / str(count), count) for count in (500, 2000))
    assert (large - small) / 15_000 < 8  # 2 for the number, as much while the array grows, and the names of files


@pytest.mark.usefixtures("reverse")
def test_a_model_of_the_same_direction_is_refused() -> None:
    done(*NBEST)
    sets = (*SETS, "distill.rerank={features: [backward], backward: runs/tiny/teacher, weights: {backward: 1.0}}")
    assert refused("distill", "tiny.yaml", sets=sets) == (
        "distill.rerank.backward: runs/tiny/teacher translates en to de, not de to en"
    )
    assert not (RERANKED / "choices.tsv").exists()
