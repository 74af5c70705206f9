"""Tests of scores by a model of the opposite direction, against those computed with PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_input import refused
from distilled_pipeline import MADE, NBEST, PREPARED, TINY, done, manifest, verified
from tiny_pipeline import read_lines

from kdmt.corpus.codec import TextCodec
from kdmt.decode.engines.pytorch import TorchEngine
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


@pytest.mark.usefixtures("reverse")
def test_a_model_of_the_same_direction_is_refused() -> None:
    done(*NBEST)
    sets = (*SETS, "distill.rerank={features: [backward], backward: runs/tiny/teacher, weights: {backward: 1.0}}")
    assert refused("distill", "tiny.yaml", sets=sets) == (
        "distill.rerank.backward: runs/tiny/teacher translates en to de, not de to en"
    )
    assert not (RERANKED / "choices.tsv").exists()
