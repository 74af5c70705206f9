"""Tests of recipes: their settings are valid, are merged below those of a file, and appear in records and on a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kdmt.choices import RecipeName, names
from kdmt.config import Pipeline, Student, Teacher, Train, flatten_settings, resolved
from kdmt.config import recipes as module
from kdmt.config.recipes import recipes, recipes_markdown
from kdmt.config.section import Section

ROOT = Path(__file__).parents[3]
Load = Callable[..., Pipeline]


def leaves(mapping: dict, path: str = "") -> dict[str, object]:
    found = {}
    for key, value in mapping.items():
        found |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


def with_family(name: str) -> dict[str, object]:
    return {"recipe": name, "nat": {"family": "ctc"}} if name == "nat_small" else {"recipe": name}


def test_names_are_those_of_the_file_in_its_order() -> None:
    assert tuple(recipes()) == names(RecipeName)


@pytest.mark.parametrize("name", names(RecipeName))
def test_every_value_of_a_recipe_becomes_a_value_of_the_student(name: str) -> None:
    student = json.loads(json.dumps(resolved(Student.model_validate(with_family(name)))))
    values = leaves(student)
    given = leaves(dict(recipes()[name]))
    assert len(given) > 10
    assert {path: values[path] for path in given} == given


@pytest.mark.parametrize("name", names(RecipeName))
def test_values_of_a_recipe_without_effect_are_refused_as_in_a_file(name: str) -> None:
    sections: list[Section] = [Student.model_validate(with_family(name))]
    if "nat" not in recipes()[name]:
        sections.append(Teacher.model_validate({"recipe": name}))
    for section in sections:
        again = resolved(section) | {"recipe": None}
        assert type(section).model_validate_json(json.dumps(again)) == section.model_copy(update={"recipe": None})


def test_published_numbers() -> None:
    """Check some values against the table of the papers, so that a slip of the pen in the file is noticed."""
    values = {name: leaves(dict(recipe)) for name, recipe in recipes().items()}
    tokens = {name: each["train.max_tokens"] * each["train.update_freq"] for name, each in values.items()}
    assert tokens == {
        "transformer_multi30k": 2 * 4096,
        "transformer_iwslt_de_en": 4096,
        "transformer_wmt_en_de_big": 8 * 3584,
        "student_production": 2 * 16_384,
        "nat_small": 4096,
        "nat_base": 64_000,
        "ctc_glat": 2**16,
        "dslp_ctc": 2**17,
        "cmlm": 8192,
        "da_transformer": 2**16,
    }
    optimiser = {
        name: (each["train.lr"], each["train.warmup_updates"], each["train.adam_betas"][1], each["train.clip_norm"])
        for name, each in values.items()
        if name not in ("transformer_multi30k", "nat_small")
    }
    assert optimiser == {
        "transformer_iwslt_de_en": (5e-4, 4000, 0.98, 0.0),
        "transformer_wmt_en_de_big": (5e-4, 4000, 0.98, 0.0),
        "student_production": (3e-4, 16_000, 0.98, 0.0),
        "nat_base": (5e-4, 10_000, 0.98, 0.0),
        "ctc_glat": (5e-4, 4000, 0.999, 2.0),
        "dslp_ctc": (5e-4, 10_000, 0.98, 2.0),
        "cmlm": (5e-4, 10_000, 0.98, 0.0),
        "da_transformer": (5e-4, 10_000, 0.999, 0.1),
    }
    assert {name for name, each in values.items() if each.get("model.init") == "bert"} == {
        *("nat_small", "nat_base", "ctc_glat", "dslp_ctc", "cmlm", "da_transformer")
    }
    assert all(each["train.weight_decay"] == 0.01 for each in values.values() if each.get("model.init") == "bert")
    from_unk = {name for name, each in values.items() if each.get("nat.decoder_input") == "unk"}
    assert from_unk == {"nat_base", "ctc_glat", "dslp_ctc"}  # fairseq copies sources only with --src-embedding-copy
    assert values["da_transformer"].get("nat.glancing_keep_path", False) is False  # --no-force-emit


def test_settings_of_the_file_take_precedence_field_by_field(load: Load) -> None:
    base = ["teacher={recipe: transformer_multi30k}", "students.raw={data: raw, recipe: ctc_glat}"]
    pipeline = load(
        *base,
        "teacher.train.lr=0.25",
        "teacher.model={dropout: null}",
        "students.raw.nat={upsample: 3, glancing: null, glancing_draw: exact, glancing_reveal: state, "
        "glancing_same_dropout: false}",
        "students.raw.train.adam_betas=[0.5, 0.6]",
    )
    assert pipeline.teacher.train.lr == 0.25
    assert (pipeline.teacher.train.warmup_updates, pipeline.teacher.train.update_freq) == (2000, 2)
    assert pipeline.teacher.model.overrides() == {"share_all_embeddings": True}
    student = pipeline.students["raw"]
    assert student.nat is not None
    assert (student.nat.family, student.nat.upsample, student.nat.glancing) == ("ctc", 3, None)
    assert student.nat.decoder_input == "unk"
    assert (student.train.adam_betas, student.train.adam_eps) == ((0.5, 0.6), 1e-6)


def test_recipe_can_be_set_on_the_command_line_and_in_an_anchor(load: Load) -> None:
    assert load("teacher={}", "teacher.recipe=transformer_wmt_en_de_big").teacher.model.arch == "transformer_big"
    students = load("students={a: {data: raw}, b: {data: raw, train: {lr: 0.5}}}", "students.b.recipe=cmlm").students
    assert students["a"].train == Train()
    assert (students["b"].train.lr, students["b"].train.warmup_updates) == (0.5, 10_000)
    text = """
