"""Languages of many scripts, with and without spaces, through `prepare`, `teacher`, `distill` and `score`.

No setting that depends on the language is given: cleaning, lengths, BLEU's tokenizer and the rules for failures are the
defaults. Only models and training are small. One language for each of BLEU's tokenizers has a teacher that learns to
translate; the teachers of the others are trained for a few updates, and learn in the slow tests.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline
from scripts_corpus import SCRIPTS, make_pairs
from tiny_pipeline import kdmt, read_lines, write_lines

from kdmt.score.metrics import bleu

pytestmark = pytest.mark.pipeline

REPOSITORY = Path(__file__).parents[2]
UDHR = REPOSITORY / "../shared/data/udhr"
SIZES = {"train": 400, "valid": 30, "test": 30}
STAGES = ("prepare", "teacher", "distill", "score")
MECAB = all(importlib.util.find_spec(name) for name in ("MeCab", "ipadic"))
TOKENIZERS = {
    **dict.fromkeys(("ru", "ar", "hi"), "13a"),
    **dict.fromkeys(("th", "km"), "char"),
    "zh": "zh",
    "ja": "ja-mecab" if MECAB else "char",
}

MODEL = tiny_pipeline.MODEL | {
    **{f"{side}_embed_dim": 48 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_embed_dim": 96 for side in ("encoder", "decoder")},
    "dropout": 0.0,
}
TRAIN = tiny_pipeline.TRAIN | {
    "max_updates": 400,
    "max_tokens": 600,
    "lr": 0.006,
    "warmup_updates": 80,
    "validate_interval_updates": 80,
    "save_interval_updates": 80,
    "log_interval_updates": 80,
}
BRIEF = {
    "max_updates": 8,
    "warmup_updates": 4,
    "validate_interval_updates": 4,
    "save_interval_updates": 4,
    "log_interval_updates": 4,
}
LEARNED = ("ar", "zh")
BRIEFLY = [f"{lang}-briefly" for lang in SCRIPTS if lang not in LEARNED]
TOY = pytest.param("toy", marks=pytest.mark.slow)


@dataclass(frozen=True)
class Run:
    """A pipeline after its stages.

    Attributes:
        folder: folder of the run.
        lang: target language.
        tokenizer: expected tokenizer of BLEU.
        stderr: stage -> standard error.
    """

    folder: Path
    lang: str
    tokenizer: str
    stderr: dict[str, str]

    def load(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def scores(self) -> list[dict[str, Any]]:
        """Return the rows of the systems that were trained."""
        return [row for row in self.load("scores.json") if "missing" not in row]

    def facts(self, stage: str) -> dict[str, Any]:
        return self.load(f"{stage}/manifest.json")["facts"]

    def validations(self) -> dict[int, float]:
        """Return update -> validation BLEU of the teacher."""
        rows = map(json.loads, read_lines(self.folder / "teacher/metrics.jsonl"))
        return {row["update"]: row["bleu"] for row in rows if "bleu" in row}

    def references(self, split: str) -> list[str]:
        return read_lines(self.folder / f"prepare/{split}.raw.{self.lang}")


def run_stages(yaml: Path, sets: Iterable[str] = ()) -> dict[str, str]:
    stderr = {}
    for stage in STAGES:
        finished = kdmt(stage, yaml, *(part for setting in sets for part in ("--set", setting)))
        assert finished.code == 0, finished.err
        stderr[stage] = finished.err
    return stderr


@pytest.fixture(scope="module", params=[*LEARNED, *BRIEFLY, TOY])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run all stages for English to a language of the table, or for the toy corpus without spaces."""
    lang, _, briefly = request.param.partition("-")
    folder = tmp_path_factory.mktemp(request.param)
    with tiny_pipeline.working_in(folder), pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("kdmt.score.report_page.charts.has_charts", lambda: False)  # they take seconds
        return run_toy(folder) if lang == "toy" else run_words(folder, lang, briefly=bool(briefly))


