"""Settings of back-translation: what they refuse, and the distill stage that they stand for."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tiny_pipeline
from pydantic import ValidationError

from kdmt.config import BackTranslation, ForeignTeacher, LocalTranslator, Pipeline

MONO = [{"path": "mono.de"}]


def pipeline(teacher: dict[str, Any] | None = None, prepare: dict[str, Any] | None = None, **back: Any) -> Pipeline:
    document = tiny_pipeline.settings()
    document["teacher"]["data"] = [{"set": "raw", "share": 0.5}, {"set": "back_translated", "share": 0.5}]
    document["teacher"] |= teacher or {}
    document["prepare"] |= {"monolingual_target": MONO} | (prepare or {})
    document["back_translation"] = {"checkpoint": "runs/reverse/teacher"} | back
    return Pipeline.model_validate(document)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decode": {"nbest": 2}}, "'decode.nbest' has no effect"),
        ({"sample": {}, "decode": {"beam": 3}}, "'decode.beam' has no effect with 'sample'"),
        ({"engine": "torch", "compute_type": "int8"}, "'compute_type: int8' needs CTranslate2"),
        ({"checkpoint": {"ctranslate2": "t5"}, "sample": {}}, "'sample' has no effect on a model with 'ctranslate2'"),
        ({"checkpoint": {"ctranslate2": "t5"}, "engine": "torch"}, "'engine' has no effect on a model with"),
        ({"checkpoint": {"endpoint": "http://x"}}, "huggingface"),
        ({"failures": {"max_ratio": 2.0}}, "'max_ratio' has no effect unless 'ratio' is drop"),
        ({"failures": {"repetition_times": 5}}, "'repetition_times' has no effect unless 'repetition' is drop"),
        ({"failures": {"scripts": ["Latin"]}}, "'scripts' has no effect unless 'script' is drop"),
        ({"failures": {"script": "drop"}}, "'script: drop' needs 'scripts'"),
        ({"failures": {"script": "drop", "scripts": ["Latin"]}}, "'script: drop' needs 'copied: drop'"),
        ({"failures": {"repetition": "reference"}}, "back_translation.failures.repetition"),
        ({"text": ["mono.de"]}, "'prepare.monolingual_target' has no effect with 'back_translation.text'"),
        ({"prepare": {"monolingual_target": []}}, "'back_translation' needs 'prepare.monolingual_target'"),
        ({"teacher": {"data": "raw"}}, "'back_translation' has no effect: no teacher or student has"),
        ({"teacher": {"data": "distilled"}}, "'data': distilled is not made without the teacher: give raw or"),
        (
            {"teacher": {"data": [{"set": "raw", "share": 0.5}, {"set": "back_translated", "share": 0.6}]}},
            "the shares add up to 1.1, not to 1",
        ),
        (
            {
                "teacher": {
                    "stages": [{"data": [{"set": "raw", "share": 0.5}, {"set": "back_translated", "share": 0.1}]}]
                }
            },
            "the shares add up to 0.6, not to 1",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        pipeline(**changes)


def test_a_set_without_the_section_is_refused() -> None:
    document = tiny_pipeline.settings()
    document["teacher"]["data"] = "back_translated"
    with pytest.raises(ValidationError, match=r"'teacher.data: back_translated' needs 'back_translation'"):
        Pipeline.model_validate(document)


def test_text_in_the_target_language_may_be_prepared_for_a_later_back_translation() -> None:
    document = tiny_pipeline.settings()
    document["prepare"]["monolingual_target"] = MONO
    assert Pipeline.model_validate(document).prepare.monolingual_texts.keys() == {"monolingual_target"}


@pytest.mark.parametrize(
    ("checkpoint", "kind"),
    [
        ("runs/reverse/teacher", str),
        ({"huggingface": "Helsinki-NLP/opus-mt-de-en"}, ForeignTeacher),
        ({"ctranslate2": "madlad", "source_prefix": "<2en> "}, LocalTranslator),
    ],
)
def test_every_setting_reaches_the_stage_that_translates(checkpoint: Any, kind: type) -> None:
    section = BackTranslation.model_validate(
        {
            "checkpoint": checkpoint,
            "decode": {"beam": 3},
            "compute_type": "int8",
            "block_lines": 7,
            "executor": "ray",
            "workers": 3,
            "threads": 0,
            "silence_minutes": 2.0,
            "device": "cuda:1",
        }
    )
    made = section.as_distill()
    assert [type(teacher) for teacher in made.teachers] == [kind]
    assert (made.decode, made.compute_type, made.block_size) == (section.decode, "int8", 7)
    assert (made.executor, made.workers, made.threads, made.silence_minutes, made.device) == (
        "ray",
        3,
        1,
        2.0,
        "cuda:1",
    )
    sampled = BackTranslation.model_validate({"checkpoint": "x", "engine": "torch", "sample": {"seed": 5}}).as_distill()
    assert (sampled.engine, sampled.sample.seed) == ("torch", 5)
    checks = {"repetition": "drop", "repetition_times": 2, "copied": "drop"}
    checks |= {"script": "drop", "scripts": ["Latin"], "max_foreign": 0.1}
    checked = BackTranslation.model_validate({"checkpoint": "x", "failures": checks}).as_distill().failures
    assert {name: getattr(checked, name) for name in checks} == checks
    assert (checked.max_ratio, made.failures.max_ratio, made.failures.repetition_times) == (0.0, 0.0, 0)
    actions = {made.failures.too_long, made.failures.repetition, made.failures.ratio, made.failures.copied}
    assert (made.failures.empty, actions) == ("drop", {"keep"})
