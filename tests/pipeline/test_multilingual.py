"""Several directions in one model, from settings to translations: pipelines/toy-multilingual.yaml, as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from commands import run

import kdmt
from kdmt.errors import UserError
from kdmt.interop.checkpoint_trim import trim_checkpoint
from kdmt.interop.trim_record import TrimSettings
from kdmt.toy.multilingual import classify

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
PIPELINE = REPOSITORY / "pipelines" / "toy-multilingual.yaml"
TRAINED = ("en-qaa", "en-qab", "qaa-en", "qab-en")
SYSTEMS = ("teacher", "distilled")
SETS = ["teacher.train.threads=1", "students.distilled.train.threads=1", "score.threads=1"]
STAGES = (("prepare",), ("teacher",), ("distill",), ("student", "--student", "distilled"), ("score",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working folder after all stages."""
    folder = tmp_path_factory.mktemp("multilingual")
    command = [sys.executable, REPOSITORY / "data/multilingual/generate.py"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    for stage, *options in STAGES:
        run(folder, stage, PIPELINE, *options, sets=SETS)
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def verdicts(folder: Path, system: str, direction: str) -> Counter[str]:
    """Return the share of each verdict on the translations of the test set."""
    source, target = direction.split("-")
    sources = lines(folder / f"data/multilingual/corpus/test.{source}")
    outputs = lines(folder / f"runs/toy-multilingual/score/{system}.seed_1.test.{direction}.beam1.tgt")
    counts = Counter(classify(source, target, *pair) for pair in zip(sources, outputs, strict=True))
    return Counter({verdict: count / len(sources) for verdict, count in counts.items()})


def test_translations_of_trained_directions_are_right(folder: Path) -> None:
    for system in SYSTEMS:
        for direction in TRAINED:
            found = verdicts(folder, system, direction)
            assert found["valid"] > 0.9, (system, direction, found)
            assert found["off_target"] == 0.0


def test_the_zero_shot_direction_is_scored_but_has_no_training_text(folder: Path) -> None:
    """A source in qaa was always translated to English: such a model writes English whatever the token."""
    root = folder / "runs/toy-multilingual"
    assert set(lines(root / "prepare/train.tags")) == set(TRAINED)
    for system in SYSTEMS:
        assert verdicts(folder, system, "qaa-qab")["off_target"] > 0.8


def test_rows_and_averages_of_directions(folder: Path) -> None:
    root = folder / "runs/toy-multilingual"
    rows = [row for row in json.loads((root / "scores.json").read_text()) if "missing" not in row]
    assert {(row["system"], row["direction"]) for row in rows} == {
        (system, direction) for system in SYSTEMS for direction in (*TRAINED, "qaa-qab")
    }
    averages = json.loads((root / "score/averages.json").read_text())
    bleu = {(row["system"], row["direction"]): row["scores"]["bleu"]["value"] for row in rows}
    groups = {"all": TRAINED, "to English": TRAINED[2:], "from English": TRAINED[:2], "zero-shot": ("qaa-qab",)}
    groups["low-resource"] = TRAINED
    page = (root / "report.html").read_text()
    assert all(text in page for text in ("averages over directions", "Low-resource directions have fewer than 100,000"))
    assert len(averages) == len(SYSTEMS) * len(groups)
    for row in averages:
        own = [bleu[row["system"], direction] for direction in groups[row["group"]]]
        assert row["directions"] == list(groups[row["group"]])
        assert row["scores"]["bleu"] == pytest.approx(sum(own) / len(own))


def test_distilled_text_keeps_its_directions(folder: Path) -> None:
    root = folder / "runs/toy-multilingual"
    tags = lines(root / "distill/distilled.tags")
    texts = [lines(root / f"distill/distilled.{side}") for side in ("src", "tgt")]
    found = Counter(classify(*tag.split("-"), *pair) for tag, *pair in zip(tags, *texts, strict=True))
    assert Counter(tags) == Counter(lines(root / "prepare/train.tags"))
    assert found["valid"] > 0.95 * len(tags)


def test_languages_choose_the_direction(folder: Path) -> None:
    root = folder / "runs/toy-multilingual"
    model = kdmt.load(root / "students/distilled/seed_1", threads=1)
    assert model.directions == [("en", "qaa"), ("en", "qab"), ("qaa", "en"), ("qab", "en"), ("qaa", "qab")]
    for target in ("qaa", "qab"):
        output = model.for_languages(target).translate(["old dog sees cat"], beam=1)[0]
        assert classify("en", target, "old dog sees cat", output) == "valid"
    with pytest.raises(UserError, match="the model does not translate to cs; it translates en-qaa, en-qab"):
        model.for_languages("cs")
    with pytest.raises(UserError, match="the model translates in several directions: choose one of en-qaa"):
        model.translate(["dog sees cat"])


def test_commands_name_the_languages_that_a_model_has(folder: Path) -> None:
    teacher = "runs/toy-multilingual/teacher"

    def translate(*options: str) -> subprocess.CompletedProcess[str]:
        program = "from kdmt.cli import main; main()"
        command = [sys.executable, "-c", program, "translate", teacher, *options]
        return subprocess.run(command, cwd=folder, input="dog sees cat\n", text=True, capture_output=True, check=False)

    found = translate("--to", "qab")
    assert found.returncode == 0, found.stderr
    assert classify("en", "qab", "dog sees cat", found.stdout.strip()) == "valid"
    for options, message in {
        (): "the model translates in several directions: choose one of en-qaa, en-qab",
        ("--to", "cs"): "no model translates to 'cs': choose from en-qaa, en-qab",
        ("--from", "qab", "--to", "qaa"): "no model translates from 'qab' to 'qaa': choose from",
    }.items():
        refused = translate(*options)
        assert refused.returncode == 2
        assert message in refused.stderr


def test_everything_is_up_to_date_afterwards(folder: Path) -> None:
    for stage, *options in STAGES:
        _, said = run(folder, stage, PIPELINE, *options, sets=SETS)
        assert "up to date, nothing to do" in said


def test_trimmed_teacher_translates_identically(folder: Path) -> None:
    """Compare the translations of a teacher with those of the same teacher without the third language."""
    corpus, teacher = folder / "data/multilingual/corpus", folder / "runs/toy-multilingual/teacher"
    texts = tuple(corpus / f"train.{language}" for language in ("en", "qaa"))
    record = trim_checkpoint(teacher, folder / "trimmed", TrimSettings(texts, languages=("en", "qaa")))
    assert record.after.vocabulary < record.before.vocabulary
    assert record.text.lost == 0
    for source, target in (("en", "qaa"), ("qaa", "en")):
        sentences = lines(corpus / f"test.{source}")[:60]
        whole, cut = (
            kdmt.load(path).for_languages(source=source, target=target) for path in (teacher, folder / "trimmed")
        )
        for beam in (1, 5):
            assert cut.translate(sentences, beam=beam) == whole.translate(sentences, beam=beam)
    with pytest.raises(UserError, match="qab"):
        kdmt.load(folder / "trimmed").for_languages(source="en", target="qab")
