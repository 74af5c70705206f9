"""Tests of settings of distillation: teachers, engines and checks of hypotheses."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import yaml

from kdmt.choices import Failure, OnFailure
from kdmt.config import Failures, Pipeline

Load = Callable[..., Pipeline]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("distill.teachers=[3]", "distill.teachers.0: should be a valid string (it is 3)"),
        ("distill.teachers=[{source_code: de}]", "distill.teachers.0.huggingface: missing"),
        (
            "distill.teachers=[{huggingface: x, source_code: no}]",
            "distill.teachers.0.source_code: YAML reads no without quotes as false",
        ),
        ("distill.teachers=[{huggingface: x, lang: de}]", "distill.teachers.0.lang: unknown setting"),
        ("distill.teachers=[{huggingface: x}, runs/y]", "distill: 'teachers': a 'huggingface' model has a vocabulary"),
        (
            "distill={engine: auto, teachers: [{huggingface: x}], shortlist: {}}",
            "distill: 'shortlist' is learnt in the vocabulary of the data",
        ),
        ("distill={engine: torch, compute_type: int8}", "distill: 'compute_type: int8' needs CTranslate2"),
        ("distill={engine: torch, shortlist: {}}", "distill: 'shortlist' needs CTranslate2"),
        ("distill={engine: ctranslate2, teachers: [a, b]}", "distill: 'engine: ctranslate2' has one model"),
        ("distill={engine: ctranslate2_exact, teachers: [a, b]}", "distill: 'engine: ctranslate2_exact' has one model"),
        ("distill.imported_sources=true", "distill: 'imported_sources' has no effect unless 'imported' is set"),
        ("distill.reverse={drop_percent: 1.0}", "distill.reverse.checkpoint: missing"),
        ("distill.mbr={prune: 8, aggregate: true}", "distill.mbr: 'prune' has no effect with 'aggregate: true'"),
        ("distill.mbr={prune: 2, top: 3}", "distill.mbr: 'prune' (2) leaves fewer candidates than 'top' (3)"),
        ("distill.mbr.top=0", "distill.mbr.top: should be greater than or equal to 1 (it is 0)"),
        ("distill.mbr.weights=count", "distill: 'mbr.weights: count' has no effect unless 'pool' is set"),
        ("distill.rerank.features=[count]", "distill: 'rerank.features': 'count' has no effect unless 'pool' is set"),
        ("distill.rerank.features=[]", "distill.rerank: there is no feature: set 'features' or 'files'"),
        ("distill.rerank.features=[mbr, mbr]", "distill.rerank: 'features' has 'mbr' twice"),
        ("distill.rerank.files={mbr: {train: x}}", "distill.rerank: 'files.mbr': this is the name of a feature"),
        ("distill.rerank.files={A b: {train: x}}", "distill.rerank.files.A b: not in the form"),
        ("distill.rerank.features=[language_model]", "distill.rerank: the feature 'language_model' needs the setting"),
        ("distill.rerank.language_model=x", "distill.rerank: 'language_model' has no effect unless 'features' has it"),
        ("distill.rerank.features=[backward]", "distill.rerank: the feature 'backward' needs the setting 'backward'"),
        ("distill.rerank.backward=x", "distill.rerank: 'backward' has no effect unless 'features' has it"),
        ("distill.rerank.weights={x: 1.0}", "distill.rerank: 'weights.x': there is no such feature"),
        (
            "distill.rerank={features: [length, mbr], weights: {mbr: 1.0}}",
            "distill.rerank: 'weights' has none for the feature 'length'",
        ),
        (
            "distill.rerank={features: [mbr], weights: {mbr: 1.0}, seed: 2}",
            "distill.rerank: 'seed' has no effect with 'weights', which are not tuned",
        ),
        (
            "distill.rerank={features: [], files: {a: {train: x, valid: y}}, weights: {a: 1.0}}",
            "distill.rerank: 'files.a.valid' has no effect with 'weights', which are not tuned",
        ),
        ("distill.diverse.targets=1", "distill.diverse.targets: should be greater than or equal to 2 (it is 1)"),
        ("distill.diverse.balance=1.5", "distill.diverse.balance: should be less than or equal to 1 (it is 1.5)"),
        (
            "distill.mbr.utility=comet",
            "'distill.mbr.utility': 'comet' is not 'chrf' or 'bleu', and 'scorers' has none",
        ),
        (
            "distill.rerank.features=[lenght]",
            "'distill.rerank.features': 'lenght' is not one of score, log_prob, length, ratio, count, mbr, backward, "
            "language_model, and 'scorers' has none",
        ),
        ("distill.scores={scorer: comet}", "'distill.scores.scorer': 'comet': 'scorers' has none"),
        ("distill.scores={scorer: comet, top: 1}", "distill.scores.top: unknown setting"),
        ("distill.scores=5", "distill.scores: should be a valid string (it is 5)"),
        (
            "distill.mbr={utility: comet, aggregate: true}",
            "distill.mbr: 'aggregate: true' needs n-gram counts: 'comet' is not 'chrf' or 'bleu'",
        ),
        (
            "distill.rerank={features: [kiwi], files: {kiwi: {train: x}}}",
            "distill.rerank: 'features' and 'files' both have 'kiwi'",
        ),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


def test_foreign_teachers_and_checkpoints_are_distinguished(load: Load) -> None:
    ours = load("distill.teachers=[a, b]").distill
    assert (ours.checkpoints, ours.foreign) == (["a", "b"], None)
    others = load("distill={engine: auto, teachers: [{huggingface: x, target_code: de}]}").distill
    assert others.checkpoints == []
    assert others.foreign is not None
    assert (others.foreign.huggingface, others.foreign.target_code) == ("x", "de")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Latinn", "not the name of a Unicode script, as Latin or Cyrillic is"),
        ("de", "not the name of a Unicode script, as Latin or Cyrillic is"),
        ("'L}|\\p{N'", "not the name of a Unicode script, as Latin or Cyrillic is"),
        ("Common", "not a script of its own"),
        ("Katakana_Or_Hiragana", "not a script of its own"),
    ],
)
def test_an_unknown_script_is_refused_with_its_path(problem: Callable[..., str], name: str, expected: str) -> None:
    message = problem(f"distill.failures.scripts=[Latin, {name}]")
    assert message.startswith(f"distill.failures.scripts.1: {expected} (it is {yaml.safe_load(name)!r})")


@pytest.mark.parametrize("names", ["[]", "[Latin]", "[Han, Hiragana, Katakana]", "[Hang, Latn]"])
def test_scripts_are_named_as_in_unicode(load: Load, names: str) -> None:
    assert load(f"distill.failures.scripts={names}").distill.failures.scripts == yaml.safe_load(names)


def test_every_failure_has_an_action() -> None:
    actions = [name for name, field in Failures.model_fields.items() if field.annotation == OnFailure]
    assert tuple(actions) == get_args(Failure)  # in the order of the checks
