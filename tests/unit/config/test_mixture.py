"""Mixtures of training sets: which lists are allowed, and the sets and shares that they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdmt.config import Pipeline
from kdmt.config.mixture import names_of, shares_of
from kdmt.files import write_json
from kdmt.flow.manifest import Plan, check_status, make_plan

MIXED = "[{set: distilled, share: 0.7}, {set: mbr, share: 0.2}, {set: raw, share: 0.1}]"
NBEST = "distill.decode={beam: 4, nbest: 4}"


def test_a_list_names_the_sets_and_their_shares_in_order(load: Callable[..., Pipeline]) -> None:
    student = load(f"students.raw.data={MIXED}", NBEST).students["raw"]
    assert student.data_names == names_of(student.data) == ("distilled", "mbr", "raw")
    assert student.shares == shares_of(student.data) == (0.7, 0.2, 0.1)


def test_a_name_has_no_shares(load: Callable[..., Pipeline]) -> None:
    student = load("students.raw.data=mixed").students["raw"]
    assert (student.data_names, student.shares) == (("raw", "distilled"), None)


def test_stages_of_a_student_have_data_of_their_own(load: Callable[..., Pipeline]) -> None:
    pipeline = load(f"students.raw.data={MIXED}", NBEST, "students.raw.stages=[{}, {data: raw}]")
    assert [stage.data_names for _, stage in pipeline.trainings_of("raw")] == [("distilled", "mbr", "raw"), ("raw",)]
    other = "[{set: raw, share: 0.5}, {set: sampled, share: 0.5}]"
    pipeline = load("students.raw.data=raw", f"students.raw.stages=[{{}}, {{data: {other}}}]")
    assert [stage.shares for _, stage in pipeline.trainings_of("raw")] == [None, (0.5, 0.5)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[{set: raw, share: 0.5}, {set: distilled, share: 0.6}]", "the shares add up to 1.1, not to 1"),
        ("[{set: raw, share: 0.5}]", "a list mixes at least two training sets"),
        ("[]", "a list mixes at least two training sets"),
        ("[{set: raw, share: 0.5}, {set: raw, share: 0.5}]", "'1.set': raw is named twice"),
        ("[{set: mixed, share: 0.5}, {set: mbr, share: 0.5}]", "'0.set': mixed is not a set of its own: name raw and"),
        ("[{set: raw, share: 0}, {set: distilled, share: 1.0}]", "students.raw.data.0.share: should be greater than 0"),
        (
            "[{set: raw, share: 0.5}, {set: nosuch, share: 0.5}]",
            "students.raw.data.1.set: should be 'raw', 'distilled'",
        ),
        ("[{set: raw}, {set: distilled, share: 0.5}]", "students.raw.data.0.share: missing"),
        ("[{set: raw, share: 0.5}, {set: mbr, share: 0.5}]", "'students.raw.data: mbr' is made of the n-best"),
        ("[{set: raw, share: 0.5}, {set: scored, share: 0.5}]", "'students.raw.data: scored'"),
        ("[raw, distilled]", "students.raw.data.0: expected a mapping of settings"),
        ("nosuch", "students.raw.data: should be 'raw', 'distilled'"),
    ],
)
def test_other_lists_are_refused(problem: Callable[..., str], data: str, message: str) -> None:
    assert message in problem(f"students.raw.data={data}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("train: {packing: true}", "'train.packing' cannot have 'data: nbest'"),
        ("nat: {family: dag}", "'nat.family: dag' cannot have 'data: nbest'"),
    ],
)
def test_a_set_with_weights_is_refused_where_its_name_is(
    problem: Callable[..., str], settings: str, message: str
) -> None:
    data = "[{set: raw, share: 0.5}, {set: nbest, share: 0.5}]"
    assert message in problem(f"students.raw={{data: {data}, {settings}}}", NBEST)


def test_a_run_is_up_to_date_with_the_same_mixture_alone(load: Callable[..., Pipeline], tmp_path: Path) -> None:
    def plan_of(data: str) -> Plan:
        return make_plan({"students.raw": load(f"students.raw.data={data}", NBEST).students["raw"]}, {}, {})

    write_json(tmp_path / "plan.json", plan_of(MIXED).as_dict())
    states = {
        data: check_status(tmp_path, plan_of(data)).state
        for data in (MIXED, MIXED.replace("0.7", "0.6").replace("0.1", "0.2"), MIXED.replace("raw", "sampled"), "raw")
    }
    assert list(states.values()) == ["unfinished", "stale", "stale", "stale"]
