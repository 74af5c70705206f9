"""Settings of selective distillation, and where they are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdmt.config import Pipeline

NAT = "nat: {family: ctc}"


def test_a_selective_student_reads_both_training_sets(load: Callable[..., Pipeline]) -> None:
    given = f"students.raw={{{NAT}, data: distilled, selective: {{evaluator: x, distilled: [[0, 1.0], [90, 0.5]]}}}}"
    student = load(given).students["raw"]
    assert student.data_names == ("distilled", "raw")
    assert student.selective is not None
    assert student.selective.distilled == [(0, 1.0), (90, 0.5)]


def test_the_student_itself_is_the_evaluator_of_a_later_stage(load: Callable[..., Pipeline]) -> None:
    stages = "stages: [{}, {selective: {distilled: [[0, 0.5]]}}]"
    pipeline = load(f"students.raw={{{NAT}, data: distilled, {stages}}}")
    first, second = (stage for _, stage in pipeline.trainings_of("raw"))
    assert first.data_names == ("distilled",)
    assert second.data_names == ("distilled", "raw")
    assert load(f"students.raw={{{NAT}, selective: {{distilled: [[0, 0.5]]}}, train: {{init_from: x}}}}")


def test_references_of_noised_sources_are_refused(problem: Callable[..., str]) -> None:
    selective = "selective: {evaluator: x, distilled: [[0, 0.5]]}"
    message = "selective' cannot be combined with 'distill.augment'"
    given = problem(f"students.raw={{{NAT}, data: distilled, {selective}}}", "distill.augment={typos: 0.1}")
    assert given.startswith(f"'students.raw.{message}")
    stages = f"students.raw={{{NAT}, data: distilled, stages: [{{}}, {{{selective}}}]}}"
    assert problem(stages, "distill.augment={typos: 0.1}").startswith(f"'students.raw.stages.1.{message}")


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (
            "selective: {evaluator: x, distilled: [[0, 0.5]]}",
            "'selective' is for non-autoregressive students: set 'nat'",
        ),
        (f"{NAT}, data: raw, selective: {{evaluator: x, distilled: [[0, 0.5]]}}", "it needs 'data: distilled'"),
        (f"{NAT}, data: mixed, selective: {{evaluator: x, distilled: [[0, 0.5]]}}", "it needs 'data: distilled'"),
        (f"{NAT}, selective: {{evaluator: x}}", "students.raw.selective.distilled: missing"),
        (f"{NAT}, selective: {{evaluator: x, distilled: [[0, 1.0]]}}", "'distilled' is always 1: no reference is ever"),
        (f"{NAT}, selective: {{evaluator: x, distilled: [[9, 1.0], [0, 0.5]]}}", "the updates must increase"),
        (
            f"{NAT}, selective: {{distilled: [[0, 0.5]]}}",
            "'students.raw.selective.evaluator': a model that was trained",
        ),
        (
            f"{NAT}, stages: [{{selective: {{distilled: [[0, 0.5]]}}}}]",
            "'students.raw.stages.0.selective.evaluator': a model that was trained",
        ),
    ],
)
def test_selection_without_an_effect_is_refused(problem: Callable[..., str], student: str, message: str) -> None:
    assert message in problem(f"students.raw={{{student}}}")
