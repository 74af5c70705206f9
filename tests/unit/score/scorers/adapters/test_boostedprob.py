"""Boosted probability against its definition, and the adapter on a trained teacher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pipeline import read_lines

from kdmt.config import Scorer
from kdmt.score.scorers.adapters import boostedprob
from kdmt.score.scorers.adapters.boostedprob import boosted_probability
from kdmt.score.scorers.process import Segment
from kdmt.score.scorers.segment_scores import open_scorer, score_segments


def by_definition(probs: np.ndarray, token: int) -> float:
    order = np.argsort(-probs, kind="stable")
    ranked, last = probs[order], 0
    for place in range(1, len(ranked)):
        drop = ranked[place - 1] - ranked[place]
        if drop > 0.3 * ranked[place - 1] and drop > 0.005:
            last = place
    dominant = set(order[:last].tolist())
    return float(ranked[:last].sum()) if token in dominant else float(probs[token])


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        ([0.40, 0.38, 0.12, 0.10], [0.78, 0.78, 0.12, 0.10]),  # two right tokens
        ([0.97, 0.01, 0.01, 0.01], [0.97, 0.01, 0.01, 0.01]),
        ([0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]),  # no drop, no dominant token
        ([0.50, 0.30, 0.14, 0.06], [0.94, 0.94, 0.94, 0.06]),  # the last of several drops
        ([1 / 300] * 300, [1 / 300] * 4),  # no probability is large enough for a drop
    ],
)
def test_dominant_tokens_have_the_sum_of_their_probabilities(probs: list[float], expected: list[float]) -> None:
    found = boosted_probability(torch.tensor([[probs] * 4]), torch.tensor([[0, 1, 2, 3]]))
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


@pytest.mark.parametrize("vocabulary", [2, 30, 1000])
def test_tokens_have_the_scores_of_the_definition(vocabulary: int) -> None:
    random = np.random.default_rng(vocabulary)
    probs = random.dirichlet(np.full(vocabulary, 0.1), size=(4, 25))
    tokens = np.array([[random.choice(vocabulary, p=each) for each in row] for row in probs])
    found = boosted_probability(torch.tensor(probs), torch.tensor(tokens))
    expected = [[by_definition(*each) for each in zip(*row, strict=True)] for row in zip(probs, tokens, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_right_to_left_model_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished / "runs/tiny/teacher/average", tmp_path / "average")
    description = json.loads((folder / "model.json").read_text())
    description["config"]["right_to_left"] = True
    (folder / "model.json").write_text(json.dumps(description))
    monkeypatch.setattr("sys.argv", ["boostedprob", "--model", str(folder)])
    monkeypatch.setattr(boostedprob, "take_output", lambda: None)
    with pytest.raises(SystemExit) as ended:
        boostedprob.main()
    assert ended.value.code == 2
    assert "the model predicts targets in reversed order ('right_to_left')" in capfd.readouterr().err


def test_a_multilingual_model_is_refused(
    multilingual_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["boostedprob", "--model", str(multilingual_model)])
    monkeypatch.setattr(boostedprob, "take_output", lambda: None)
    with pytest.raises(SystemExit) as ended:
        boostedprob.main()
    assert ended.value.code == 2
    assert "the model translates in several directions, which is not supported" in capfd.readouterr().err


@pytest.mark.slow
def test_a_teacher_prefers_translations_to_other_sentences(finished: Path) -> None:
    sources, targets = (read_lines(finished / f"text/train.{lang}")[:30] for lang in ("en", "de"))
    command = ["python", "-m", "kdmt.score.scorers.adapters.boostedprob", "--model", "{model}", "--threads", "1"]
    settings = Scorer(command=command, model="runs/tiny/teacher/average", range=(0.0, 1.0))
    with open_scorer("boostedprob", settings, folder=finished / "cache", say=print) as scorer:
        right = score_segments(scorer, map(Segment, sources, targets))
        wrong = score_segments(scorer, map(Segment, sources, [*targets[1:], targets[0]]))
        long = score_segments(scorer, [Segment("a " * 5000, "b")])
        again = score_segments(scorer, [Segment(sources[3], targets[3])])
    assert ((right > 0) & (right <= 1)).all()
    assert right.mean() > wrong.mean() + 0.02
    assert long.tolist() == [0.0]
    assert again[0] == right[3]
