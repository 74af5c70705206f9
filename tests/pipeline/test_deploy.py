"""Exported students in the real Marian and Bergamot (`make parity-deploy`, environments of `make deploy-envs`).

The students and the comparisons are those of `make bench-exactness`. If it was run, no student is trained again.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_exactness import COMPARISONS, DATA, ENVIRONMENTS, RUNS, Comparison, compare, references, train_students

from kdmt.score.metrics import bleu

SENTENCES = 1000
CHOSEN = [each for each in COMPARISONS if each.program in ("marian", "bergamot")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="Multi30k is not at ../shared/data"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the students and return the folder of the run."""
    runs = RUNS if (RUNS / "exactness").is_dir() else tmp_path_factory.mktemp("deploy")
    return train_students(runs, {each.student for each in CHOSEN})


@pytest.mark.parametrize("comparison", CHOSEN, ids=lambda each: each.name)
def test_translations_are_those_of_kdmt(run: Path, tmp_path: Path, comparison: Comparison) -> None:
    """Marian has the same translations, and Bergamot, with int8 and a shortlist, is as good."""
    if not (ENVIRONMENTS / comparison.program / "complete").exists():
        pytest.skip(f"make deploy-envs NAME={comparison.program}")
    outcome = compare(comparison, run, tmp_path, SENTENCES)
    if comparison.program == "marian":
        print(f"{outcome.same:.2f}% of {SENTENCES} translations are the same; {outcome.differences}")
        assert outcome.same >= 99.5
        return
    expected = references(run, SENTENCES)
    scores = [bleu(each, expected, tokenize="13a").value for each in (outcome.ours, outcome.theirs)]
    print(f"BLEU {scores[0]:.2f} of the float model, {scores[1]:.2f} of Bergamot")
    assert scores[1] >= scores[0] - 0.3
