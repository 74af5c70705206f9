"""Tests of settings of teachers that answer with text."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from kdmt.choices import AnswerFailure, names
from kdmt.config import EndpointTeacher, LocalGenerator, LocalTranslator, Pipeline, flatten_settings
from kdmt.config.language_models import DISTINCTIVE, NO_EFFECT
from kdmt.distill.chosen_teacher import EARLIER, plan_settings
from kdmt.errors import UserError

Load = Callable[..., Pipeline]
ENDPOINT = "endpoint: http://h/v1, model: m, prompt: p"
GENERATOR = "ctranslate2_generator: f, prompt: p"
TRANSLATOR = "ctranslate2: f"


def of(teacher: str, more: str = "", **settings: str) -> str:
    """Return the override of the section with one teacher."""
    own = "".join(f", {name}: {value}" for name, value in settings.items())
    return f"distill={{teachers: [{{{teacher}{own}}}]{more}}}"


@pytest.mark.parametrize(
    ("teacher", "kind"), [(ENDPOINT, EndpointTeacher), (GENERATOR, LocalGenerator), (TRANSLATOR, LocalTranslator)]
)
def test_teachers_are_distinguished_by_a_setting(load: Load, teacher: str, kind: type) -> None:
    settings = load(of(teacher)).distill
    assert type(settings.of_text) is kind
    assert settings.foreign is None
    assert settings.checkpoints == []
    assert load(of("huggingface: x")).distill.of_text is None
    copied = type(settings).model_validate(settings.model_dump())
    assert copied == settings


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (of("endpoint: http://h/v1"), "distill.teachers.0.prompt: missing"),
        (of("endpoint: localhost:8000, model: m, prompt: p"), "distill.teachers.0.endpoint: not the base URL"),
        (of("endpoint: 'ftp://h', model: m, prompt: p"), "distill.teachers.0.endpoint: not the base URL"),
        (of("endpoint: 'http://h:x/v1', model: m, prompt: p"), "distill.teachers.0.endpoint: not the base URL"),
        (of("endpoint: 'http://h/v1?key=1', model: m, prompt: p"), "distill.teachers.0.endpoint: not the base URL"),
        (of("endpoint: 'http://me:pw@h/v1', model: m, prompt: p"), "distill.teachers.0.endpoint: a URL with a user"),
        (
            of(ENDPOINT, api_key_variable="sk-123"),
            "distill.teachers.0.api_key_variable: not the name of an env",
        ),
        (of(ENDPOINT, n="2"), "distill.teachers.0: 'n' is more than 1, and with 'temperature: 0' all candidates"),
        (of(ENDPOINT, min_p="0.1"), "distill.teachers.0: 'min_p' has no effect with 'temperature: 0'"),
        (of(ENDPOINT, top_p="0.1"), "distill.teachers.0: 'top_p' has no effect with 'temperature: 0'"),
        (of(ENDPOINT, seed="1"), "distill.teachers.0: 'seed' has no effect with 'temperature: 0'"),
        (of(GENERATOR, seed="2"), "distill.teachers.0: 'seed' has no effect with 'temperature: 0'"),
        (of(ENDPOINT, batch_size="3"), "distill.teachers.0: 'batch_size' has no effect unless 'batch' is set"),
        (
            of(ENDPOINT, request_fields="{n: 3}"),
            "distill.teachers.0: 'request_fields': the field 'n' is made from other settings",
        ),
        (of(ENDPOINT, more=", decode: {beam: 2}"), "distill: 'decode' has no effect on a model with 'endpoint'"),
        (of(ENDPOINT, more=", compute_type: int8"), "distill: 'compute_type' has no effect on a model with 'endpoint'"),
        (of(GENERATOR, more=", decode: {beam: 2}"), "distill: 'decode' has no effect on a model with 'ctranslate2_gen"),
        (of(TRANSLATOR, more=", iterations: 2"), "distill: 'iterations' has no effect on a model with 'ctranslate2'"),
        (of(TRANSLATOR, more=", sample: {seed: 2}"), "distill: 'sample' has no effect on a model with 'ctranslate2'"),
        (of(ENDPOINT, more=", pool: {}"), "distill: 'pool' has no effect on a model with 'endpoint' in 'teachers'"),
        ("distill.teachers=[a, {ctranslate2: f}]", "distill: "),
        ("distill={teachers: [{ctranslate2: f}, {ctranslate2: g}]}", "distill: 'teachers': a model with 'ctranslate2'"),
        ("distill.failures.refusal=drop", "distill: 'failures.refusal' has no effect on the answers of this teacher"),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


def test_failures_of_answers_have_actions(load: Load) -> None:
    for name in names(AnswerFailure):
        settings = load(of(ENDPOINT, more=f", failures: {{{name}: drop}}")).distill
        assert getattr(settings.failures, name) == "drop"


@pytest.mark.parametrize("teacher", [ENDPOINT, GENERATOR])
def test_choices_need_several_candidates(load: Load, problem: Callable[..., str], teacher: str) -> None:
    mbr = "students.small.data=mbr"
    message = "'students.small.data: mbr' is made of the n-best: set 'distill.teachers.0.n'"
    assert problem(of(teacher), mbr).startswith(message)
    assert load(of(teacher, n="2", temperature="1.0"), mbr).distill.num_candidates[0] == 2
    assert load(of(TRANSLATOR, more=", decode: {beam: 3, nbest: 3}"), mbr).distill.num_candidates[0] == 3
    sampled = "students.small.data=sampled"
    assert problem(of(teacher), sampled).startswith("'students.small.data: sampled' is not drawn from the teacher")


def test_how_requests_are_sent_does_not_change_a_plan(load: Load) -> None:
    settings = load(of(ENDPOINT)).distill
    kinds = {kind: set(flatten_settings(settings, kind)) for kind in ("result", "execution")}
    execution = ("endpoint", "api_key_variable", "concurrency", "retries", "timeout", "max_wait", "budget_tokens")
    assert {f"teachers.0.{name}" for name in execution} <= kinds["execution"]
    assert {f"teachers.0.{name}" for name in ("model", "prompt", "n", "min_p", "batch")} <= kinds["result"]


def test_tables_have_every_teacher_and_existing_settings(load: Load) -> None:
    assert set(DISTINCTIVE.values()) == set(NO_EFFECT)
    fields = type(load("name=x").distill).model_fields
    assert all(name in section.model_fields for name, section in DISTINCTIVE.items())
    assert all(name in fields for own in NO_EFFECT.values() for name in own)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (", mbr: {weights: probability}", "'distill.mbr.weights: probability': the teacher"),
        (", diverse: {quality: probability}", "'distill.diverse.quality: probability': the teacher"),
    ],
)
@pytest.mark.parametrize("teacher", [ENDPOINT, GENERATOR])
def test_probabilities_of_tokens_are_refused(load: Load, teacher: str, more: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load(of(teacher, more))
    load(of(TRANSLATOR, more))


@pytest.mark.parametrize(
    ("teacher", "features", "left_out"),
    [
        (ENDPOINT, "[score, length, mbr]", "length, score"),
        (GENERATOR, "[log_prob, mbr]", "log_prob"),
    ],
)
def test_sets_by_probability_are_refused(load: Load, teacher: str, features: str, left_out: str) -> None:
    own = {"n": "2", "temperature": "1.0"}
    with pytest.raises(UserError, match=r"students\.near\.data: nbest' is weighted by probability"):
        load(of(teacher, "", **own), "students.near={data: nbest}")
    made = of(teacher, f", rerank: {{features: {features}}}", **own)
    with pytest.raises(UserError, match=rf"'distill\.rerank\.features'.*leave out {left_out}$"):
        load(made, "students.near={data: reranked}")
    load(of(teacher, ", rerank: {features: [mbr]}", **own), "students.near={data: reranked}")
    more = f", decode: {{nbest: 2}}, rerank: {{features: {features}}}"
    for name in ("nbest", "reranked"):
        load(of(TRANSLATOR, more), f"students.near={{data: {name}}}")


def test_codes_of_indictrans2_come_in_pairs(load: Load) -> None:
    both = {"source_code": "eng_Latn", "target_code": "hin_Deva"}
    teacher = load(of(TRANSLATOR, **both)).distill.of_text
    assert isinstance(teacher, LocalTranslator)
    assert teacher.codes == ("eng_Latn", "hin_Deva")
    for own, message in (
        ({"source_code": "eng_Latn"}, "IndicTrans2 has both a 'source_code' and a 'target_code'"),
        (both | {"source_prefix": "x"}, "'source_prefix' has no effect with 'source_code' and 'target_code'"),
        (both | {"target_code": "hi"}, "teachers.0.target_code"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            load(of(TRANSLATOR, **own))
    plain = flatten_settings(load(of(TRANSLATOR)).distill, "result")
    settings = {f"distill.{name}": setting.value for name, setting in plain.items()}
    assert set(EARLIER) <= set(settings)
    assert EARLIER.keys().isdisjoint(plan_settings(settings, ["distill."]))  # blocks without them fit
