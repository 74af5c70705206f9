"""Tests of unusual lines in the training text: each is translated or listed as rejected, in its order."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_pipeline import kdmt, run_stages, settings, to_yaml, write_lines

from kdmt.corpus.indexed import IndexedDataset
from kdmt.models.checkpoint_folder import resolve_checkpoint

TINY = Path("runs/tiny")
PREPARED, MADE = TINY / "prepare", TINY / "distill"

BAD = {
    "spaces": "     ",
    "nothing": "",
    "no-break space": "\u00a0\u2003",
    "many words": " ".join(["ba be"] * 5000),
    "one long word": "ba" * 5000,
    "control characters": "ba \x01\x02\x1b[31m be\x7f",
    "form feed": "ba\x0cbe",
    "nul": "ba \0 be",
    "emoji": "😀 👩‍👩‍👧 ba 🇩🇪",
    "line separators": "ba\u2028be\x85di\u2029",
    "tabs": "\tba\tbe\t",
    "carriage return inside": "ba\rbe",
    "zero width": "\u200b\u200d\ufeff",
    "right to left": "\u202eba\u202c be",
    "not normalised": "e\u0301 ba ﬁ",
    "private use": "ba \ue000 \U0010ffff",
    "a word of the tokenizer's": "▁ba ⁇ <unk> </s> <s> <pad>",
    "a lone mark": "\u0301",
}
EVERY = 4  # one such line after every 4 normal lines
UNTRANSLATED = {"spaces", "nothing", "no-break space", "many words", "one long word"}


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a file, separated by `\n` only."""
    return path.read_bytes().decode().split("\n")[:-1]


@pytest.fixture
def names(finished: Path) -> list[str | None]:
    """Mix the lines of `BAD` into the training text and return the name of each line, None for normal lines.

    The tokenizer, the dictionary and the teacher are copied to `given`.
    """
    assert finished
    Path("given").mkdir()
    shutil.copy(PREPARED / "tokenizer/joint.model", "given")
    shutil.copy(PREPARED / "dict.en.txt", "given")
    shutil.copytree(resolve_checkpoint(TINY / "teacher/average"), "given/teacher")
    sources, targets = (read_lines(Path(f"text/train.{lang}")) for lang in ("en", "de"))
    names: list[str | None] = []
    mixed: list[tuple[str, str]] = []
    bad = iter(BAD.items())
    for number, pair in enumerate(zip(sources, targets, strict=True)):
        names.append(None)
        mixed.append(pair)
        if number % EVERY == 0 and (found := next(bad, None)):
            names.append(found[0])
            mixed.append((found[1], f"ok uk{'' if number % 8 else ' ik'}"))
    assert not list(bad)
    write_lines(Path("text/train.en"), [source for source, _ in mixed])
    write_lines(Path("text/train.de"), [target for _, target in mixed])
    return names


def distill(**prepare: Any) -> str:
    document = settings()
    document["prepare"] |= prepare
    document["prepare"]["tokenizer"]["source_path"] = "given/joint.model"
    document["prepare"]["vocabulary"] = {"source_path": "given/dict.en.txt"}
    document["distill"]["teachers"] = ["given/teacher"]
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    outputs = run_stages("prepare", "distill")
    assert kdmt("distill", "tiny.yaml", "--verify", "--verify-blocks", "99").code == 0
    return outputs[-1].err


def rejected() -> dict[int, tuple[str, str]]:
    rows = (line.split("\t") for line in read_lines(MADE / "rejected") if line)
    return {int(index): (failure, what) for index, failure, what in rows}


