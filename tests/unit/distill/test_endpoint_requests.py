"""Tests of the requests that a block needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdmt.config import EndpointTeacher
from kdmt.distill.answer_log import ANSWERS, AnswerLog, Reply
from kdmt.distill.blocks import Block
from kdmt.distill.earlier_answers import EarlierAnswers, write_index
from kdmt.distill.endpoint_requests import BlockAnswers, Job, Requests, distinct, in_order
from kdmt.distill.endpoint_teacher import gather
from kdmt.distill.llm_answers import Answer
from kdmt.distill.llm_prompt import Prompt

SOURCES = ["a", "b", "c", "d", "e"]


def requests(prompt: str = "p {}", **settings: Any) -> Requests:
    values = {"endpoint": "http://h/v1", "model": "m", "prompt": "p", **settings}
    return Requests(EndpointTeacher.model_validate(values), Prompt(tuple(prompt.split("{}"))))


def reply(form: Requests, *sources: str, answers: tuple[str, ...] = ("x",), error: str | None = None) -> Reply:
    batch = form.settings.batch if len(sources) > 1 else None
    found = () if error is not None else tuple(map(Answer, answers))
    return Reply(sources, batch, form.sha256, found, error=error)


def test_each_sentence_is_one_request() -> None:
    form = requests()
    answers = BlockAnswers(form, SOURCES)
    assert answers.jobs() == [Job((source,)) for source in SOURCES]
    assert answers.add(reply(form, "b")) == 1
    assert answers.add(reply(form, "d", error="no")) == 1
    assert answers.add(reply(requests(model="other"), "a")) == 0
    assert answers.add(reply(form, "elsewhere")) == 0 or "elsewhere" not in answers.answers
    assert answers.jobs() == [Job(("a",)), Job(("c",)), Job(("e",))]
    assert answers.failed == {"d"}


def test_candidates_add_up() -> None:
    form = requests(n=3, temperature=1.0, seed=5)
    answers = BlockAnswers(form, ["a"])
    assert answers.add(reply(form, "a", answers=("x", "y"))) == 0
    (job,) = answers.jobs()
    assert answers.follow_ups(job) == [job]
    request = form.of(job, 2)
    assert (request.n, request.seed, request.prompt) == (1, 7, "p a")
    assert answers.add(reply(form, "a", answers=("z",))) == 1
    assert answers.jobs() == []
    assert [answer.text for answer in answers.answers["a"]] == ["x", "y", "z"]


def test_batches_stay_the_same_after_a_stop() -> None:
    form = requests(batch="sentences", batch_size=2)
    answers = BlockAnswers(form, SOURCES)
    batches = [Job(("a", "b"), "sentences"), Job(("c", "d"), "sentences")]
    assert answers.jobs() == [*batches, Job(("e",))]  # no batch of one
    assert form.of(batches[0]).prompt == "p 1. a\n2. b"
    assert answers.add(reply(form, "c", "d", answers=("1. x\n2. y",))) == 2
    assert answers.jobs() == [batches[0], Job(("e",))]
    assert answers.add(reply(form, "a", "b", answers=("nothing",))) == 0
    assert answers.jobs() == [Job(("a",)), Job(("b",)), Job(("e",))]  # the batch is not tried again
    assert answers.answers["d"] == [Answer("y")]


def test_answers_of_a_batch_with_candidates_count_for_each_sentence() -> None:
    form = requests(batch="paragraph", batch_size=2, n=2, temperature=1.0)
    answers = BlockAnswers(form, ["a", "b"])
    assert answers.add(reply(form, "a", "b", answers=("x\ny", "z"))) == 0
    assert answers.jobs() == [Job(("a",)), Job(("b",))]
    assert form.of(Job(("a",)), 1).n == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "n"},
        {"prompt": "q {}"},
        {"n": 2, "temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 1.0, "min_p": 0.1},
        {"temperature": 1.0, "seed": 1},
        {"output_ratio": 3.0},
        {"request_fields": {"top_k": 1}},
    ],
)
def test_the_hash_depends_on_what_changes_an_answer(settings: dict[str, Any]) -> None:
    assert requests(**settings).sha256 != requests().sha256


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint": "https://other:1/v1"},
        {"concurrency": 2, "retries": 0, "timeout": 1.0, "max_wait": 1.0, "budget_tokens": 5},
        {"batch": "sentences", "batch_size": 3},
        {"api_key_variable": "KEY"},
    ],
)
def test_the_hash_does_not_depend_on_how_requests_are_sent(settings: dict[str, Any]) -> None:
    assert requests(**settings).sha256 == requests().sha256


def test_replies_are_ordered_by_their_sentences() -> None:
    form = requests(batch="sentences", batch_size=2)
    replies = [reply(form, "d"), reply(form, "c", "d"), reply(form, "a", answers=("2",)), reply(form, "zz")]
    replies += [reply(form, "a", answers=("1",)), reply(form, "c")]
    ordered = list(in_order(replies, SOURCES))
    assert ordered == [replies[2], replies[4], replies[1], replies[5], replies[0]]
    assert distinct(["b", "a", "b"]) == ["b", "a"]


def test_answers_of_earlier_states_that_were_copied_before_a_kill_count_once(tmp_path: Path) -> None:
    form = requests(n=2, temperature=1.0)
    first, block = reply(form, "a"), Block(0, 0, 1)
    before, now = tmp_path / "before", tmp_path / "now"
    for state in (before, now):  # with one of two candidates
        (state / ANSWERS).mkdir(parents=True)
        log = AnswerLog(state / ANSWERS, block)
        log.append(first)
        log.close()
    write_index(now / ANSWERS, [before], form.sha256)
    log, answers = AnswerLog(now / ANSWERS, block), BlockAnswers(form, ["a"])
    assert gather(answers, log, EarlierAnswers(now / ANSWERS, form.sha256)) == 0
    assert log.replies == [first]
    assert answers.answers == {"a": [Answer("x")]}
    assert answers.jobs() == [Job(("a",))]
