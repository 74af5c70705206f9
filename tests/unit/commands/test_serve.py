"""`kdmt serve` with a tiny trained model: its answers, its end by a signal, and what it refuses before it starts."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_pipeline import kdmt

from kdmt import languages
from kdmt.commands.models import SearchOptions
from kdmt.commands.serve import open_models, read_keys, serve
from kdmt.config import Decode, Text
from kdmt.corpus.text import TextProcessor
from kdmt.decode.engines.translator import Translator
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.serve.limits import Limits
from kdmt.serve.server import bind

TEACHER = Path("runs/tiny/teacher")


def ask(url: str, **fields: str) -> object:
    request = urllib.request.Request(url, json.dumps(fields).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


@pytest.mark.usefixtures("finished")
def test_a_model_is_served_until_a_signal(capfd: pytest.CaptureFixture[str]) -> None:
    expected = kdmt("translate", TEACHER, "--threads", "1", stdin=b"ba be\nda\n").out.splitlines()
    answers: list[object] = []
    messages = ""

    def client() -> None:
        nonlocal messages
        try:
            while not (found := re.search(r"en-de on (http://127\.0\.0\.1:\d+)\n", messages)):
                time.sleep(0.02)
                messages += capfd.readouterr().err
            answers.append(ask(f"{found[1]}/translate", q="ba be\n\nda", source="en", target="de"))
            long = " ".join(["ba"] * 200)
            answers.append(ask(f"{found[1]}/translate", q=long, source="auto", target="de"))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=client)
    thread.start()
    search = SearchOptions(threads=1, device="cpu")
    serve([TEACHER], host="127.0.0.1", port=0, api_keys=None, trust_proxy=False, limits=Limits(), search=search)
    thread.join()
    assert answers[0] == {"translatedText": f"{expected[0]}\n\n{expected[1]}"}
    assert isinstance(answers[1], dict)
    assert answers[1]["translatedText"]
    assert "cut to the model's" not in messages + capfd.readouterr().err


@pytest.mark.usefixtures("finished")
def test_two_models_of_the_same_languages_are_refused() -> None:
    result = kdmt("serve", TEACHER, "runs/tiny/students/raw/seed_1", "--port", "0")
    assert result.code == 2
    assert result.err.endswith(" both translate en-de\n")


def test_what_is_wrong_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "keys"
    empty.write_text("# none\n", encoding="utf-8")
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        for arguments, message in (
            ((tmp_path / "no-model", "--port", "0"), "no-model"),
            ((tmp_path, "--port", port), f"cannot listen on 127.0.0.1 port {port}: Address already in use"),
            ((tmp_path, "--api-keys", tmp_path / "missing"), "missing"),
            ((tmp_path, "--api-keys", empty), "no keys"),
            ((tmp_path, "--max-connections", 1 << 40), "open files"),
        ):
            result = kdmt("serve", *map(str, arguments))
            assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result.err
            assert message in result.err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = kdmt("serve", tmp_path)
    assert (result.code, result.err) == (2, "kdmt: error: kdmt serve needs uvicorn: pip install 'kdmt[serve]'\n")


def test_keys_are_lines_of_a_file_or_a_list(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# clients\n first \n\nsecond\n", encoding="utf-8")
    assert read_keys(path, "third") == ["first", "second"]
    assert read_keys(None, "third, fourth,,") == ["third", "fourth"]
    assert read_keys(None, None) == []
    path.write_text("one\ntwo words\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2: expected one key"):
        read_keys(path, "")
    path.write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_keys(path, "")


@pytest.mark.parametrize("listed", ["", "  ", ",", " , ,"])
def test_a_variable_without_keys_does_not_open_the_server(listed: str) -> None:
    with pytest.raises(UserError, match=r"^KDMT_API_KEYS is set but has no keys"):
        read_keys(None, listed)


def test_keys_are_unicode_and_may_follow_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"\xef\xbb\xbfsecret\n")
    assert read_keys(path, None) == ["secret"]
    with pytest.raises(UserError, match=r"^KDMT_API_KEYS: not UTF-8$"):
        read_keys(None, "\udcff")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("option", ["--timeout", "--read-timeout", "--batch-wait"])
def test_times_that_are_not_finite_are_refused(tmp_path: Path, option: str, value: str) -> None:
    result = kdmt("serve", tmp_path, option, value)
    assert (result.code, result.out) == (2, "")
    assert option in result.err
    assert "Traceback" not in result.err


def test_a_multilingual_model_serves_all_its_directions(multilingual_model: Path) -> None:
    served = {str(each.direction): each for each in open_models([multilingual_model], SearchOptions(beam=2))}
    assert list(served) == ["en-de", "en-fr", "fr-en", "fr-de"]
    sentences, translator = ["ba be", "di ga ge"], Translator.load(multilingual_model)
    for each in served.values():
        chosen = translator.for_direction(each.direction)
        assert each.translate(sentences) == chosen.translate_sentences(sentences, Decode(beam=2))
    assert served["en-de"].translate(sentences) != served["en-fr"].translate(sentences)
    assert served["en-de"].alike == served["fr-de"].alike
    assert len({each.alike for each in served.values()}) == 3
    assert {each.shared for each in served.values()} == {multilingual_model}


def test_directions_of_many_languages_are_compared_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = ("cs", "da", "de", "en", "es", "fi", "fr", "hu", "it", "nl", "pl", "pt")
    directions = tuple(Direction(*pair) for pair in itertools.permutations(codes, 2))
    text = TextProcessor(Text(), "src", "tgt", directions=directions)
    translator = SimpleNamespace(
        codec=SimpleNamespace(text=text), translate_sentences=lambda sentences, _: sentences, add_context=list
    )
    translator.for_direction = lambda _: translator
    monkeypatch.setattr("kdmt.commands.models._text_of", lambda _: text)
    monkeypatch.setattr("kdmt.commands.serve.open_translator", lambda *_: (translator, Decode()))
    compared, identity = [], languages._identity
    monkeypatch.setattr(languages, "_identity", lambda code: compared.append(code) or identity(code))
    served = open_models([Path("all")], SearchOptions())
    assert [each.direction for each in served] == list(directions)
    assert [each.alike for each in served] == [(Path("all"), each.target) for each in directions]
    assert len(compared) <= 4 * len(directions)
