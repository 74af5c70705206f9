"""Tests of a training set translated by a language model behind an endpoint, through the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_input import unharmed
from chat_server import MODEL, PROMPT, ChatServer
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
