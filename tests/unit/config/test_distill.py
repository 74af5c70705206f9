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
        ("distill.imported_sources=true", "distill: 'imported_sources' has no effect unless 'imported' is set"),
        ("distill.reverse={drop_percent: 1.0}", "distill.reverse.checkpoint: missing"),
        ("distill.mbr={prune: 8, aggregate: true}", "distill.mbr: 'prune' has no effect with 'aggregate: true'"),
        ("distill.mbr={prune: 2, top: 3}", "distill.mbr: 'prune' (2) leaves fewer candidates than 'top' (3)"),
        ("distill.mbr.top=0", "distill.mbr.top: should be greater than or equal to 1 (it is 0)"),
        ("distill.mbr.utility=comet", "distill.mbr.utility: should be 'chrf' or 'bleu' (it is 'comet')"),
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