def check_alignment() -> None:
    """Check that every target is the teacher's best hypothesis for its source, or the line's own reference."""
    sources, references = (read_lines(PREPARED / f"train.{lang}") for lang in ("en", "de"))
    targets, numbers = read_lines(MADE / "distilled.de"), np.load(MADE / "sentences.npy")
    best: dict[int, str] = {}
    for row in read_lines(MADE / "nbest"):
        number, _, _, _, words = row.split("\t", 4)
        best.setdefault(int(number), words)
    bins = [IndexedDataset(folder / "data-bin/train.en-de.en") for folder in (PREPARED, MADE)]
    assert read_lines(MADE / "distilled.en") == sources
    assert [ids.tolist() for ids in bins[1]] == [ids.tolist() for ids in bins[0]]
    assert len(targets) == len(sources) == len(references) == len(numbers)
    first: dict[tuple[int, ...], int] = {}
    for index, ids in enumerate(bins[0]):
        assert numbers[index] == first.setdefault(tuple(ids.tolist()), len(first))
        is_rejected = index in rejected()
        assert targets[index] == (references[index] if is_rejected else best[int(numbers[index])])
    assert {what for _, what in rejected().values()} <= {"replaced by the reference"}


def test_without_cleaning_all_lines_stay_aligned(names: list[str | None]) -> None:
    stderr = distill(clean="none", decontaminate=False)
    assert read_lines(PREPARED / "train.en") == read_lines(Path("text/train.en"))
    assert len(names) == len(read_lines(MADE / "distilled.de")) == 80 + len(BAD)
    check_alignment()
    for index, name in enumerate(names):
        if name in UNTRANSLATED:
            assert rejected()[index] == ("empty", "replaced by the reference"), name
    facts = json.loads((MADE / "manifest.json").read_text(encoding="utf-8"))["facts"]
    assert facts["num_lines"] == facts["num_sentences"] == len(names)
    assert facts["failures"] == Counter(failure for failure, _ in rejected().values())
    assert "Traceback" not in stderr


def test_with_cleaning_remaining_lines_stay_aligned(names: list[str | None]) -> None:
    distill()
    report = json.loads((PREPARED / "report.json").read_text(encoding="utf-8"))
    sources = read_lines(PREPARED / "train.en")
    assert report["pairs_in"] == len(names)
    assert report["pairs_in"] - sum(report["dropped"].values()) == report["pairs_out"] == len(sources)
    assert not [line for line in sources if not line.strip() or len(line.split()) > 1000 or "\0" in line]
    check_alignment()


@pytest.mark.parametrize("name", ["empty", "too_long"])
def test_untranslated_lines_can_be_dropped(names: list[str | None], name: str) -> None:
    assert names
    distill(clean="none", decontaminate=False)
    before = rejected()
    action = f"distill.failures.{name}=drop"
    assert kdmt("distill", "tiny.yaml", "--set", action).code == 0
    dropped = [index for index, (failure, _) in before.items() if failure == name]
    assert {index for index, (_, what) in rejected().items() if what == "dropped"} == set(dropped)
    sources = read_lines(PREPARED / "train.en")
    assert read_lines(MADE / "distilled.en") == [line for i, line in enumerate(sources) if i not in dropped]


def test_unusual_imported_lines_stay_aligned(names: list[str | None]) -> None:
    """Each imported line remains one line, whatever characters it contains."""
    document = settings()
    document["prepare"] |= {"clean": "none", "decontaminate": False}
    document["students"] = {"theirs": {**document["students"]["raw"], "data": "imported"}}
    failures = {"max_ratio": 0.0, "empty": "keep", "repetition": "keep", "copied": "keep"}
    document["distill"] |= {"imported": "theirs.tsv", "failures": failures}
    document["prepare"]["tokenizer"]["source_path"] = "given/joint.model"
    document["prepare"]["vocabulary"] = {"source_path": "given/dict.en.txt"}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    bad = list(BAD.values())
    lines = [bad[index % len(bad)] for index in range(len(names))]
    write_lines(Path("theirs.tsv"), [f"{index}\t{line}" for index, line in enumerate(lines)])
    run_stages("prepare", "distill")
    targets = (TINY / "imported/distilled.de").read_bytes().decode().split("\n")[:-1]
    assert targets == [" ".join(line.split()) for line in lines]
    assert len(IndexedDataset(TINY / "imported/data-bin/train.en-de.de")) == len(names)
