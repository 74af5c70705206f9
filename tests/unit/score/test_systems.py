"""The runs that are compared, and their p-values from the paired bootstrap."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kdmt.score.significance import paired_bootstrap
from kdmt.score.systems import System, SystemRun, Way, compare_runs, file_name
from kdmt.score.test_sets import References, TestSet

WORDS = [f"w{number}" for number in range(20)]
RANDOM = random.Random(0)
REFERENCES = [" ".join(RANDOM.choices(WORDS, k=8)) for _ in range(30)]
TEST_SETS = {"test": TestSet(References(REFERENCES, "none"), metrics=["chrf", "ter", "bleu"])}


def noisy(rate: float, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(WORDS) if rng.random() < rate else word for word in line.split()) for line in REFERENCES
    ]


GREEDY = Way()


def run(name: str, seed: int = 1, way: Way = GREEDY, rate: float = 0.3) -> SystemRun:
    return SystemRun(System(name, seed, Path(name)), "test", way, "pytorch", "float32", noisy(rate, seed))


def test_names_of_files_contain_the_way_of_decoding() -> None:
    system = System("small", 2, Path("x"))
    assert file_name(system, "test", Way(beam=5)) == "small.seed_2.test.beam5"
    assert file_name(system, "test", Way(iterations=10)) == "small.seed_2.test.iter10"
    assert run("small", 3, Way(beam=4)).file == "small.seed_3.test.beam4"


def test_p_values_equal_those_of_the_paired_bootstrap() -> None:
    base, other = run("raw", rate=0.5), run("distilled", 4, rate=0.1)
    (comparison,) = compare_runs([base, other], TEST_SETS, baseline="raw", samples=50)
    found = paired_bootstrap(
        {"raw": base.hypotheses, "distilled": other.hypotheses},
        REFERENCES,
        baseline="raw",
        samples=50,
        tokenize="none",
        metrics=["chrf", "ter", "bleu"],
    )
    assert list(comparison.p_values) == ["chrf", "ter", "bleu"]
    for metric, p_value in comparison.p_values.items():
        assert p_value.value == found.estimates[metric]["distilled"].p_value
        assert p_value.signature == found.signatures[metric]
    assert (comparison.system, comparison.baseline, comparison.seed) == ("distilled", "raw", 4)


@pytest.mark.parametrize("way", [Way(beam=1), Way(beam=5)])
def test_a_run_is_compared_with_the_baseline_of_its_way_and_seed(way: Way) -> None:
    """Check which runs are compared: only that pair has equal texts, and so a p-value of 1."""
    ways, seeds = (Way(beam=1), Way(beam=5)), (1, 2)
    bases = [
        SystemRun(
            System("raw", seed, Path("raw")), "test", each, "pytorch", "float32", noisy(0.3, 10 * seed + each.beam)
        )
        for each in ways
        for seed in seeds
    ]
    partner = next(base for base in bases if (base.way, base.system.seed) == (way, 2))
    same = SystemRun(System("same", 2, Path("same")), "test", way, "pytorch", "float32", list(partner.hypotheses))
    (comparison,) = compare_runs([*bases, same], TEST_SETS, baseline="raw", samples=20)
    assert {p_value.value for p_value in comparison.p_values.values()} == {1.0}


def test_without_a_run_of_the_same_way_the_first_baseline_run_is_used() -> None:
    base = run("raw", way=Way(beam=5))
    other = SystemRun(
        System("nat", 7, Path("nat")), "test", Way(iterations=4), "pytorch", "float32", list(base.hypotheses)
    )
    (comparison,) = compare_runs([base, other], TEST_SETS, baseline="raw", samples=20)
    assert comparison.p_values["bleu"].value == 1.0
    assert comparison.iterations == 4