IN_SLOW_TESTS = [pytest.param(lang, marks=pytest.mark.slow) for lang in SCRIPTS if lang not in LEARNED]
ONLY_WORDS = pytest.mark.parametrize("run", [*LEARNED, *BRIEFLY], indirect=True)
ONLY_LEARNED = pytest.mark.parametrize("run", [*LEARNED, *IN_SLOW_TESTS, TOY], indirect=True)
ONLY_LEARNED_WORDS = pytest.mark.parametrize("run", [*LEARNED, *IN_SLOW_TESTS], indirect=True)


def run_words(folder: Path, lang: str, *, briefly: bool) -> Run:
    """Train on word-for-word translations, with those of a perfect system as a training set to import."""
    pairs = make_pairs(lang, sum(SIZES.values()))
    letters = {character for pair in pairs for character in "".join(pair)}
    (folder / "text").mkdir()
    for split, size in SIZES.items():
        own, pairs = pairs[:size], pairs[size:]
        for side, code in enumerate(("en", lang)):
            write_lines(folder / f"text/{split}.{code}", [pair[side] for pair in own])
    perfect = [f"{number}\t{line}" for number, line in enumerate(read_lines(folder / f"text/train.{lang}"))]
    write_lines(folder / "text/perfect.tsv", perfect)
    settings = word_settings(lang, len(letters) + 20)
    if briefly:  # such a teacher cannot translate the training text
        settings["teacher"]["train"] |= BRIEF
        del settings["students"]["distilled"]
    (folder / "tiny.yaml").write_text(tiny_pipeline.to_yaml(settings), encoding="utf-8")
    return Run(folder / "runs/tiny", lang, TOKENIZERS[lang], run_stages(Path("tiny.yaml")))


def word_settings(lang: str, vocab_size: int) -> dict[str, Any]:
    split = {name: {"source": {"path": f"text/{name}.en"}, "target": {"path": f"text/{name}.{lang}"}} for name in SIZES}
    return json.loads(
        json.dumps(
            {
                "name": "tiny",
                "source_lang": "en",
                "target_lang": lang,
                "prepare": {
                    "train": [split["train"]],
                    "valid": split["valid"],
                    "test": {"test": split["test"]},
                    "tokenizer": {"vocab_size": vocab_size},
                    "workers": 1,
                },
                "teacher": {"model": MODEL, "train": TRAIN},
                "distill": {"block_size": 200, "executor": "inline", "imported": "text/perfect.tsv"},
                "students": {"perfect": {"data": "imported"}, "distilled": {"data": "distilled"}},
                "score": {"bootstrap_samples": 20, "speed_sentences": 2, "threads": 1, "checkpoint": "best"},
            }
        )
    )


