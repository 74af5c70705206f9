"""Settings of augmentation: recipes, shares and what is refused, with the YAML path."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from kdmt.config import Pipeline
from kdmt.config.augment import DEFAULT_SHARES, is_recipe, recipe_notes


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
            "distill={augment: {merged: 0.1}, pool: {systems: {other: other.tsv}}}",
            "distill: 'pool.systems' cannot be combined with 'augment'",
        ),
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
    ],
)
def test_moses_divides_markup(problem: Callable[..., str], setting: str, path: str, name: str) -> None:
    message = f"'{path}': '{name}' cannot be combined with 'prepare.text.moses: true'"
    assert problem(setting, "prepare.text={moses: true}").startswith(message)


def noted(notes: list[str]) -> set[str]:
    """Return the changes that messages name."""
    matches = [re.match(r"'augment: default' is used without '(\w+)', which (cannot|has no effect)", n) for n in notes]
    return {match[1] for match in matches if match}


RECIPES = (
    "teacher.augment=default",
    "students.raw.augment={merged: 0.1, typos: 0.2, typo_rate: 0.3}",
    "students.raw.stages=[{}, {augment: default}]",
    "distill.augment=default",
)


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("prepare.text={moses: true}", {"tags"}),
        ("prepare.text={lowercase: true}", {"upper_case", "title_case"}),
        ("prepare.tokenizer.normalization_rule=nmt_nfkc_cf", {"upper_case", "title_case"}),
        ("prepare.text={moses: true, lowercase: true}", {"tags", "upper_case", "title_case"}),
        ("prepare.text={moses: false}", set()),
    ],
)
def test_the_recipe_leaves_out_what_the_text_cannot_have(
    load: Callable[..., Pipeline], text: str, left_out: set[str]
) -> None:
    config = load(*RECIPES, text)
    usable = {name: share for name, share in DEFAULT_SHARES.items() if name not in left_out}
    assert set(config.unusable_modifiers) >= left_out
    for augment in (config.teacher.augment, config.trainings_of("raw")[1][1].augment):
        assert augment is not None
        assert {name: share for name, share in augment.shares().items() if share} == usable
        assert noted(recipe_notes(augment, config.unusable_modifiers)) == left_out
    noise = config.distill.augment
    assert noise is not None
    assert set(noise.shares()) - {name for name, share in noise.shares().items() if share} == {
        "merged",
        *(left_out - {"tags"}),
    }
    assert noted(recipe_notes(noise, config.unusable_modifiers)) == left_out - {"tags"}


def test_shares_by_hand_are_not_those_of_the_recipe(load: Callable[..., Pipeline]) -> None:
    config = load("teacher.augment={typos: 0.05, noise: 0.0005, no_end_punctuation: 0.3}", "prepare.text={moses: true}")
    assert config.teacher.augment is not None
    assert not is_recipe(config.teacher.augment, config.unusable_modifiers)
    assert recipe_notes(config.teacher.augment, config.unusable_modifiers) == []


def test_a_pipeline_with_a_recipe_has_the_same_messages(problem: Callable[..., str]) -> None:
    """What is wrong elsewhere is reported as without the recipe."""
    for wrong in ("prepare.text.moses=7", "prepare.tokenizer={type: words}", "prepare.train=[]"):
        assert problem(wrong, "teacher.augment=default") != ""
    assert problem("prepare.text.moses=7", "teacher.augment=default") == problem("prepare.text.moses=7")


def test_variants_have_names_of_their_own(problem: Callable[..., str]) -> None:
    both = (
        "prepare.test={a: {source: {path: x}, target: {path: x}}, a.Loud: {source: {path: x}, target: {path: x}}}",
        "score.variants={loud: [upper_case]}",
    )
    assert problem(*both) == "'score.variants.loud': 'a.loud' is the name of another test set, or of a variant"
    assert problem("prepare.test={}", both[1]) == "'score.variants.loud' has no effect: there is no test set"
