"""Detection of the source language, with a table of probabilities in place of the identifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from starlette.testclient import TestClient

from kdmt.languages import Direction
from kdmt.serve.app import Service, make_app
from kdmt.serve.detection import MISSING, detect_language
from kdmt.serve.limits import Limits
from kdmt.serve.models import ServedModel

WORDS = {
    "Hund": (0.6, 0.1, 0.3),
    "chien": (0.1, 0.8, 0.1),
    "pas": (0.1, 0.1, 0.8),
    "??": (0.0, 0.0, 0.0),
    "xyz": (0.0, 0.0, 0.0),
}


class Table:
    """Identifier that knows German, French and Croatian, and texts whose first word is in a table."""

    languages = ("de", "fr", "hr")

    def probabilities(self, lines: Sequence[str]) -> np.ndarray:
        return np.array([WORDS[line.split()[0]] for line in lines], dtype=np.float32)


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdmt.serve.detection.open_built_in", Table)
    monkeypatch.setattr("kdmt.serve.app.can_detect", lambda: True)


@pytest.fixture
def client() -> Iterator[TestClient]:
    directions = (Direction("de", "en"), Direction("fr", "en"), Direction("en", "cs"))
    service = Service([ServedModel(each, naming(each)) for each in directions], Limits())
    yield TestClient(make_app(service))
    service.close()


def naming(direction: Direction) -> Callable[[list[str]], list[str]]:
    return lambda sentences: [str(direction) for _ in sentences]


def ask(client: TestClient, path: str = "/translate", **fields: object) -> tuple[int, object]:
    response = client.post(path, json={"source": "auto", "target": "en"} | fields)
    return response.status_code, response.json()


def test_the_most_probable_source_language_chooses_the_model(client: TestClient) -> None:
    german, french = {"confidence": 60.0, "language": "de"}, {"confidence": 80.0, "language": "fr"}
    assert ask(client, q="Hund") == (200, {"translatedText": "de-en", "detectedLanguage": german})
    assert ask(client, q="chien") == (200, {"translatedText": "fr-en", "detectedLanguage": french})
    both = {"translatedText": ["fr-en", "fr-en"], "detectedLanguage": [french, french]}
    assert ask(client, q=["chien", "Hund"]) == (200, both)
    html = "<script>Hund</script><p title='Hund'><b>chien</b></p>"
    assert ask(client, q=html, format="html")[1]["detectedLanguage"] == french  # type: ignore[index]
    assert ask(client, q="Hund", source="fr") == (200, {"translatedText": "fr-en"})


def test_a_language_that_is_not_detected_must_be_given(client: TestClient) -> None:
    message = {"error": "The source language is not detected: give one of de, fr"}
    assert ask(client, q="??") == (400, message)


def test_detect_lists_the_source_languages(client: TestClient) -> None:
    found = [
        {"confidence": 60.0, "language": "de"},
        {"confidence": 10.0, "language": "fr"},
        {"confidence": 0.0, "language": "en"},
    ]
    assert ask(client, "/detect", q="Hund") == (200, found)
    assert ask(client, "/detect") == (400, {"error": "Invalid request: missing q parameter"})
    assert 'path="/detect",status="400"} 1' in client.get("/metrics").text


def test_without_the_package_only_a_single_source_language_is_found(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdmt.serve.app.can_detect", lambda: False)
    assert ask(client, q="a", target="cs") == (200, {"translatedText": "en-cs"})
    assert ask(client, q="Hund") == ask(client, "/detect", q="Hund") == (400, {"error": MISSING})
    assert "pip install 'kdmt[language-id]'" in MISSING


@pytest.mark.parametrize("detects", [False, True])
def test_directions_that_translate_alike_need_no_detected_language(
    monkeypatch: pytest.MonkeyPatch, detects: bool
) -> None:
    monkeypatch.setattr("kdmt.serve.app.can_detect", lambda: detects)
    alike = {Direction("de", "en"): "one", Direction("fr", "en"): "one", Direction("en", "cs"): None}
    alike |= {Direction("de", "cs"): None, Direction("de", "hr"): "one", Direction("en", "hr"): "other"}
    service = Service([ServedModel(each, naming(each), value) for each, value in alike.items()], Limits())
    made = TestClient(make_app(service))
    assert ask(made, q="xyz") == (200, {"translatedText": "de-en"})
    assert ask(made, q="xyz", target="cs")[0] == ask(made, q="xyz", target="hr")[0] == 400
    detected = {"detectedLanguage": {"confidence": 80.0, "language": "fr"}} if detects else {}
    assert ask(made, q="chien") == (200, {"translatedText": "fr-en" if detects else "de-en"} | detected)
    service.close()


def test_codes_and_related_languages() -> None:
    found = detect_language("pas", ["bs", "deu", "fr", "x-toy"])
    assert [(each.language, round(each.confidence)) for each in found] == [
        ("bs", 80),
        ("deu", 10),
        ("fr", 10),
        ("x-toy", 0),
    ]


def test_a_key_is_needed() -> None:
    service = Service([ServedModel(Direction("de", "en"), list)], Limits(), ["secret"])
    made = TestClient(make_app(service))
    assert ask(made, "/detect", q="Hund")[0] == 403
    assert ask(made, "/detect", q="Hund", api_key="secret")[0] == 200
    service.close()