def run_toy(folder: Path) -> Run:
    """Run pipelines/toy-th.yaml on a smaller corpus, with a smaller teacher."""
    generator = [sys.executable, REPOSITORY / "data/toy/generate.py", "--no-spaces", "--out", "data/toy/corpus-th"]
    sizes = ["--train", "1500", "--valid", "40", "--test", "40"]
    subprocess.run([*generator, *sizes], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    sets = ["prepare.tokenizer.vocab_size=800", "prepare.workers=1", "distill.executor=inline"]
    sets += ["score={checkpoint: best, beams: [5], bootstrap_samples: 20, speed_sentences: 2, threads: 1}"]
    sets += [f"teacher.model.{side}_embed_dim=64" for side in ("encoder", "decoder")]
    sets += [f"teacher.model.{side}_layers=1" for side in ("encoder", "decoder")]
    training = ["max_updates=480", "max_tokens=900", "lr=0.006", "warmup_updates=120", "threads=1"]
    training += ["validate_interval_updates=80", "validate_sentences=40", "precision=float32"]
    sets += [f"teacher.train.{setting}" for setting in training]
    stderr = run_stages(REPOSITORY / "pipelines/toy-th.yaml", sets)
    return Run(folder / "runs/toy-th", "th", "char", stderr)


def test_cleaning_keeps_the_pairs(run: Run) -> None:
    report = run.load("prepare/report.json")
    assert report["pairs_out"] >= 0.97 * report["pairs_in"] > 0
    assert "warning" not in run.stderr["prepare"]
    assert {lang: counts["changed"] for lang, counts in report["round_trip"].items()} == {"en": 0, run.lang: 0}


@ONLY_LEARNED
def test_validation_bleu_rises_and_the_best_checkpoint_is_not_the_first(run: Run) -> None:
    by_update = run.validations()
    best = int((run.folder / "teacher/best").read_text(encoding="utf-8").strip().removeprefix("checkpoint_"))
    assert len(by_update) >= 4
    assert by_update[best] == max(by_update.values())
    assert by_update[best] > by_update[min(by_update)] + 10
    assert "warning" not in run.stderr["teacher"]


@ONLY_LEARNED
def test_translations_of_a_trained_teacher_are_accepted(run: Run) -> None:
    facts = run.facts("distill")
    assert facts["failures"].get("ratio", 0) <= 0.01 * facts["num_sentences"]
    assert f"|tok:{run.tokenizer}" in facts["bleu_signature"]
    assert facts["bleu_against_reference"] > 10


def test_scores_use_the_languages_tokenizer(run: Run) -> None:
    rows = run.scores()
    assert rows
    for row in rows:
        assert f"|tok:{run.tokenizer}" in row["bleu_signature"]
        hypotheses = read_lines(run.folder / f"score/teacher.seed_1.test.beam{row['beam']}.{run.lang}")
        assert row["bleu"] == pytest.approx(bleu(hypotheses, run.references("test"), tokenize=run.tokenizer).value)


@ONLY_LEARNED
def test_scores_of_a_trained_teacher_are_not_zero(run: Run) -> None:
    assert min(row["bleu"] for row in run.scores()) > 10


def test_references_as_translations_have_a_perfect_score(run: Run) -> None:
    for split in ("valid", "test"):
        references = run.references(split)
        assert bleu(references, references, tokenize=run.tokenizer).value == pytest.approx(100)


@ONLY_WORDS
def test_translations_of_a_perfect_system_are_all_kept(run: Run) -> None:
    facts = run.facts("imported")
    assert (facts["failures"], facts["replaced_by_reference"]) == ({}, {})
    assert facts["bleu_against_reference"] == pytest.approx(100)
    assert read_lines(run.folder / f"imported/distilled.{run.lang}") == read_lines(
        run.folder / f"prepare/train.{run.lang}"
    )


@ONLY_LEARNED_WORDS
def test_a_trained_teacher_translates_word_for_word(run: Run) -> None:
    """Check the scores of a task with one right translation and few words: a loss in any stage would lower them."""
    assert max(run.validations().values()) > 40
    assert min(row["bleu"] for row in run.scores()) > 40
    facts = run.facts("distill")
    assert sum(facts["replaced_by_reference"].values()) <= 0.1 * facts["num_sentences"]
    assert "warning" not in run.stderr["distill"]


@pytest.mark.skipif(not UDHR.is_dir(), reason="no ../shared/data/udhr beside the repository")
@pytest.mark.parametrize("lang", ["ar", "bo", "hi", "ja", "km", "ko", "lo", "my", "ru", "th", "zh"])
def test_paragraphs_of_a_declaration_are_kept(lang: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    for code in ("en", lang):
        lines = read_lines(UDHR / f"udhr.{code}")
        for split, own in {"train": lines[4:], "valid": lines[:2], "test": lines[2:4]}.items():
            write_lines(tmp_path / f"text/{split}.{code}", own)
    Path("tiny.yaml").write_text(tiny_pipeline.to_yaml(word_settings(lang, 800)), encoding="utf-8")
    made = kdmt("prepare", "tiny.yaml", "--set", "prepare.tokenizer.model=bpe")
    assert made.code == 0, made.err
    report = json.loads(Path("runs/tiny/prepare/report.json").read_text(encoding="utf-8"))
    assert report["pairs_in"] == report["pairs_out"] == 46
    assert " pairs lost" not in made.err
