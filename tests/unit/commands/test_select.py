"""`kdmt select` through the command line."""

from __future__ import annotations

import gzip
import hashlib
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_pipeline import kdmt, read_lines, write_lines

LINES = [f"word{number % 7} word{number % 3} word{number}" for number in range(60)]


@pytest.fixture(autouse=True)
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(Path("mono.en"), LINES)


def chosen(out: str = "out.en") -> list[int]:
    """Return the indices of the chosen lines, after checking them against the lines."""
    indices = list(map(int, read_lines(Path(f"{out}.indices"))))
    assert indices == sorted(set(indices))
    assert read_lines(Path(out)) == [LINES[i] for i in indices]
    return indices


def test_ngrams_are_covered_and_the_choice_is_recorded() -> None:
    result = kdmt("select", "mono.en", "out.en", "--count", "10")
    assert (result.code, result.out) == (0, "out.en: 10 of 60 lines\n")
    indices = chosen()
    assert len(indices) == 10
    record = json.loads(Path("out.en.json").read_text(encoding="utf-8"))
    assert record == {
        **{"method": "ngrams", "count": 10, "order": 3, "decay": 0.5, "characters": False, "like": None},
        "text_sha256": hashlib.sha256(Path("mono.en").read_bytes()).hexdigest(),
        "lines": 60,
    }
    assert sorted(path.name for path in Path().iterdir()) == ["mono.en", "out.en", "out.en.indices", "out.en.json"]
    Path("mono.gz").write_bytes(gzip.compress(Path("mono.en").read_bytes()))
    assert kdmt("select", "mono.gz", "again.en", "--count", "10").code == 0
    assert chosen("again.en") == indices
    write_lines(Path("like.en"), ["word59 word58", "word57"])
    assert kdmt("select", "mono.en", "like", "--count", "3", "--like", "like.en").code == 0
    assert chosen("like") == [57, 58, 59]
    assert kdmt("select", "mono.en", "order", "--count", "10", "--order", "1", "--decay", "0").code == 0
    assert chosen("order") != indices


@pytest.mark.parametrize("name", ["out.en", "out.en.indices", "out.en.json"])
def test_none_of_the_files_is_overwritten(name: str) -> None:
    Path(name).write_text("mine", encoding="utf-8")
    result = kdmt("select", "mono.en", "out.en", "--count", "10")
    assert (result.code, result.err) == (2, f"kdmt: error: {name}: exists already\n")
    assert sorted(path.name for path in Path().iterdir()) == ["mono.en", name]
    assert Path(name).read_text(encoding="utf-8") == "mine"


def test_clusters_are_drawn_from_a_file_or_a_command() -> None:
    program = "import json, sys\nfor line in sys.stdin:\n    number = int(json.loads(line)['text'].split('word')[-1])\n"
    program += "    print(json.dumps({'embedding': [float(number % 3 == i) for i in range(3)]}))\n"
    Path("embed.py").write_text(program, encoding="utf-8")
    command = f"{shlex.quote(sys.executable)} embed.py"
    options = ("--count", "9", "--method", "clusters", "--clusters", "3", "--embeddings", "e.npy")
    result = kdmt("select", "mono.en", "out.en", *options, "--command", command)
    assert result.code == 0, result.err
    assert sorted(index % 3 for index in chosen()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.load("e.npy").shape == (60, 3)
    assert kdmt("select", "mono.en", "again.en", *options).code == 0
    assert chosen("again.en") == chosen()
    assert kdmt("select", "mono.en", "seed.en", *options, "--seed", "2").code == 0
    assert chosen("seed.en") != chosen()
    assert kdmt("select", "mono.en", "same.en", *options, "--command", command).code == 0
    assert chosen("same.en") == chosen()
    other = kdmt("select", "mono.en", "other.en", *options, "--command", f"{command} --large")
    assert other.code == 2
    assert "e.npy: made for another text or by another command: remove it" in other.err
    Path("e.npy.json").unlink()
    other = kdmt("select", "mono.en", "other.en", *options, "--command", command)
    assert "e.npy: not recorded as made by a command" in other.err
    assert not Path("other.en").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("none.en", "out.en", "--count", "1"), "none.en: there is no such file"),
        (("mono.en", "mono.en", "--count", "1"), "mono.en: exists already"),
        (("mono.en", "out.en", "--count", "61"), "60 lines with words, fewer than --count 61"),
        (("mono.en", "out.en", "--count", "1", "--seed", "2"), "--seed has no effect with --method ngrams"),
        (("mono.en", "out.en", "--count", "1", "--method", "clusters"), "give --embeddings FILE.npy"),
        (
            ("mono.en", "out.en", "--count", "1", "--method", "clusters", "--embeddings", "e.npy"),
            "60 lines, fewer than --clusters 5,000",
        ),
        (
            *(
                (
                    "mono.en",
                    "out.en",
                    "--count",
                    "1",
                    "--method",
                    "clusters",
                    "--embeddings",
                    "e.npy",
                    "--clusters",
                    "2",
                ),
            ),
            "e.npy: there is no such file",
        ),
        (("mono.en", "out.en", "--count", "1", "--method", "clusters", "--decay", "1"), "--decay has no effect"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(options: tuple[str, ...], message: str) -> None:
    result = kdmt("select", *options)
    assert result.code == 2
    assert message in result.err
    assert [path.name for path in Path().iterdir()] == ["mono.en"]
