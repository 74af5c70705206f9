"""Tests of error messages: they name each problem by its YAML path, in plain words, and have a maximum length."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from kdmt.config import Pipeline, Source, Student
from kdmt.config.messages import describe_setting

Load = Callable[..., Pipeline]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("teacher.train.lr=fast", "should be a valid number (it is 'fast')"),
        ("teacher.train.max_updates='5'", "should be a valid integer (it is '5')"),
        ("teacher.train.max_updates=1.5", "should be a valid integer (it is 1.5)"),
        ("prepare.train.0.weight=true", "should be a valid integer (it is True)"),
        ("prepare.clean.min_words=a", "should be a valid integer (it is 'a')"),
        ("prepare.clean=all", "should be 'none' (it is 'all')"),
        ("prepare.decontaminate=1", "should be a valid boolean (it is 1)"),
        ("teacher=null", "expected a mapping of settings (it is None)"),
        ("students=null", "expected a mapping (it is None)"),
        ("students.raw.seeds=3", "expected a list (it is 3)"),
        ("score.beams=[]", "the list is too short (it is [])"),
        ("score.beams.1=0", "should be greater than or equal to 1 (it is 0)"),
        ("teacher.model.dropout=1.0", "should be less than 1 (it is 1.0)"),
        ("teacher.train.lr=.nan", "should be a finite number (it is nan)"),
        ("teacher.train.clip_norm=.inf", "should be a finite number (it is inf)"),
        ("teacher.train.adam_betas=0.9", "expected a list (it is 0.9)"),
        ("distill.failures.unk=delete", "should be 'keep', 'reference' or 'drop' (it is 'delete')"),
        ("distill.failures.max_ratio=1.0", "should be greater than 1, or 0 for no limit (it is 1.0)"),
        ("prepare.clean.max_ratio=0.5", "should be greater than 1, or 0 for no limit (it is 0.5)"),
        ("teacher.train.max_source_tokens=1", "should be at least 2, or 0 for no limit (it is 1)"),
        ("distill.failures.repetition_times=1", "should be at least 2, or 0 for no limit (it is 1)"),
        ("target_lang=no", 'YAML reads no without quotes as false: write "no" in quotes for Norwegian, or nb or nn'),
        ("source_lang=3", "should be a valid string (it is 3)"),
        ("distill.failures.max_ratio=-1.0", "should be greater than or equal to 0 (it is -1.0)"),
        ("distill.sample.temperature=0.0", "should be greater than 0 (it is 0.0)"),
        ("distill.sample.top_p=1.5", "should be less than or equal to 1 (it is 1.5)"),
        ("name=a/b", r"not in the form ^\w[\w.-]*$ (it is 'a/b')"),
        ("students.a b={}", r"not in the form ^\w[\w.-]*$ (it is 'a b')"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(refusal: Callable[..., str], override: str, problem: str) -> None:
    path = override.partition("=")[0]
    assert f"/p.yaml: {path}: {problem}" in refusal(override)


def test_all_problems_are_listed_in_one_message(refusal: Callable[..., str]) -> None:
    message = refusal("teacher.seed=-1", "score.lenpen=x", "foo=1")
    assert message.count("; ") == 2
    for path in ("teacher.seed", "score.lenpen", "foo"):
        assert f"{path}: " in message


@pytest.mark.parametrize(
    "override",
    [
        "source_lang={}",
        "teacher.train.lr={}",
        "teacher.model.arch=[{}]",
        "{}=1",
        "{}",
        "teacher.{}=1",
        "teacher.train={}",
        "prepare.test.{}=null",
        "distill.failures.scripts=[{}]",
        "score.baseline={}",
        "students.raw.hidden_kd={{encoder: {}}}",
        "name.{}.b=1",
    ],
)
@pytest.mark.parametrize("length", [500, 3000, 100_000])
def test_no_more_than_200_characters_are_quoted(problem: Callable[..., str], override: str, length: int) -> None:
    message = problem(override.format("q" * length))
    assert max(map(len, re.findall("q+", message)), default=0) <= 200


def test_at_most_20_problems_are_listed(problem: Callable[..., str]) -> None:
    message = problem(text="".join(f"key_{number}: 1\n" for number in range(500)))
    assert message.count("unknown setting") + message.count("missing") == 20
    assert message.endswith("; and 482 more")  # of 500 unknown and 2 missing settings


@pytest.mark.parametrize(
    ("override", "end"),
    [
        ("teacher.train.lr=fast", "(it is 'fast') [Learning rate at the end of the warmup]"),
        ("score.beams.1=0", "(it is 0) [Beam sizes for autoregressive models]"),
        ("distill.teachers=[{source_code: de}]", "missing [Folder of the model, or its name on the Hugging Face Hub]"),
        ("prepare.clean.max_ratio=0.5", "in the corpora; 0 for no limit]"),
        ("teacher.train=3", "expected a mapping of settings (it is 3)"),  # not a setting but a section
        ("teacher.foo=1", "unknown setting"),
        ("source_lang=de", "are both 'de'"),
    ],
)
def test_a_problem_with_a_setting_ends_with_its_description(
    refusal: Callable[..., str], override: str, end: str
) -> None:
    assert refusal(override).endswith(end)


def test_many_problems_have_no_descriptions(refusal: Callable[..., str]) -> None:
    assert "[" in refusal("teacher.seed=-1", "score.lenpen=x", "score.beams=x")
    assert "[" not in refusal("teacher.seed=-1", "score.lenpen=x", "score.beams=x", "teacher.train.lr=x")


@pytest.mark.parametrize(
    ("location", "description"),
    [
        (["teacher", "train", "lr"], "Learning rate at the end of the warmup"),
        (["prepare", "train", 0, "source", "path"], Source.model_fields["path"].description),
        (["students", "model", "embeddings_from_teacher"], Student.model_fields["embeddings_from_teacher"].description),
        (["students", "seeds", "seeds"], Student.model_fields["seeds"].description),  # a student of this name
        (["students", "seeds"], None),
        (["teacher", "train"], None),
        ([], None),
    ],
)
def test_the_setting_at_a_path_is_found(location: list[str | int], description: str | None) -> None:
    assert describe_setting(Pipeline, location) == description
