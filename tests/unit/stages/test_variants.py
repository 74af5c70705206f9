"""Variants of test sets: changed sources and references, rows of the table, translations that are kept."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import sacrebleu
from tiny_pipeline import kdmt, read_lines, settings, to_yaml, write_lines

from kdmt.config import load_pipeline
from kdmt.stages.variants import ScoredText, scored_texts
from kdmt.stages.workspace import Workspace

TINY = Path("runs/tiny")
SOURCES = ["Ein Hund läuft .", "Zwei Katzen schlafen", "Das <b>Haus</b> ist groß .", ""]
TARGETS = ["A dog runs .", "Two cats sleep .", "The <b>house</b> is big .", "."]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a pipeline whose prepare stage has one small test set."""
    document = settings() | {"source_lang": "de", "target_lang": "en"}
    path = tmp_path / "p.yaml"
    path.write_text(to_yaml(document), encoding="utf-8")
    made = Workspace(load_pipeline(path), tmp_path / "runs")
    made.prepare.mkdir(parents=True)
    for lang, lines in (("de", SOURCES), ("en", TARGETS)):
        write_lines(made.prepare / f"test.{lang}", lines)
        write_lines(made.prepare / f"test.raw.{lang}", lines)
    processing = {"text": made.config.prepare.text.model_dump(), "source_lang": "de", "target_lang": "en"}
    (made.prepare / "text.json").write_text(json.dumps(processing | {"unicode_form": None}), encoding="utf-8")
    return made


def test_references_follow_their_sources(workspace: Workspace) -> None:
    upper = ScoredText("test", ["upper_case"])
    assert upper.sources(workspace) == ["EIN HUND LÄUFT .", "ZWEI KATZEN SCHLAFEN", "DAS <b>HAUS</b> IST GROSS .", ""]
    expected = ["A DOG RUNS .", "TWO CATS SLEEP .", "THE <b>HOUSE</b> IS BIG .", "."]
    assert upper.references(workspace, TARGETS, as_words=True) == expected
    assert upper.raw_texts(workspace) == (upper.sources(workspace), expected)
    no_end = ScoredText("test", ["no_end_punctuation"])
    # a pair of which one side has no punctuation at its end is not changed
    assert no_end.references(workspace, TARGETS, as_words=True) == [
        "A dog runs",
        TARGETS[1],
        "The <b>house</b> is big",
        ".",
    ]
    typos = ScoredText("test", ["typos"])
    assert typos.references(workspace, TARGETS, as_words=True) == TARGETS
    assert [new != old for new, old in zip(typos.sources(workspace), SOURCES, strict=True)] == [True, True, True, False]
    merged = ScoredText("test", ["merged"])
    assert merged.references(workspace, TARGETS, as_words=True)[0] == "A dog runs . Two cats sleep ."
    assert merged.references(workspace, TARGETS, as_words=True)[2:] == TARGETS[2:]  # the next source is empty


def test_markup_is_the_same_on_both_sides(workspace: Workspace) -> None:
    tags = ScoredText("test", ["tags"])
    for source, target in zip(
        tags.sources(workspace)[:3], tags.references(workspace, TARGETS, as_words=True)[:3], strict=True
    ):
        assert source.split(">")[0] == target.split(">")[0]
        assert source[0] == "<"


def test_a_test_set_without_changes_is_its_text(workspace: Workspace) -> None:
    assert scored_texts(workspace).keys() == {"test"}
    plain = scored_texts(workspace)["test"]
    assert plain.sources(workspace) == SOURCES
    assert plain.references(workspace, TARGETS, as_words=False) == TARGETS


@pytest.mark.usefixtures("finished")
def test_each_variant_is_a_row_of_the_table() -> None:
    sets = ("--set", "score.variants={joined: [merged]}")
    before = json.loads((TINY / "scores.json").read_text(encoding="utf-8"))
    result = kdmt("score", "tiny.yaml", *sets)
    assert result.code == 0, result.err
    found = json.loads((TINY / "scores.json").read_text(encoding="utf-8"))
    assert [row for row in found if row["test_set"] == "test"] == before  # translated before
    rows = [row for row in found if row["test_set"] == "test.joined"]
    assert len(rows) == len(before)
    sources, references = (read_lines(Path(f"text/test.{lang}")) for lang in ("en", "de"))
    differ = [first != second for first, second in itertools.pairwise(sources)]
    joined = [
        [
            f"{first} {second}" if merge else first
            for first, second, merge in zip(lines, lines[1:], differ, strict=False)
        ]
        + lines[-1:]
        for lines in (sources, references)
    ]
    limits = ("--max-len-a", "1.2", "--max-len-b", "10", "--threads", "1")
    stdin = "".join(f"{line}\n" for line in joined[0]).encode()
    translated = kdmt("translate", TINY / "teacher/average", "--beam", "2", *limits, stdin=stdin).out.splitlines()
    assert translated == read_lines(TINY / "score/teacher.seed_1.test.joined.beam2.de")
    row = next(row for row in rows if (row["system"], row["beam"]) == ("teacher", 2))
    assert row["bleu"] == pytest.approx(sacrebleu.corpus_bleu(translated, [joined[1]]).score)
    assert "test.joined" in result.out
    again = kdmt("score", "tiny.yaml", *sets)
    assert "up to date" in again.err
