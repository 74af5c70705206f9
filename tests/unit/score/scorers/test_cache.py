"""Tests of the cache of scores: concurrent processes, kills, keys."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from kdmt.score.scorers.cache import ScoreCache, segment_key

WRITER = """
import sys
from pathlib import Path
from kdmt.score.scorers.cache import ScoreCache, segment_key
cache, own = ScoreCache(Path(sys.argv[1])), int(sys.argv[2])
for turn in range(int(sys.argv[3])):
    cache.add({segment_key("v", [str(own), str(turn), str(n)]): own + turn / 1000 for n in range(5)})
    print(turn, flush=True)
"""


def start(path: Path, own: int, turns: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(own), str(turns)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_may_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    writers = [start(path, own, 30) for own in range(3)]
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    cache = ScoreCache(path)
    keys = {
        segment_key("v", [str(own), str(turn), str(n)]): own + turn / 1000
        for own in range(3)
        for turn in range(30)
        for n in range(5)
    }
    assert cache.find([*keys, b"unknown"]) == keys
    cache.close()


def test_scores_that_were_added_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with start(path, 7, 10**6) as writer:
        assert writer.stdout is not None
        added = [int(next(writer.stdout)) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
    cache = ScoreCache(path)
    for turn in added:
        keys = [segment_key("v", ["7", str(turn), str(n)]) for n in range(5)]
        assert cache.find(keys) == dict.fromkeys(keys, 7 + turn / 1000)
    cache.close()


def test_texts_that_differ_in_their_limits_have_different_keys() -> None:
    texts = [("ab", "c", None), ("a", "bc", None), ("ab", "c", ""), ("ab", "c", "None"), ("", "abc", None)]
    assert len({segment_key("v", each) for each in texts}) == len(texts)
    assert segment_key("v", texts[0]) != segment_key("w", texts[0])


def test_a_greeting_is_found_by_its_identity(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "x.sqlite")
    cache.add_greeting("one", {"scorer": "é"})
    cache.add_greeting("one", {"scorer": "ü"})
    assert cache.greeting("one") == {"scorer": "ü"}
    assert cache.greeting("two") is None
    cache.close()
