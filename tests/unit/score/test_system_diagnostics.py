"""Diagnostics of systems: planted faults are found and counted exactly."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from kdmt.errors import UserError
from kdmt.score.coverage import Aligner
from kdmt.score.system_diagnostics import (
    FIGURES,
    DiagnosticsRow,
    Knowledge,
    Outputs,
    SystemDiagnostics,
    TestText,
    TrainingOutputs,
    TrainingText,
    counts,
    diversity,
    find_examples,
    find_training_examples,
    kind_scores,
    measure_outputs,
    measure_training,
    percentages,
    read_diagnostics,
    write_diagnostics,
)

WORDS = {f"s{letter}": f"t{letter}" for letter in "abcdefghij"}
SIZE = 60


def translate(source: list[str]) -> list[str]:
    return [WORDS[word] for word in source]


def outputs(words: list[list[str]]) -> Outputs:
    return Outputs(words, [" ".join(each) for each in words])


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    rng = random.Random(1)
    sources = [rng.sample(list(WORDS), rng.randint(3, 6)) for _ in range(300)]
    return Knowledge(Aligner.train(sources, list(map(translate, sources))), {"ta"})


@pytest.fixture(scope="module")
def text() -> TestText:
    rng = random.Random(2)
    sources = [rng.sample(list(WORDS), rng.randint(3, 8)) for _ in range(SIZE)]
    references = list(map(translate, sources))
    raw = [" ".join(source) for source in sources]
    return TestText("test", raw, sources, references, [" ".join(each) for each in references])


def test_the_references_have_no_fault(text: TestText, knowledge: Knowledge) -> None:
    figures = percentages(measure_outputs(text, outputs(text.references), knowledge).ratios)
    faults = ("omitted", "untranslated", "copies", "oscillating", "detached")
    assert {name: figures[name] for name in faults} == dict.fromkeys(faults, 0.0)
    assert figures["length"] == figures["rare_recall"] == 100.0
    assert figures["numbers"] is None  # there is none


def test_every_planted_fault_is_counted(text: TestText, knowledge: Knowledge) -> None:
    """Plant 7 outputs of one text, 3 loops, 4 copies and 5 omissions of one word in a perfect system."""
    words = [list(each) for each in text.references]
    for i in range(7):
        words[i] = ["ta", "tb", "tc"]
    for i in range(7, 10):
        words[i] = ["td", "te"] * 12
    for i in range(10, 14):
        words[i] = list(text.sources[i])
    for i in range(14, 19):
        words[i] = words[i][:-1]
    measured = measure_outputs(text, outputs(words), knowledge)
    found = counts(measured.ratios)
    assert (found["detached"], found["oscillating"], found["copies"]) == ((7, SIZE), (3, SIZE), (4, SIZE))
    untranslated = sum(len(text.sources[i]) for i in range(10, 14))
    assert found["untranslated"] == (untranslated, sum(map(len, text.sources)))
    missing = 0
    for i, source in enumerate(text.sources):
        own = set(words[i]) | ({WORDS[word] for word in source} if 10 <= i < 14 else set())
        missing += sum(WORDS[word] not in own for word in source)
    assert found["omitted"][0] == missing
    assert found["length"] == (sum(map(len, words)), sum(map(len, text.references)))
    rare = [i for i in range(SIZE) if "ta" in text.references[i]]
    assert found["rare_recall"] == (sum("ta" in words[i] for i in rare), len(rare))

    examples = list(find_examples(text, {"bad": outputs(words)}, {"bad": measured}, most=2))
    by_problem = {name: [each for each in examples if each.problem == name] for name in FIGURES}
    assert [each.line for each in by_problem["oscillating"]] == [8]  # the same output once
    assert by_problem["oscillating"][0].note == "td te (12 times)"
    assert [each.line for each in by_problem["detached"]] == [1]
    assert len(by_problem["copies"]) == len(by_problem["omitted"]) == 2
    example = by_problem["copies"][0]
    assert example.outputs == {"bad": example.source}
    assert example.reference == text.finished_references[example.line - 1]


def test_numbers_and_urls_count_if_the_reference_keeps_them() -> None:
    text = TestText(
        "test",
        ["pay 1,000 in 2026 at www.a.org", "5 cats"],
        [["x"], ["x"]],
        [["y"], ["y"]],
        ["zahle 1.000 in 2026 auf www.a.org", "fünf Katzen"],
    )
    found = Outputs([["y"], ["y"]], ["zahle 1000 in 2025 auf www.a.com", "5 Katzen"])
    ratios = counts(measure_outputs(text, found, Knowledge(None, ())).ratios)
    assert (ratios["numbers"], ratios["urls"], ratios["omitted"]) == ((1, 2), (0, 1), (0, 0))


def test_kinds_are_parts_of_the_test_set(text: TestText, knowledge: Knowledge) -> None:
    ratios = measure_outputs(text, outputs(text.references), knowledge).ratios
    seen = []

    def score(indices: list[int]) -> float:  # type: ignore[misc]
        seen.append(indices)
        return float(len(indices))

    found = kind_scores(text, ratios, score)  # type: ignore[arg-type]
    assert found.keys() == {"1 to 10 words", "lower case"}
    assert seen == [list(range(SIZE))] * 2
    assert found["lower case"].sentences == found["lower case"].score == SIZE
    assert found["lower case"].figures == {"length": 100.0, "omitted": 0.0, "oscillating": 0.0}


def test_replicated_training_targets_are_counted_and_shown() -> None:
    text = TrainingText([1, 11, 21], [["a"], ["b", "c"], ["d"]], [["x"], ["y", "z"], ["v"]])
    outputs = TrainingOutputs([["x"], ["y", "z"], ["w"]], [[], ["y", "z"], ["v", "v"]])
    found = counts(measure_training(text, outputs))
    assert (found["replicated"], found["extracted"]) == ((2, 3), (1, 3))
    examples = list(find_training_examples(text, {"teacher": outputs}, most=1))
    assert [(each.problem, each.line, each.source, each.reference) for each in examples] == [
        ("replicated", 11, "b c", "y z"),
        ("extracted", 11, "b c", "y z"),
    ]


def test_diagnostics_are_read_as_they_were_written(tmp_path: Path, text: TestText, knowledge: Knowledge) -> None:
    measured = measure_outputs(text, outputs(text.references), knowledge)
    figures = percentages(measured.ratios) | diversity(text.references)
    kinds = kind_scores(text, measured.ratios, lambda _: 50.0)
    row = DiagnosticsRow("teacher", "test", 1, 5, None, figures, counts(measured.ratios), kinds)
    shown = {"teacher": outputs(list(text.sources))}
    copied = {"teacher": measure_outputs(text, shown["teacher"], knowledge)}
    examples = list(find_examples(text, shown, copied, most=1))
    found = SystemDiagnostics("bleu", 10, 300, [row, replace(row, iterations=4)], examples)
    path = tmp_path / "diagnostics.json"
    write_diagnostics(path, found)
    assert read_diagnostics(path) == found
    assert json.loads(path.read_text(encoding="utf-8"))["figures"].keys() == FIGURES.keys()
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"diagnostics\.json"):
        read_diagnostics(path)
