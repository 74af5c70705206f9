"""Tests of a training set translated by a language model behind an endpoint, through the command line."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_input import unharmed
from chat_server import KEY, MODEL, PROMPT, ChatServer, Trouble, choices, parse_sources
from tiny_pipeline import (
    WORDS,
    Finished,
    kdmt,
    read_lines,
    settings,
    to_yaml,
    working_in,
    write_pipeline,
)

from kdmt.config import EndpointTeacher
from kdmt.distill.answer_log import AnswerLog, Reply
from kdmt.distill.blocks import Block
from kdmt.distill.endpoint_requests import Requests, in_order
from kdmt.distill.endpoint_teacher import RequestingTeacher
from kdmt.distill.llm_answers import Answer, LanguageCheck
from kdmt.distill.llm_prompt import Prompt
from kdmt.distill.text_ids import encode_source
from kdmt.languages import Direction
from kdmt.workers.tasks import WorkerSpec

TINY = Path("runs/tiny")
MADE = TINY / "distill"


def translated(source: str, number: int = 0, seed: int | None = None) -> str:
    del seed
    words = [WORDS[word] for word in source.split()]
    return " ".join(words[number:] + words[:number])


def document(url: str, teacher: dict[str, Any] | None = None, **distill: Any) -> dict[str, Any]:
    made = settings()
    own = {"endpoint": url, "model": MODEL, "prompt": "prompt.txt", "max_wait": 0.01, "concurrency": 4}
    made["distill"] = {"teachers": [own | (teacher or {})], "block_size": 30, "executor": "inline", **distill}
    return made


def distill(url: str, *arguments: str, teacher: dict[str, Any] | None = None, **changes: Any) -> Finished:
    Path("tiny.yaml").write_text(to_yaml(document(url, teacher, **changes)), encoding="utf-8")
    return kdmt("distill", "tiny.yaml", *arguments)


@pytest.fixture(scope="module")
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endpoint")
    with working_in(folder):
        write_pipeline(folder, document("http://127.0.0.1:9/v1"))
        Path("prompt.txt").write_text(PROMPT, encoding="utf-8")
        assert kdmt("prepare", "tiny.yaml").code == 0
    return folder


@pytest.fixture
def prepared(_prepared: Path, tmp_path: Path) -> Iterator[Path]:
    with working_in(shutil.copytree(_prepared, tmp_path / "copy")) as folder:
        yield folder


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(translated).serving() as serving:
        yield serving


def manifest() -> dict[str, Any]:
    return json.loads((MADE / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("prepared")
def test_every_sentence_is_translated_once(server: ChatServer) -> None:
    result = distill(server.url)
    assert result.code == 0, result.err
    sources = read_lines(TINY / "prepare/train.en")
    assert read_lines(MADE / "distilled.en") == sources
    assert read_lines(MADE / "distilled.de") == [translated(source) for source in sources]
    assert server.paid == dict.fromkeys(sources, 1)
    assert 1 < server.most_at_once <= 4
    made = manifest()
    assert made["facts"]["blocks"][0]["model of the server"] == [f"{MODEL}-0125"]
    assert made["facts"]["blocks"][0]["system_fingerprint"] == ["fp_1"]
    assert made["facts"]["blocks"][0]["reproducible"] is False
    assert "prompt.txt" in made["inputs"]
    again = distill(server.url)
    assert again.code == 0
    assert "nothing to do" in again.err
    with unharmed():
        verified = distill(server.url, "--verify")
    assert verified.code == 0, verified.err
    assert "made again from the stored answers" in verified.err
    assert len(server.requests) == len(sources)


def rejected() -> list[tuple[str, str]]:
    """Return the source and the failure of each line in `rejected`."""
    sources = read_lines(TINY / "prepare/train.en")
    rows = [line.split("\t") for line in read_lines(MADE / "rejected") if line]
    return [(sources[int(index)], failure) for index, failure, _ in rows]


@pytest.mark.usefixtures("prepared")
def test_faults_are_repeated_and_no_sentence_is_paid_for_twice(server: ChatServer) -> None:
    faults = [
        Trouble(status=429, headers={"Retry-After": "0"}),
        Trouble(status=429),
        Trouble(status=500),
        Trouble(hang=2.5),
        Trouble(cut=40),
        Trouble(cut=-1),
        Trouble(body=b'{"choices": [{"mess'),
        Trouble(body=b"[]"),
        Trouble(change=choices()),
        Trouble(change=choices("")),
        Trouble(change=lambda answer: answer | {"choices": None}),
    ]
    left = dict(zip(read_lines(TINY / "prepare/train.en"), faults + 3 * faults[:3] + 3 * faults[4:], strict=False))
    server.trouble = lambda sources: left.pop(sources[0], Trouble())
    result = distill(server.url, teacher={"timeout": 2.0})
    assert result.code == 0, result.err
    sources = read_lines(TINY / "prepare/train.en")
    assert not left
    assert read_lines(MADE / "distilled.de") == [translated(source) for source in sources]
    assert server.paid == dict.fromkeys(sources, 1)
    assert len(server.requests) == len(sources) + 41


@pytest.mark.usefixtures("prepared")
def test_a_sentence_that_always_fails_is_counted(server: ChatServer) -> None:
    sources = read_lines(TINY / "prepare/train.en")
    bad = {sources[3]: Trouble(status=500), sources[40]: Trouble(status=400), sources[79]: Trouble(body=b"no")}
    server.trouble = lambda asked: bad.get(asked[0], Trouble())
    result = distill(server.url, teacher={"retries": 2}, failures={"no_answer": "drop"})
    assert result.code == 0, result.err
    assert rejected() == [(sources[place], "no_answer") for place in (3, 40, 79)]
    assert read_lines(MADE / "distilled.en") == [source for source in sources if source not in bad]
    assert manifest()["facts"]["answers"] == {
        "requests": 80,
        "prompt_tokens": 770,
        "output_tokens": 385,
        "without_answer": 3,
        "no_answer": 3,
    }
    tried = [parse_sources(body["messages"][0]["content"])[0][0] for body in server.requests]
    assert [tried.count(source) for source in bad] == [3, 1, 3]  # a bad request is not repeated


@pytest.mark.usefixtures("prepared")
def test_changed_corpus_and_failures_use_the_answers_again(server: ChatServer) -> None:
    assert distill(server.url).code == 0
    assert distill(server.url, failures={"refusal": "drop"}).code == 0
    assert len(server.requests) == 80
    for side in ("en", "de"):  # all sentences are in other blocks
        path = Path(f"text/train.{side}")
        path.write_text({"en": "ba ba be be\n", "de": "ok ok uk uk\n"}[side] + path.read_text("utf-8"), "utf-8")
    assert kdmt("prepare", "tiny.yaml").code == 0
    result = distill(server.url)
    assert result.code == 0, result.err
    assert server.paid == dict.fromkeys(read_lines(TINY / "prepare/train.en"), 1)
    assert read_lines(MADE / "distilled.de")[0] == "ok ok uk uk"
    assert distill(server.url, "--verify").code == 0
    Path("prompt.txt").write_text(PROMPT.replace("Translate", "Please translate"), encoding="utf-8")
    assert distill(server.url).code == 0
    assert set(server.paid.values()) == {2}  # another prompt is another question


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("batch", ["sentences", "paragraph"])
def test_sentences_of_a_batch_that_cannot_be_assigned_are_requested_alone(server: ChatServer, batch: str) -> None:
    sources = read_lines(TINY / "prepare/train.en")

    def trouble(asked: tuple[str, ...]) -> Trouble:
        if len(asked) > 1 and sources[12] in asked:  # a line is missing
            lines = [f"{number}. {translated(source)}" for number, source in enumerate(asked[1:], 1)]
            return Trouble(change=choices("\n".join(lines)))
        return Trouble()

    server.trouble = trouble
    result = distill(server.url, teacher={"batch": batch, "batch_size": 10})
    assert result.code == 0, result.err
    assert read_lines(MADE / "distilled.de") == [translated(source) for source in sources]
    assert (
        sorted(len(parse_sources(body["messages"][0]["content"])[0]) for body in server.requests) == [1] * 10 + [10] * 8
    )
    assert server.paid == dict.fromkeys(sources, 1)


@pytest.mark.usefixtures("prepared")
def test_candidates_that_the_server_does_not_give_are_requested_again(server: ChatServer) -> None:
    server.most_candidates = 2
    server.translate = lambda source, number, seed: f"{translated(source)} {number} {seed}"
    teacher = {"n": 3, "temperature": 0.8, "min_p": 0.02, "top_p": 0.9, "seed": 7, "request_fields": {"top_k": 5}}
    assert distill(server.url, teacher=teacher).code == 0
    rows = [line.split("\t") for line in read_lines(MADE / "nbest")]
    assert [row[0] for row in rows] == [str(number) for number in range(80) for _ in range(3)]
    first = translated(read_lines(TINY / "prepare/train.en")[0])
    assert [row[4] for row in rows[:3]] == [f"{first} 0 7", f"{first} 1 7", f"{first} 0 9"]
    assert len(server.requests) == 160
    body = server.requests[0]
    assert (body["n"], body["temperature"], body["min_p"], body["top_p"], body["top_k"]) == (3, 0.8, 0.02, 0.9, 5)


def test_a_block_is_the_same_from_answers_as_they_arrived_and_as_they_are_stored(tmp_path: Path) -> None:
    settings = EndpointTeacher.model_validate(
        {"endpoint": "http://127.0.0.1:9/v1", "model": MODEL, "prompt": "p", "n": 2, "temperature": 0.5}
        | {"batch": "sentences"}
    )
    prompt = Prompt(("<text>\n", "\n</text>"))
    requests, block = Requests(settings, prompt), Block(0, 0, 2)
    alone = Reply(("ba be",), None, requests.sha256, (Answer("ok uk", "stop"),))
    both = Reply(("ba be", "bi da"), "sentences", requests.sha256, (Answer("1. uk ok\n2. ik olp", "stop"),))
    more = Reply(("bi da",), None, requests.sha256, (Answer("olp ik", "stop"),), before=1)
    sources = [encode_source(text)[:-1] for text in ("ba be", "bi da")]
    teacher = RequestingTeacher(LanguageCheck(Direction("en", "de")), requests, tmp_path, verifying=True)
    log = AnswerLog(tmp_path, block)
    for reply in (alone, both, more):  # the first one from before the other sentence was added to the corpus
        log.append(reply)
    log.close()
    spec = WorkerSpec(0, 1, "cpu", tmp_path / "log")
    arrived = teacher.open(spec, {})(sources, [0, 1], block, lambda _: None)
    log.seal(list(in_order(log.replies, ("ba be", "bi da"))))
    assert teacher.open(spec, {})(sources, [0, 1], block, lambda _: None) == arrived
    assert [len(own) for own in arrived] == [2, 2]


@pytest.mark.usefixtures("prepared")
def test_equal_candidates_of_a_server_that_gives_one_at_a_time_are_kept(server: ChatServer) -> None:
    server.most_candidates = 1  # each answer is the same text
    teacher = {"n": 2, "temperature": 0.8}
    assert distill(server.url, teacher=teacher).code == 0
    assert len(server.requests) == 160
    verified = distill(server.url, "--verify", teacher=teacher)
    assert verified.code == 0, verified.err
    assert distill(server.url, teacher=teacher, failures={"refusal": "drop"}, block_size=20).code == 0
    assert len(server.requests) == 160


@pytest.mark.usefixtures("prepared")
def test_failures_and_cleaned_answers_are_recorded(server: ChatServer) -> None:
    sources = read_lines(TINY / "prepare/train.en")
    long = next(source for source in sources[8:] if len(source) >= 15)
    said = {
        sources[0]: "I'm sorry, but I cannot translate this text.",
        sources[1]: "Sure! Let me know if you need more.",
        sources[2]: "ok\nuk",
        sources[3]: "\u201cok uk",
        long: f"{long} is: ok",
        sources[5]: "ok",
        sources[6]: f"Here is the translation: {translated(sources[6])}",
        sources[7]: f'"{translated(sources[7])}"',
    }
    server.translate = lambda source, *_: said.get(source, translated(source))
    cut = {sources[5]: Trouble(change=choices("ok", finish="length"))}
    server.trouble = lambda asked: cut.get(asked[0], Trouble())
    result = distill(server.url, failures={"max_ratio": 0.0})
    assert result.code == 0, result.err
    found = ["refusal", "chatter", "several_lines", "quotes", "truncated", "echoed"]
    assert rejected() == list(zip([*sources[:4], sources[5], long], found, strict=True))
    assert read_lines(MADE / "distilled.de") == read_lines(TINY / "prepare/train.de")
    marks = {name: count for name, count in manifest()["facts"]["answers"].items() if not name.endswith("tokens")}
    assert marks == dict.fromkeys((*found, "removed_prefix", "removed_quotes"), 1) | {
        "requests": 80,
        "without_answer": 0,
    }
    kept = gzip.decompress((MADE / "answers/000000.gz").read_bytes())
    assert b"Here is the translation: " in kept


@pytest.mark.usefixtures("prepared")
def test_budget_stops_before_it_is_exceeded_and_what_is_done_is_kept(server: ChatServer) -> None:
    result = distill(server.url, teacher={"budget_tokens": 1000})
    assert result.code == 2
    assert "distill.teachers.0.budget_tokens: the next request could exceed the budget of 1,000 tokens" in result.err
    done = len(server.requests)
    assert 20 < done < 80
    assert done * 15 <= 1000
    result = distill(server.url, teacher={"budget_tokens": 100_000})
    assert result.code == 0, result.err
    assert server.paid == dict.fromkeys(read_lines(TINY / "prepare/train.en"), 1)
    assert len(server.requests) == 80
    assert int((MADE / "answers/tokens").read_text()) == 80 * 15


@pytest.mark.usefixtures("prepared")
def test_budget_holds_for_all_states_of_a_training_set(server: ChatServer) -> None:
    assert distill(server.url, teacher={"budget_tokens": 600}).code == 2
    done = len(server.requests)
    Path("prompt.txt").write_text(PROMPT.replace("Translate", "Please translate"), encoding="utf-8")
    result = distill(server.url, teacher={"budget_tokens": 600})
    assert result.code == 2
    now = len(server.requests)  # a shorter sentence may have fitted
    assert done <= now <= 600 // 15  # the answers to the other prompt are paid for
    assert f"budget of 600 tokens, of which {15 * now} are used" in result.err
    assert int((MADE / "answers/tokens").read_text()) == 15 * (now - done)
    assert f"of which {15 * now} are used" in distill(server.url, "--dry-run").err
    assert distill(server.url, teacher={"budget_tokens": 15 * now + 300}).code == 2
    assert 0 < 15 * (len(server.requests) - now) <= 300


@pytest.mark.usefixtures("prepared")
def test_a_count_of_tokens_that_is_removed_is_that_of_the_stored_answers(server: ChatServer) -> None:
    assert distill(server.url, teacher={"budget_tokens": 600}).code == 2
    done = len(server.requests)
    (MADE / "answers/tokens").unlink()
    assert f"of which {15 * done} are used" in distill(server.url, "--dry-run").err
    result = distill(server.url, teacher={"budget_tokens": 600})
    now = len(server.requests)  # a shorter sentence may have fitted
    assert done <= now <= 600 // 15
    assert f"budget of 600 tokens, of which {15 * now} are used" in result.err


@pytest.mark.usefixtures("prepared")
def test_list_that_the_limit_cuts_off_is_requested_only_from_there(server: ChatServer) -> None:
    sources = read_lines(TINY / "prepare/train.en")

    def trouble(asked: tuple[str, ...]) -> Trouble:
        if len(asked) == 1:
            return Trouble()
        lines = [f"{number}. {translated(source)}" for number, source in enumerate(asked[:7], 1)]
        return Trouble(change=choices("\n".join([*lines, "8."]), finish="length"))

    server.trouble = trouble
    result = distill(server.url, teacher={"batch": "sentences", "batch_size": 10})
    assert result.code == 0, result.err
    assert read_lines(MADE / "distilled.de") == [translated(source) for source in sources]
    assert [len(parse_sources(body["messages"][0]["content"])[0]) for body in server.requests].count(10) == 8
    assert server.paid == dict.fromkeys([source for place, source in enumerate(sources) if place % 10 > 6], 1)


@pytest.mark.usefixtures("prepared")
def test_another_check_of_the_language_is_named(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdmt.distill.llm_answers.is_installed", lambda _: True)
    monkeypatch.setattr("kdmt.distill.llm_answers.LanguageCheck.find_others", lambda _, texts: [False] * len(texts))
    assert distill(server.url).code == 0
    monkeypatch.setattr("kdmt.distill.llm_answers.is_installed", lambda _: False)
    result = distill(server.url)
    assert result.code == 0, result.err
    changed = "the setting language check changed from 'py3langid' to 'script' (py3langid was installed or removed)"
    assert changed in result.err
    assert len(server.requests) == 80
    record = json.loads((MADE / "manifest.json").read_text(encoding="utf-8"))
    assert record["settings"].pop("language check") == "script"
    (MADE / "manifest.json").write_text(json.dumps(record), encoding="utf-8")  # as an earlier version wrote it
    assert "nothing to do" in distill(server.url).err


@pytest.mark.usefixtures("prepared")
def test_dry_run_prints_the_requests_and_sends_none(server: ChatServer) -> None:
    with unharmed():
        result = distill(server.url, "--dry-run")
    assert result.code == 0, result.err
    assert "80 requests for 80 sentences are needed" in result.err
    assert not server.requests
    assert distill(server.url, teacher={"budget_tokens": 1000}).code == 2
    done = len(server.requests)
    result = distill(server.url, "--dry-run", teacher={"batch": None})
    assert f"{80 - done} requests for {80 - done} sentences are needed" in result.err
    assert f"budget: no limit, of which {15 * done} are used" in result.err
    result = distill(server.url, "--dry-run", teacher={"batch": "sentences"})
    assert f"for {80 - done} sentences are needed" in result.err
    assert distill(server.url, "--dry-run", "--verify").code == 2
    assert len(server.requests) == done


@pytest.mark.usefixtures("prepared")
def test_dry_run_reads_noised_text_as_it_will_be_made_again(server: ChatServer) -> None:
    noise = {"augment": {"merged": 0.5}}
    assert distill(server.url, teacher={"budget_tokens": 1000}, **noise).code == 2
    expected = distill(server.url, "--dry-run", **noise).err
    for content in ("ba be\n" * 80, None):
        path = MADE / "noised/train.en"
        path.unlink() if content is None else path.write_text(content, encoding="utf-8")
        result = distill(server.url, "--dry-run", **noise)
        assert (result.code, result.err) == (0, expected)


@pytest.mark.usefixtures("prepared")
def test_bad_servers_are_named(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(teacher: dict[str, Any], url: str = "") -> str:
        result = distill(url or server.url, teacher={"retries": 1, **teacher})
        assert result.code == 2
        return result.err

    assert "http://127.0.0.1:9/v1/chat/completions: cannot be reached: " in refused({}, "http://127.0.0.1:9/v1")
    unknown = refused({"model": "other"})
    assert "the server answers 404 Not Found: The model `other` does not exist." in unknown
    assert "the server has no model 'other' (distill.teachers.0.model)" in unknown
    assert "which often ends with /v1" in refused({}, server.url.removesuffix("/v1"))
    server.key = KEY
    assert "Incorrect API key provided; set distill.teachers.0.api_key_variable" in refused({})
    assert "the environment variable LLM_KEY has no key" in refused({"api_key_variable": "LLM_KEY"})
    monkeypatch.setenv("LLM_KEY", "wrong")
    assert "check the key in LLM_KEY" in refused({"api_key_variable": "LLM_KEY"})
    assert not server.paid
    monkeypatch.setenv("LLM_KEY", KEY)
    server.trouble = lambda _: Trouble(status=503)
    assert "the server answers 503 Service Unavailable: trouble, after 2 attempts" in refused(
        {"api_key_variable": "LLM_KEY"}
    )
    server.trouble = lambda _: Trouble(status=400)
    broken = refused({"api_key_variable": "LLM_KEY"})
    assert "20 requests in a row failed after all attempts, the last one: the server answers 400" in broken
    server.trouble = lambda _: Trouble()
    assert distill(server.url, teacher={"api_key_variable": "LLM_KEY"}).code == 0  # nothing was counted as failed
    assert server.paid == dict.fromkeys(read_lines(TINY / "prepare/train.en"), 1)
    assert not any(KEY.encode() in path.read_bytes() for path in MADE.rglob("*") if path.is_file())


@pytest.mark.usefixtures("prepared")
def test_prompts_that_cannot_work_are_refused_with_file_and_line(server: ChatServer) -> None:
    for text, message in (
        ("Translate\nthis: ", "prompt.txt:2: the prompt has no {source}"),
        ("Translate\n{text} {source}", "prompt.txt:2: unknown placeholder {text}"),
        ("{source}\n\n{examples}", "prompt.txt:3: {examples} needs a file of examples"),
    ):
        Path("prompt.txt").write_text(text, encoding="utf-8")
        result = distill(server.url)
        assert result.code == 2
        assert message in result.err
    assert not server.requests
    Path("prompt.txt").unlink()
    assert "prompt.txt: there is no such file (distill.teachers.0.prompt)" in distill(server.url).err


@pytest.mark.usefixtures("prepared")
def test_damaged_answers_are_found_by_verification(server: ChatServer) -> None:
    assert distill(server.url).code == 0
    path = MADE / "answers/000001.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    result = distill(server.url, "--verify")
    assert result.code == 2
    assert "000001.gz: damaged or cut short" in result.err
    path.unlink()
    assert "the answers to 30 requests of block 1 are missing" in distill(server.url, "--verify").err
    path.write_bytes(whole)
    assert distill(server.url, "--verify").code == 0
    assert len(server.requests) == 80


@pytest.mark.usefixtures("prepared")
def test_other_training_sets_choose_among_the_candidates(server: ChatServer) -> None:
    server.translate = lambda source, number, _: "zzz" if number == 0 else translated(source)
    made = document(server.url, {"n": 4, "temperature": 1.0}, failures={"max_ratio": 0.0, "repetition_times": 0})
    made["students"] = {"chosen": made["students"]["distilled"] | {"data": "mbr"}}
    Path("tiny.yaml").write_text(to_yaml(made), encoding="utf-8")
    result = kdmt("distill", "tiny.yaml")
    assert result.code == 0, result.err
    sources = read_lines(TINY / "prepare/train.en")
    assert set(read_lines(MADE / "distilled.de")) == {"zzz"}
    # three of four candidates agree, so that they have the highest expected similarity
    assert read_lines(TINY / "mbr/distilled.de") == [translated(source) for source in sources]
    assert "answers: requests 80, prompt_tokens 800, output_tokens 1,600, without_answer 0" in result.err


@pytest.mark.usefixtures("prepared")
def test_answers_for_the_validation_set_are_used_again(server: ChatServer) -> None:
    server.translate = lambda source, number, _: translated(source, number)
    made = document(server.url, {"n": 2, "temperature": 1.0})
    made["students"] = {"chosen": made["students"]["distilled"] | {"data": "reranked"}}
    for metric in ("bleu", "chrf"):  # another metric moves the folder aside
        made["distill"]["rerank"] = {"features": ["mbr"], "metric": metric}
        Path("tiny.yaml").write_text(to_yaml(made), encoding="utf-8")
        result = kdmt("distill", "tiny.yaml")
        assert result.code == 0, result.err
        assert json.loads((TINY / "reranked/weights.json").read_text(encoding="utf-8"))["metric"] == metric
        assert len(server.requests) == 80 + len(set(read_lines(TINY / "prepare/valid.en")))


@pytest.mark.usefixtures("prepared")
def test_dry_run_and_budget_include_the_validation_set(server: ChatServer) -> None:
    server.translate = lambda source, number, _: translated(source, number)
    made = document(server.url, {"n": 2, "temperature": 1.0})
    made["students"] = {"chosen": made["students"]["distilled"] | {"data": "reranked"}}
    made["distill"]["rerank"] = {"features": ["mbr"]}
    valid = len(set(read_lines(TINY / "prepare/valid.en")))

    def run(*arguments: str, budget: int | None = None) -> Finished:
        made["distill"]["teachers"][0]["budget_tokens"] = budget
        Path("tiny.yaml").write_text(to_yaml(made), encoding="utf-8")
        return kdmt("distill", "tiny.yaml", *arguments)

    before = run("--dry-run")
    assert before.code == 0, before.err
    assert "distill: 80 requests for 80 sentences are needed" in before.err
    assert f"valid: {valid} requests for {valid} sentences are needed" in before.err
    used = 20 * 80  # by the training set
    stopped = run(budget=used + 20 * valid - 1)  # the last request is too much in any order
    assert stopped.code == 2
    assert f"could exceed the budget of {used + 20 * valid - 1:,} tokens" in stopped.err
    done = len(server.requests) - 80
    assert 0 < done < valid
    after = run("--dry-run")
    assert "distill: 0 requests for 0 sentences are needed" in after.err
    assert f"valid: {valid - done} requests for {valid - done} sentences are needed" in after.err
    assert after.err.count(f"of which {used + 20 * done:,} are used") == 2
    assert run(budget=100_000).code == 0
    assert len(server.requests) == 80 + valid
