"""Test that no sentence is paid for twice although the whole command is killed again and again.

A kill comes while requests are in progress, but not in the moment between the arrival of an answer and its record,
which is shorter than a millisecond: there, any client loses an answer.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chat_server import MODEL, PROMPT, ChatServer, Trouble, choices
from tiny_pipeline import SIZES, WORDS, kdmt, read_lines, settings, to_yaml, working_in, write_text

MADE = Path("runs/tiny/distill")
FAULTS = (
    Trouble(status=429, headers={"Retry-After": "0"}),
    Trouble(status=429),
    Trouble(status=500),
    Trouble(cut=60),
    Trouble(cut=-1),
    Trouble(body=b'{"choices": ['),
    Trouble(change=choices()),
    Trouble(change=choices("")),
)


@pytest.mark.parametrize(
    ("sentences", "kills", "executor"),
    [(80, 1, "inline"), pytest.param(10_000, 5, "processes", marks=pytest.mark.slow)],
)
def test_every_sentence_is_translated_or_counted_and_paid_for_once(
    tmp_path: Path, sentences: int, kills: int, executor: str
) -> None:
    with working_in(tmp_path), ChatServer(translated).serving() as server:
        write_text(tmp_path, SIZES | {"train": sentences})
        Path("prompt.txt").write_text(PROMPT, encoding="utf-8")
        Path("tiny.yaml").write_text(to_yaml(document(server.url, executor)), encoding="utf-8")
        assert kdmt("prepare", "tiny.yaml").code == 0
        sources = read_lines(Path("runs/tiny/prepare/train.en"))
        bad = add_faults(server, sources)
        for number in range(1, kills + 1):
            kill_after(server, number * sentences // (kills + 1))
        result = kdmt("distill", "tiny.yaml")
        assert result.code == 0, result.err
        assert server.paid == dict.fromkeys([source for source in sources if source not in bad], 1)
        targets = [line.partition("\t")[0] for line in read_lines(MADE / "rejected") if line]
        assert {sources[int(index)] for index in targets} == bad
        kept = [source for source in sources if source not in bad]
        assert read_lines(MADE / "distilled.en") == kept
        assert read_lines(MADE / "distilled.de") == [translated(source) for source in kept]
        assert kdmt("distill", "tiny.yaml", "--verify").code == 0


def translated(source: str, *_: object) -> str:
    return " ".join(WORDS[word] for word in source.split())


def document(url: str, executor: str) -> dict[str, Any]:
    made = settings()
    teacher = {"endpoint": url, "model": MODEL, "prompt": "prompt.txt", "max_wait": 0.01, "timeout": 3.0, "retries": 9}
    failures = {"no_answer": "drop", "max_ratio": 0.0, "repetition_times": 0}
    made["distill"] = {"teachers": [teacher], "executor": executor, "block_size": 30, "failures": failures}
    if executor == "processes":
        made["distill"] |= {"block_size": 1000}
    return made


def add_faults(server: ChatServer, sources: list[str]) -> set[str]:
    """Let the first attempts at a fifth of the sentences fail, and all attempts at a few, which are returned."""
    rng = random.Random(1)
    bad = set(rng.sample(sources, 1 + len(sources) // 1000))
    hang = Trouble(hang=4.0)  # is longer than the timeout, and seldom, so that the test does not take long
    left = {source: rng.choices(FAULTS, k=rng.randint(1, 2)) for source in rng.sample(sources, len(sources) // 5)}
    left |= {source: [hang] for source in rng.sample(sources, 1 + len(sources) // 500)}

    def trouble(asked: tuple[str, ...]) -> Trouble:
        if asked[0] in bad:
            return Trouble(status=400)
        return left[asked[0]].pop() if left.get(asked[0]) else Trouble()

    server.trouble = trouble
    return bad


def kill_after(server: ChatServer, paid: int) -> None:
    """Run the command, and kill all of its processes after this number of answers."""
    command = [sys.executable, "-m", "kdmt", "distill", "tiny.yaml"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as running:
        while server.paid.total() < paid:
            assert running.poll() is None, "the command ended before it was killed"
            time.sleep(0.002)
        server.hold()
        time.sleep(0.2)  # the client records the last answers, and sends requests that are not answered
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert not (MADE / "manifest.json").exists()
    server.gate.set()