name: tiny
source_lang: en
target_lang: de
prepare:
  train: [{source: {path: a}, target: {path: b}}]
  valid: {source: {path: a}, target: {path: b}}
students:
  one: &one
    recipe: cmlm
    train: {lr: 0.001}
  two:
    <<: *one
    data: raw
"""
    students = load(text=text).students
    assert students["two"].train == students["one"].train
    assert (students["one"].nat is not None, students["one"].train.lr) == (True, 0.001)


def test_either_name_of_the_number_of_checkpoints_takes_precedence(load: Load) -> None:
    teacher = "teacher={recipe: transformer_multi30k}"
    assert load(teacher).teacher.train.average_checkpoints == 10
    assert load(teacher, "teacher.train.average={n: 3}").teacher.train.average_checkpoints == 3
    assert load(teacher, "teacher.train.average_checkpoints=4").teacher.train.average_checkpoints == 4
    changed = load(teacher, "teacher.train.average=best").teacher.train
    assert (changed.average.of, changed.average_checkpoints) == ("best", 10)


def test_recipe_of_a_student_is_that_of_its_stages(load: Load, problem: Callable[..., str]) -> None:
    stages = "stages: [{data: raw}, {data: distilled, max_updates: 50, average: {n: 2}, clip_norm: 0.5}]"
    student = load(f"students.raw={{recipe: ctc_glat, train: {{max_updates: 200}}, {stages}}}").students["raw"]
    first, second = student.in_stages()
    assert [stage.train.max_updates for stage in (first, second)] == [200, 50]
    assert [stage.train.average_checkpoints for stage in (first, second)] == [5, 2]
    assert [stage.train.clip_norm for stage in (first, second)] == [2.0, 0.5]
    assert [stage.train.warmup_updates for stage in (first, second)] == [4000, 4000]
    assert first.nat == second.nat == student.nat
    message = problem("students.raw={recipe: ctc_glat, stages: [{data: raw}, {recipe: cmlm}]}")
    assert message.startswith("students.raw: 'stages.1.recipe': the recipe is that of the student")


def test_sections_in_python_are_merged_like_mappings() -> None:
    teacher = Teacher(recipe="transformer_multi30k", train=Train(lr=0.25))
    assert (teacher.train.lr, teacher.train.warmup_updates) == (0.25, 2000)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "teacher.recipe=transformer_multi",
            "teacher.recipe: should be 'transformer_multi30k', 'transformer_iwslt_de_en', 'transformer_wmt_en_de_big', "
            "'student_production', 'nat_small', 'nat_base', 'ctc_glat', 'dslp_ctc', 'cmlm' or 'da_transformer' "
            "(it is 'transformer_multi')",
        ),
        ("students.raw.recipe=[1]", "students.raw.recipe: should be "),
        (
            "teacher.recipe=cmlm",
            "teacher: 'recipe: cmlm' is for students: it has a non-autoregressive decoder ('nat')",
        ),
        ("students.raw={recipe: nat_small}", "students.raw.nat.family: missing"),
    ],
)
def test_wrong_recipes_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


def test_records_hold_the_values_and_not_the_name(load: Load) -> None:
    pipeline = load("teacher={recipe: transformer_multi30k}")
    found = flatten_settings(pipeline.teacher, "result") | flatten_settings(pipeline.teacher, "extend")
    assert found["train.lr"].value == 0.005
    assert found["train.max_updates"].value == 8000
    assert "recipe" not in found
    written = resolved(pipeline)["teacher"]
    assert written["recipe"] == "transformer_multi30k"
    assert written["train"]["warmup_updates"] == 2000


def test_saved_configuration_keeps_its_values_when_a_recipe_changes(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load("teacher={recipe: transformer_multi30k}").teacher
    saved = resolved(before)
    changed = json.loads(json.dumps(recipes()))
    changed["transformer_multi30k"]["train"]["lr"] = 0.5
    monkeypatch.setattr(module, "recipes", lambda: changed)
    assert load("teacher={recipe: transformer_multi30k}").teacher.train.lr == 0.5
    assert Teacher.model_validate_json(json.dumps(saved)) == before


def test_recipes_are_not_changed_by_a_pipeline(load: Load) -> None:
    before = json.dumps(recipes())
    load("teacher={recipe: transformer_multi30k}", "teacher.train.lr=0.25", "teacher.model.dropout=0.9")
    assert json.dumps(recipes()) == before


def test_page_lists_the_recipes_with_the_values_of_the_file() -> None:
    page = (ROOT / "docs" / "reference" / "recipes.md").read_text(encoding="utf-8")
    introduction, _, found = page.partition("\n## ")
    assert f"## {found}" == recipes_markdown()
    assert "recipe: transformer_multi30k" in introduction
    for name, recipe in recipes().items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        block = section.partition("```yaml\n")[2].partition("```")[0]
        assert yaml.safe_load(block) == recipe
        assert len(section.partition("```yaml")[0].split()) > 10  # the source
