"""The API over HTTP, with a stub in place of the model: answers, errors, limits, keys and metrics."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from kdmt.config import Context
from kdmt.corpus.context import Document
from kdmt.languages import Direction
from kdmt.serve.app import Service, make_app
from kdmt.serve.limits import Limits
from kdmt.serve.models import ServedModel

LIMITS = Limits(body_bytes=2_000, characters=300, queued_sentences=40, client_sentences=20, request_seconds=30)
TIMEOUT = 30  # seconds, far more than needed
EN_DE, EN_FR, CS_EN = Direction("en", "de"), Direction("en", "fr"), Direction("cs", "en")


def upper(sentences: list[str]) -> list[str]:
    return [sentence.upper() for sentence in sentences]


def lower(sentences: list[str]) -> list[str]:
    return [sentence.lower() for sentence in sentences]


def fail(_: list[str]) -> list[str]:
    raise RuntimeError("no memory")


MODELS = (ServedModel(EN_DE, upper), ServedModel(EN_FR, fail), ServedModel(CS_EN, lower))
Client = Callable[..., TestClient]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr("kdmt.serve.app.can_detect", lambda: False)
    services: list[Service] = []

    def make(*keys: str, **limits: Any) -> TestClient:
        services.append(Service(MODELS, replace(LIMITS, **limits), keys))
        return TestClient(make_app(services[-1]), raise_server_exceptions=False)

    yield make
    for service in services:
        service.close()


def ask(client: TestClient, **fields: object) -> tuple[int, object]:
    response = client.post("/translate", json={"source": "en", "target": "de"} | fields)
    return response.status_code, response.json()


def test_a_string_gives_a_string_and_a_list_gives_a_list(client: Client) -> None:
    made = client()
    assert ask(made, q="A dog.") == (200, {"translatedText": "A DOG."})
    assert ask(made, q=["A dog.", "", "b"]) == (200, {"translatedText": ["A DOG.", "", "B"]})
    assert ask(made, q=[]) == (200, {"translatedText": []})
    assert ask(made, q="") == (200, {"translatedText": ""})


def test_forms_are_accepted(client: Client) -> None:
    fields = {"q": "ein čas & más", "source": "en", "target": "de", "format": "text", "api_key": ""}
    response = client().post("/translate", data=fields)
    assert (response.status_code, response.json()) == (200, {"translatedText": "EIN ČAS & MÁS"})


def test_documents_keep_paragraphs_and_tags(client: Client) -> None:
    made = client()
    assert ask(made, q="One. Two.\n\n Three") == (200, {"translatedText": "ONE. TWO.\n\n THREE"})
    html = '<p class="green">Hello <b>dog</b>!</p>'
    assert ask(made, q=html, format="html") == (200, {"translatedText": '<p class="green">HELLO <b>DOG</b>!</p>'})


def test_a_long_sentence_is_translated_in_parts_of_the_queue(client: Client) -> None:
    made = client(characters=3_000, body_bytes=5_000, batch_characters=1)
    assert ask(made, q="ab " * 900 + "\n\nc") == (200, {"translatedText": ("AB " * 900).strip() + " \n\nC"})
    # four parts and a short sentence
    assert 'kdmt_batch_sentences_count{model="en-de"} 5' in made.get("/metrics").text.splitlines()


def test_the_model_is_chosen_by_the_languages(client: Client) -> None:
    made = client()
    assert ask(made, q="ABC", source="cs", target="en") == (200, {"translatedText": "abc"})
    assert ask(made, q="abc", source="eng", target="DE") == (200, {"translatedText": "ABC"})


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({}, 400, "missing q"),
        ({"q": None}, 400, "missing q"),
        ({"q": 3}, 400, "q must be a string or a list of strings"),
        ({"q": ["a", 3]}, 400, "q must be a string or a list of strings"),
        ({"q": [["a"]]}, 400, "q must be a string or a list of strings"),
        ({"q": {"a": "b"}}, 400, "q must be a string or a list of strings"),
        ({"q": "a", "source": ["en"]}, 400, "source must be a string"),
        ({"q": "a", "source": None}, 400, "missing source"),
        ({"q": "a", "target": None}, 400, "missing target"),
        ({"q": "a", "target": "xx"}, 400, "xx is not supported"),
        ({"q": "a", "source": "de"}, 400, "de to de is not supported"),
        ({"q": "a", "source": "x" * 1_500}, 400, "source '" + "x" * 64 + "'... is no language code"),
        ({"q": "a", "format": "pdf"}, 400, "format 'pdf'"),
        ({"q": "a", "format": 1}, 400, "format must be a string"),
        ({"q": "a", "api_key": 1}, 400, "api_key must be a string"),
        ({"q": "a" * 301}, 400, "301 characters exceed the limit of 300"),
        ({"q": ["a" * 150, "b" * 151]}, 400, "301 characters exceed the limit of 300"),
        ({"q": "a.\n" * 21}, 400, "21 sentences exceed the limit of 20"),
        ({"q": "a" * 3_000}, 413, "2,000 bytes"),
    ],
)
def test_requests_that_are_refused(client: Client, fields: dict[str, object], status: int, message: str) -> None:
    found, answer = ask(client(), **fields)
    assert found == status
    assert isinstance(answer, dict)
    assert list(answer) == ["error"]
    assert message in answer["error"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        *(("{", "application/json", 400), ("[1]", "application/json", 400), ("[" * 1_900, "application/json", 400)),
        *((b"\xff\xfe", "application/json", 400), ('{"q": ' + "9" * 1_900, "application/json", 400)),
        ('{"q": "\\ud800", "source": "en", "target": "de"}', "application/json", 400),
        ('{"q": "a", "source": "\\ud800", "target": "de"}', "application/json", 400),
        ('{"q": "a", "source": "en", "target": "\\ud800"}', "application/json", 400),
        ('{"q": "a", "source": "en", "target": "de", "api_key": "\\ud800"}', "application/json", 400),
        (b"q=\xff", "application/x-www-form-urlencoded", 400),
        ("&".join("abcdefghijklmnopqrstuvwxyz"), "application/x-www-form-urlencoded", 400),
        *(("q=a", "multipart/form-data", 415), ("q", "", 415), ("", "application/json; charset=utf-8", 400)),
    ],
)
def test_bodies_that_cannot_be_parsed(client: Client, body: str | bytes, kind: str, status: int) -> None:
    response = client().post("/translate", content=body, headers={"content-type": kind})
    assert response.status_code == status
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize("length", ["-1", "1" * 400, "x", "99999"])
def test_a_length_that_is_too_large_or_no_number_is_refused(client: Client, length: str) -> None:
    headers = {"content-length": length, "content-type": "application/json"}
    assert client().post("/translate", content=b"{}", headers=headers).status_code == 413


def test_other_paths_and_methods(client: Client) -> None:
    made = client()
    for response, status in ((made.get("/nothing"), 404), (made.get("/translate"), 405), (made.get("/docs"), 404)):
        assert response.status_code == status
        assert list(response.json()) == ["error"]


def test_an_error_of_the_engine_is_an_answer_without_details(client: Client) -> None:
    made = client()
    assert ask(made, q="a", target="fr") == (500, {"error": "The text could not be translated"})
    assert ask(made, q="a") == (200, {"translatedText": "A"})


def test_keys(client: Client) -> None:
    made = client("first", "sécond")
    assert ask(made, q="a") == (403, {"error": "An API key is required"})
    assert ask(made, q="a", api_key="third") == (403, {"error": "Invalid API key"})
    assert ask(made, q="a", api_key="sécond") == (200, {"translatedText": "A"})
    body = {"q": "a", "source": "en", "target": "de"}
    assert made.post("/translate", json=body, headers={"Authorization": "Bearer first"}).status_code == 200
    assert made.get("/languages").status_code == made.get("/health").status_code == 200
    assert made.get("/metrics").status_code == 403
    assert made.get("/metrics", headers={"Authorization": "bearer first"}).status_code == 200


def test_languages(client: Client) -> None:
    assert client().get("/languages").json() == [
        {"code": "cs", "name": "Czech", "targets": ["en"]},
        {"code": "en", "name": "English", "targets": ["de", "fr"]},
        {"code": "fr", "name": "French", "targets": []},
        {"code": "de", "name": "German", "targets": []},
    ]


def test_metrics_count_requests_and_batches(client: Client) -> None:
    made = client()
    ask(made, q=["One. Two.", "Three"])
    ask(made, q=3)
    made.get("/a/b")
    assert made.get("/health").json() == {"status": "ok"}
    lines = made.get("/metrics").text.splitlines()
    for line in (
        *(
            'kdmt_requests_total{path="/translate",status="200"} 1',
            'kdmt_requests_total{path="/translate",status="400"} 1',
        ),
        *('kdmt_requests_total{path="other",status="404"} 1', 'kdmt_requests_total{path="/health",status="200"} 1'),
        *('kdmt_batch_sentences_sum{model="en-de"} 3', 'kdmt_queue_sentences{model="en-de"} 0'),
        *("kdmt_translation_seconds_count 1", 'kdmt_characters_total{model="en-de"} 14', "kdmt_connections 0"),
    ):
        assert line in lines
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines)


def test_health_reports_a_model_that_does_not_run(client: Client) -> None:
    made = client()
    assert made.get("/health").status_code == 200
    service = Service(MODELS, LIMITS)
    service.close()
    assert TestClient(make_app(service)).get("/health").status_code == 503


def test_the_page_loads_nothing_from_elsewhere(client: Client) -> None:
    response = client().get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.search(r"https?://|//[a-z]|@import|url\(", response.text)


@pytest.mark.parametrize("field", ["q", "source", "target", "format", "api_key"])
@pytest.mark.parametrize("keys", [(), ("secret",)])
def test_half_a_surrogate_pair_is_refused_in_every_field(client: Client, field: str, keys: tuple[str, ...]) -> None:
    made = client(*keys)
    fields = {"q": "a", "source": "en", "target": "de", "format": "text", "api_key": "secret"} | {field: "\ud800"}
    response = made.post("/translate", content=json.dumps(fields), headers={"content-type": "application/json"})
    assert (response.status_code, response.json()) == (400, {"error": f"Invalid request: {field} is not Unicode text"})


def test_an_unexpected_error_is_json_and_is_counted(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("details of the server")

    monkeypatch.setattr("kdmt.serve.app.parse_request", fails)
    made = client()
    assert ask(made, q="a") == (500, {"error": "The request could not be answered"})
    assert 'kdmt_requests_total{path="/translate",status="500"} 1' in made.get("/metrics").text.splitlines()


def test_the_number_of_texts_is_limited_and_an_empty_text_counts_as_a_character(client: Client) -> None:
    made = client(texts=5)
    assert ask(made, q=[""] * 5) == (200, {"translatedText": [""] * 5})
    many = "Invalid request: 6 texts exceed the limit of 5"
    assert ask(made, q=[""] * 6) == ask(made, q=[3] * 6) == (400, {"error": many})
    empty = "Invalid request: 301 characters exceed the limit of 300"
    assert ask(client(), q=[""] * 301) == (400, {"error": empty})


@pytest.mark.parametrize(("texts", "threads"), [(["a b"], 0), ([""] * 21, 1), (["a" * 1_950], 1)])
def test_requests_that_take_long_to_split_leave_the_event_loop_to_others(
    client: Client, monkeypatch: pytest.MonkeyPatch, texts: list[str], threads: int
) -> None:
    started: list[object] = []

    async def in_this_thread(function: Callable[..., object], *arguments: object) -> object:
        started.append(function)
        return function(*arguments)

    monkeypatch.setattr("kdmt.serve.app.asyncio.to_thread", in_this_thread)
    assert ask(client(body_bytes=5_000, characters=2_000), q=texts)[0] == 200
    assert len(started) == threads


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_model_that_has_stopped_is_named() -> None:
    def stop(_: int) -> None:
        raise MemoryError

    service = Service(MODELS, LIMITS)
    service.queues[EN_DE]._observe = stop
    made = TestClient(make_app(service))
    for _ in range(2):  # the request during which it stops, and a later one
        assert ask(made, q="a") == (503, {"error": "The model of en-de has stopped"})
    service.queues[EN_DE]._thread.join(TIMEOUT)
    health = made.get("/health")
    assert (health.status_code, health.json()) == (503, {"error": "The model of en-de has stopped"})
    assert ask(made, q="A", source="cs", target="en") == (200, {"translatedText": "a"})
    service.close()


def test_directions_of_one_model_share_a_queue() -> None:
    """No two of them translate at the same time, and the metrics have one queue for all."""
    running, most, batches = 0, 0, list[str]()

    def translating(name: str) -> Callable[[list[str]], list[str]]:
        def translate(sentences: list[str]) -> list[str]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            time.sleep(0.02)
            batches.append(name)
            running -= 1
            return [f"{name} {sentence}" for sentence in sentences]

        return translate

    directions = [EN_DE, EN_FR, CS_EN]
    models = [ServedModel(each, translating(str(each)), shared="a" if each != CS_EN else None) for each in directions]
    service = Service(models, Limits(batch_seconds=0.2))
    assert service.queues[EN_DE] is service.queues[EN_FR] is not service.queues[CS_EN]
    with TestClient(make_app(service)) as client, ThreadPoolExecutor(4) as pool:
        wanted = [(each, f"x{number}") for number in range(4) for each in (EN_DE, EN_FR)]
        answers = pool.map(
            lambda each: client.post("/translate", json={"q": each[1], "source": "en", "target": each[0].target}),
            wanted,
        )
        assert [each.json()["translatedText"] for each in answers] == [f"{each} {text}" for each, text in wanted]
        metrics = client.get("/metrics").text
    service.close()
    assert most == 1
    assert {"en-de", "en-fr"} == set(batches)
    assert 'kdmt_queue_sentences{model="en-de and 1 more"} 0' in metrics
    assert 'kdmt_queue_sentences{model="cs-en"} 0' in metrics


def test_a_model_with_context_reads_the_previous_sentences_of_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that each text is a document, that parts of a long sentence have no context, and that no text is lost."""
    monkeypatch.setattr("kdmt.serve.app.can_detect", lambda: False)

    def add_context(sentences: Sequence[str]) -> list[str]:
        return Document(Context()).add_lines(sentences)

    service = Service([ServedModel(EN_DE, upper, add_context=add_context)], replace(LIMITS, characters=4_000))
    with TestClient(make_app(service)) as made:
        assert ask(made, q=["One. Two.", "Three."]) == (
            200,
            {"translatedText": ["<SEP> ONE. ONE. <SEP> TWO.", "<SEP> THREE."]},
        )
        code, answer = ask(made, q=f"One. {'word, ' * 200}end")
    service.close()
    assert code == 200
    found = cast("dict[str, str]", answer)["translatedText"]
    assert found.startswith("<SEP> ONE. <SEP> WORD,")
    assert found.count("<SEP>") == 3
    assert found.count("WORD,") == 200
