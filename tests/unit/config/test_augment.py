"""Settings of augmentation: recipes, shares and what is refused, with the YAML path."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdmt.config import Pipeline
from kdmt.config.augment import DEFAULT_SHARES


def test_the_recipe_is_its_shares(load: Callable[..., Pipeline]) -> None:
    config = load("teacher.augment=default", "students.raw.augment=default", "distill.augment=default")
    for augment in (config.teacher.augment, config.students["raw"].augment):
        assert augment is not None
        assert {name: share for name, share in augment.shares().items() if share} == DEFAULT_SHARES
    assert config.distill.augment is not None
    drawn = {name for name, share in config.distill.augment.shares().items() if share}
    assert drawn == {"upper_case", "title_case", "no_end_punctuation", "typos"}


def test_a_stage_has_its_own_augmentation(load: Callable[..., Pipeline]) -> None:
    stages = "students.raw.stages=[{}, {augment: {typos: 0.5}}, {augment: default}, {augment: null}]"
    found = [stage.augment for stage in load("students.raw.augment={merged: 0.1}", stages).students["raw"].in_stages()]
    shares = [each and {name: share for name, share in each.shares().items() if share} for each in found]
    # the settings of a stage are merged with those of the student
    assert shares == [{"merged": 0.1}, {"merged": 0.1, "typos": 0.5}, DEFAULT_SHARES, None]


def test_a_stage_of_the_teacher_has_its_own_augmentation(load: Callable[..., Pipeline]) -> None:
    config = load("teacher.augment={merged: 0.1}", "teacher.stages=[{}, {augment: null}, {augment: default}]")
    found = [teacher.augment for _, teacher in config.teacher_trainings()]
    shares = [each and {name: share for name, share in each.shares().items() if share} for each in found]
    assert shares == [{"merged": 0.1}, None, DEFAULT_SHARES]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.augment=none", "teacher.augment: there is no recipe 'none': give shares, or the recipe 'default'"),
        ("teacher.augment={}", "teacher.augment: all shares are 0"),
        ("teacher.augment={typos: 1.5}", "teacher.augment.typos: "),
        ("teacher.augment={merged: 1, typo_rate: 0.5}", "teacher.augment: 'typo_rate' has no effect without 'typos'"),
        (
            "teacher.augment={upper_case: 0.6, title_case: 0.5}",
            "teacher.augment: 'upper_case' and 'title_case' exclude each other",
        ),
        ("distill.augment={tags: 0.1}", "distill.augment.tags: "),
        ("distill.augment={noise: 0.1}", "distill.augment.noise: "),
        (
            "teacher={augment: {typos: 0.1}, train: {packing: true}, model: {attention_dropout: 0.0}}",
            "teacher: 'augment' cannot be combined with 'train.packing'",
        ),
        (
            "teacher={augment: {typos: 0.1}, train: {guided_alignment: {}}}",
            "teacher: 'augment' cannot be combined with 'train.guided_alignment'",
        ),
        (
            "students.raw={word_kd: {source: cache}, augment: {typos: 0.1}}",
            "students.raw: 'augment' cannot have 'word_kd.source: cache', which has the teacher's distributions at the "
            "tokens of the training set: 'word_kd.source: teacher' runs the teacher on the changed text",
        ),
        ("score.variants={x: [upper_case, upper_case]}", "score: 'variants.x' holds a name twice"),
        ("score.variants={x: [upper_case, title_case]}", "score: 'variants.x': 'upper_case' and 'title_case' exclude"),
        ("score.variants={x: [noise]}", "score.variants.x.0: "),
        ("score.variants={x: []}", "score.variants.x: "),
        ("score.variants={x.y: [typos]}", "score.variants"),
    ],
)
def test_settings_that_contradict_are_refused(problem: Callable[..., str], override: str, message: str) -> None:
    assert problem(override).startswith(message)


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("teacher.augment={upper_case: 0.1}", "teacher.augment"),
        ("students.raw.augment={upper_case: 0.1}", "students.raw.augment"),
        ("students.raw.stages=[{}, {augment: {upper_case: 0.1}}]", "students.raw.stages.1.augment"),
        ("teacher.stages=[{}, {augment: {upper_case: 0.1}}]", "teacher.stages.1.augment"),
        ("distill.augment={upper_case: 0.1}", "distill.augment"),
        ("score.variants={loud: [upper_case]}", "score.variants.loud"),
    ],
)
def test_text_must_be_one_that_can_change(problem: Callable[..., str], setting: str, path: str) -> None:
    lowercase = "prepare.text={lowercase: true}"
    assert problem(setting, lowercase) == f"'{path}': 'upper_case' has no effect with 'prepare.text.lowercase: true'"
    folding = "prepare.tokenizer.normalization_rule=nmt_nfkc_cf"
    message = f"'{path}': 'upper_case' has no effect with 'prepare.tokenizer.normalization_rule: nmt_nfkc_cf'"
    assert problem(setting, folding) == message
    message = f"'{path}': text of 'prepare.tokenizer.type: words' cannot be tokenised again"
    assert problem(setting, "prepare.tokenizer={type: words}") == message


@pytest.mark.parametrize(
    ("setting", "path", "name"),
    [
        ("teacher.augment={placeholders: 0.1}", "teacher.augment", "placeholders"),
        ("teacher.stages=[{}, {augment: {tags: 0.1}}]", "teacher.stages.1.augment", "tags"),
        ("students.raw.augment=default", "students.raw.augment", "tags"),
    ],
)
def test_moses_divides_markup(problem: Callable[..., str], setting: str, path: str, name: str) -> None:
    message = f"'{path}': '{name}' cannot be combined with 'prepare.text.moses: true'"
    assert problem(setting, "prepare.text={moses: true}").startswith(message)


def test_variants_have_names_of_their_own(problem: Callable[..., str]) -> None:
    both = (
        "prepare.test={a: {source: {path: x}, target: {path: x}}, a.Loud: {source: {path: x}, target: {path: x}}}",
        "score.variants={loud: [upper_case]}",
    )
    assert problem(*both) == "'score.variants.loud': 'a.loud' is the name of another test set, or of a variant"
    assert problem("prepare.test={}", both[1]) == "'score.variants.loud' has no effect: there is no test set"
