"""Tests of the heat maps and the differences of several directions."""

from __future__ import annotations

import pytest

from kdmt.languages import Direction
from kdmt.score.averages import Resources, average_rows
from kdmt.score.metrics import MetricScore
from kdmt.score.report_page.directions import (
    HeatMap,
    differences_by_direction,
    direction_maps,
)
from kdmt.score.score_files import Comparison, PValue, ScoreRow

DIRECTIONS = {name: Direction.parse(name) for name in ("en-de", "de-en", "de-fr")}
TESTS = {f"news.{name}": ("news", direction) for name, direction in DIRECTIONS.items()}
ZERO_SHOT = [DIRECTIONS["de-fr"]]
BLEU = {"en-de": 20.0, "de-en": 31.0, "de-fr": 5.0}


def row(
    name: str, *, system: str = "teacher", seed: int = 1, more: float = 0.0, rate: float | None = None, beam: int = 5
) -> ScoreRow:
    scores = {"bleu": MetricScore(BLEU[name] + more, "tok:13a"), "chrf": MetricScore(50.0 + more, "chrF2")}
    return ScoreRow(
        **{"system": system, "test_set": f"news.{name}", "seed": seed, "engine": "pytorch", "beam": beam},
        **{"compute_type": "float32", "threads": 1, "scores": scores, "parameters": 9},
        **{"sentences_per_second_batch1": 1.0, "sentences_per_second_max": 2.0, "checkpoint_sha256": "0" * 64},
        direction=name,
        off_target=rate,
    )


def comparison(name: str, p: float, *, system: str = "small", seed: int = 1, beam: int = 5) -> Comparison:
    return Comparison(
        **{"test_set": f"news.{name}", "system": system, "seed": seed, "engine": "pytorch", "beam": beam},
        **{"compute_type": "float32", "baseline": "teacher", "p_values": {"bleu": PValue(p, "bs:1000")}},
    )


def test_a_map_has_the_mean_over_seeds_of_each_direction() -> None:
    rows = [row(name, system="small", seed=seed, more=2.0 * seed) for seed in (1, 2) for name in BLEU]
    found = direction_maps([*rows, row("en-de", more=-9.0)], TESTS, ZERO_SHOT)
    assert [(each.test_set, each.metric, each.is_main) for each in found] == [
        ("news", "BLEU", True),
        ("news", "chrF", False),
    ]
    small, teacher = found[0].maps
    assert small.label == "small, pytorch float32, beam 5"
    assert small.values == {("en", "de"): 23.0, ("de", "en"): 34.0, ("de", "fr"): 8.0}
    assert teacher.values == {("en", "de"): 11.0}
    assert small.limits == teacher.limits == (8.0, 34.0)  # one scale for all systems
    assert (small.sources, small.targets) == (["en", "de"], ["en", "de", "fr"])
    assert [small.strength(cell) for cell in small.values] == [15 / 26, 1.0, 0.0]


def test_the_off_target_rate_has_a_map_and_variants_of_a_test_set_have_none() -> None:
    rows = [row(name, rate=10.0 * place) for place, name in enumerate(BLEU)]
    rows.append(ScoreRow(**{**vars(rows[0]), "test_set": "news.en-de.upper"}))
    found = direction_maps(rows, TESTS, ZERO_SHOT)
    assert [(each.metric, each.is_main, len(each.maps)) for each in found] == [
        ("BLEU", True, 1),
        ("chrF", False, 1),
        ("off-target %", False, 1),
    ]
    assert list(found[2].maps[0].values.values()) == [0.0, 10.0, 20.0]


def test_the_table_of_a_map_marks_zero_shot_directions() -> None:
    facts = direction_maps([row(name) for name in BLEU], TESTS, ZERO_SHOT)[0].maps[0].table()
    assert facts.header == ["from \\ to", "en", "de", "fr"]
    assert facts.lines == [["en", "", "20.0", ""], ["de", "31.0", "", "5.0*"]]


def test_equal_values_have_the_full_colour() -> None:
    same = HeatMap("a", "BLEU", ["en"], ["de"], {("en", "de"): 3.0}, frozenset(), (3.0, 3.0), 1)
    assert same.strength(("en", "de")) == 1.0


def test_differences_are_those_of_the_runs_that_were_compared() -> None:
    """The baseline is the run with the same way of decoding and the same seed, else the first seed."""
    rows = [
        row("en-de", seed=1),
        row("en-de", seed=2, more=10.0),
        row("en-de", beam=1, more=-5.0),
        row("en-de", system="small", seed=1, more=1.0),
        row("en-de", system="small", seed=2, more=13.0),
        row("en-de", system="small", seed=1, beam=1, more=-4.5),
        row("de-en", seed=1),
        row("de-en", system="small", seed=3, more=0.25),
    ]
    made = [
        comparison("en-de", 0.01),
        comparison("en-de", 0.2, seed=2),
        comparison("en-de", 0.3, beam=1),
        comparison("de-en", 0.4, seed=3),
    ]
    (facts,) = differences_by_direction(rows, made, TESTS)
    assert facts.title == "news: BLEU minus that of teacher, with p"
    assert facts.header == ["direction", "small,\npytorch float32, beam 5", "small,\npytorch float32, beam 1"]
    assert facts.lines == [
        ["en-de", "+2.00 (0.010–0.200)", "+0.50 (0.300)"],  # the mean of 1 and 3
        ["de-en", "+0.25 (0.400)", ""],
    ]


@pytest.mark.parametrize(
    ("pairs", "expected"), [(99, "low"), (100, "medium"), (999, "medium"), (1000, "high"), (None, None)]
)
def test_class_by_the_number_of_training_pairs(pairs: int | None, expected: str | None) -> None:
    resources = Resources({} if pairs is None else {"en-de": pairs}, low_below=100, high_from=1000)
    assert resources.class_of(DIRECTIONS["en-de"]) == expected


def test_averages_by_class_leave_out_zero_shot_directions() -> None:
    resources = Resources({"en-de": 10, "de-en": 5000, "de-fr": 10}, low_below=100, high_from=1000)
    found = average_rows([row(name) for name in BLEU], TESTS, ZERO_SHOT, resources)
    assert {each.group: each.directions for each in found} == {
        "all": ["en-de", "de-en"],
        "to English": ["de-en"],
        "from English": ["en-de"],
        "high-resource": ["de-en"],
        "low-resource": ["en-de"],
        "zero-shot": ["de-fr"],
    }
