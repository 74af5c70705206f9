"""Diagnostics through the command line, compared with figures computed again from the files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tiny_directions
from tiny_pipeline import WORDS, Finished, kdmt, read_lines

from kdmt.config import load_pipeline
from kdmt.decode.engines.translator import Translator
from kdmt.score.systems import Way
from kdmt.score.translations import Decoded, Translations
from kdmt.stages.score_diagnostics import read_texts, read_training, translate_sample
from kdmt.stages.workspace import Workspace

TINY = Path("runs/tiny")
SAMPLE = "score.diagnostics.train_sentences=20"


def score(*sets: str) -> Finished:
    result = kdmt("score", "tiny.yaml", *(part for setting in sets for part in ("--set", setting)))
    assert result.code == 0, result.err
    return result


def diagnostics() -> dict[str, Any]:
    return json.loads((TINY / "diagnostics.json").read_text(encoding="utf-8"))


def row(system: str, beam: int = 1) -> dict[str, Any]:
    return next(row for row in diagnostics()["rows"] if (row["system"], row["beam"]) == (system, beam))


@pytest.mark.usefixtures("finished")
def test_figures_equal_those_of_the_stored_texts() -> None:
    systems = [(each["system"], each["beam"]) for each in diagnostics()["rows"]]
    ways = [(name, beam) for name in ("teacher", "raw", "distilled") for beam in (1, 2)]
    assert systems == [("reference", 1), *ways]
    references = [line.split() for line in read_lines(Path("text/test.de"))]
    training = Counter(word for line in read_lines(TINY / "prepare/train.de") for word in line.split())
    for name, beam in ways:
        counts = row(name, beam)["counts"]
        outputs = [line.split() for line in read_lines(TINY / f"score/{name}.seed_1.test.beam{beam}.de")]
        assert counts["length"] == [sum(map(len, outputs)), sum(map(len, references))]
        rare = [{word for word in words if 1 <= training[word] <= 5} for words in references]
        kept = sum(len(words & set(output)) for words, output in zip(rare, outputs, strict=True))
        assert counts["rare_recall"] == [kept, sum(map(len, rare))]
        words = [word for output in outputs for word in output]
        ratio = row(name, beam)["figures"]["type_token_ratio"]
        assert ratio == (pytest.approx(100 * len(set(words)) / len(words)) if words else None)
        assert "replicated" not in counts
    assert row("reference")["figures"]["omitted"] == 0.0
    page = (TINY / "report.html").read_text(encoding="utf-8")
    assert "<h2>Diagnostics</h2>" in page


@pytest.mark.slow
@pytest.mark.usefixtures("finished")
def test_replication_is_that_of_translating_the_training_text_with_kdmt_translate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    score(SAMPLE)
    sources, targets = (read_lines(TINY / f"prepare/train.{lang}") for lang in ("en", "de"))
    chosen = [i * len(sources) // 20 for i in range(20)]
    limits = ("--beam", "1", "--max-len-a", "1.2", "--max-len-b", "10", "--threads", "1")
    beginnings = [" ".join(sources[i].split()[: 3 * len(sources[i].split()) // 4]) for i in chosen]
    parts = {"whole": ("replicated", [sources[i] for i in chosen]), "beginning": ("extracted", beginnings)}
    for part, (figure, lines) in parts.items():
        stdin = "".join(f"{line}\n" for line in lines).encode()
        outputs = kdmt("translate", TINY / "teacher/average", *limits, stdin=stdin).out.splitlines()
        assert read_lines(TINY / f"score/decoded/train/teacher.seed_1.train.beam1.{part}.de") == outputs
        same = sum(output == targets[i] for output, i in zip(outputs, chosen, strict=True))
        assert row("teacher")["counts"][figure] == [same, 20]
    assert row("teacher", 2)["counts"].keys() < row("teacher")["counts"].keys()  # only the first way of decoding

    def refuse(*_: object) -> None:
        raise AssertionError("a text is decoded again")

    monkeypatch.setattr(Translator, "hypotheses", refuse)
    before = diagnostics()
    score(SAMPLE, "score.diagnostics.examples=0")
    assert diagnostics() == {**before, "examples": []}
    assert score(SAMPLE, "score.diagnostics.examples=0").err == "score: up to date, nothing to do\n"


@pytest.mark.usefixtures("finished")
def test_diagnose_prints_what_score_has_written() -> None:
    shown = kdmt("diagnose", "tiny.yaml")
    assert (shown.code, shown.err) == (0, "")
    assert "diagnostics of test" in shown.out
    assert "type/token ratio" in shown.out
    score("score.diagnostics=null")
    assert not (TINY / "diagnostics.json").exists()
    assert "Diagnostics" not in (TINY / "report.html").read_text(encoding="utf-8")
    refused = kdmt("diagnose", "tiny.yaml")
    assert refused.code == 2
    assert "diagnostics.json: not written yet: run 'kdmt score'" in refused.err
    score()  # takes the earlier state back, with its diagnostics
    assert kdmt("diagnose", "tiny.yaml").out == shown.out


@pytest.mark.usefixtures("finished")
def test_scores_of_a_version_without_diagnostics_are_up_to_date() -> None:
    manifest = TINY / "score/manifest.json"
    record = json.loads(manifest.read_text(encoding="utf-8"))
    record["settings"] = {key: value for key, value in record["settings"].items() if "diagnostics" not in key}
    del record["outputs"]["../diagnostics.json"]
    manifest.write_text(json.dumps(record), encoding="utf-8")
    (TINY / "diagnostics.json").unlink()
    assert score().err == "score: up to date, nothing to do\n"
    assert kdmt("diagnose", "tiny.yaml").code == 2


def test_words_are_split_by_the_rules_of_each_direction(tmp_path: Path) -> None:
    """Chinese has no spaces between words: its characters are the words, as for a pipeline of this direction alone."""
    diagnostics = {"train_sentences": 6}
    made = tiny_directions.document(
        directions=["en-de", "en-zh", "zh-en"], zero_shot=[], score={"diagnostics": diagnostics}
    )
    for text in (made["prepare"]["train"][0], made["prepare"]["valid"], made["prepare"]["test"]["test"]):
        text["parallel"]["zh"] = {"path": text["parallel"].pop("fr")["path"].replace(".fr", ".zh")}
    chinese = dict(zip(WORDS, "猫狗鸟马河树家书歌", strict=True))
    tiny_directions.write_text(tmp_path, more={"zh": lambda word: f"一{chinese[word]}"})
    prepared = tiny_directions.prepared(tmp_path, made)
    workspace = Workspace(load_pipeline(tmp_path / "tiny.yaml"), tmp_path / "runs")
    texts = read_texts(workspace)
    of_codes = {code: read_lines(prepared / f"test.en-{code}.raw.tgt") for code in ("de", "zh")}
    assert texts["test.en-de"].references == [line.split() for line in of_codes["de"]]
    assert texts["test.en-zh"].references == [list("".join(line.split())) for line in of_codes["zh"]]
    training = read_training(workspace, texts)
    vocabularies = {"en-de": WORDS.values(), "en-zh": [*chinese.values(), "一"], "zh-en": WORDS}
    for direction, knowledge in training.knowledge.items():
        assert knowledge.aligner is not None
        assert set(knowledge.aligner.tgt_ids) == set(vocabularies[str(direction)]), direction
    sample = training.sample
    assert sample is not None
    assert [str(each) for each in sample.directions] == [name for name in made["directions"] for _ in range(2)]
    for direction, source, beginning in zip(sample.directions, sample.sources, sample.beginnings, strict=True):
        units = list(source) if direction.source == "zh" else source.split()
        whole = ("" if direction.source == "zh" else " ").join(units[: len(units) * 75 // 100])
        assert (beginning, bool(beginning)) == (whole, True)
    lines = read_lines(prepared / "train.tgt")
    outputs = translate_sample(
        workspace,
        sample,
        name="copy",
        way=cast(Way, SimpleNamespace(beam=1)),
        translations=cast(Translations, Kept([lines[number - 1] for number in sample.text.lines])),
        made_from={},
        translator=lambda: pytest.fail("nothing is translated"),
    )
    assert outputs.whole == sample.text.targets, "a copy of the training targets has their words"


class Kept:
    """Translations that were made before."""

    def __init__(self, lines: list[str]) -> None:
        self.found = Decoded(lines, 0.0, 0.0, 0.0)

    def find(self, *_: object) -> Decoded:
        return self.found
