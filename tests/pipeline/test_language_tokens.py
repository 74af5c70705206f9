"""Decoders that begin with the token of the target language, from settings to an exported model, as commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run

import kdmt
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.vocabulary import Dictionary
from kdmt.toy.multilingual import classify

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
ROOT = Path("runs/toy-multilingual")
TRAINED = ("en-qaa", "en-qab", "qaa-en", "qab-en")
SETS = [
    *("language_tokens=source_and_decoder", "teacher.train.threads=1", "students.distilled.train.threads=1"),
    *("students.distilled.word_kd={source: cache}", "knowledge.k=8"),
]
STAGES = (("prepare",), ("teacher",), ("distill",), ("knowledge",), ("student", "--student", "distilled"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working folder after all stages but the last."""
    folder = tmp_path_factory.mktemp("tokens")
    command = [sys.executable, REPOSITORY / "data/multilingual/generate.py"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    for stage, *options in STAGES:
        run(folder, stage, REPOSITORY / "pipelines/toy-multilingual.yaml", *options, sets=SETS)
    return folder


def test_the_first_source_token_is_that_of_the_target_language(folder: Path) -> None:
    data = folder / ROOT / "prepare/data-bin"
    dictionary = Dictionary.load(data / "dict.src.txt")
    tags = (folder / ROOT / "prepare/train.tags").read_text().split()
    sources = IndexedDataset(data / "train.src-tgt.src")
    for index in range(0, len(tags), 997):
        source, target = tags[index].split("-")
        assert dictionary.string(np.asarray(sources[index][:2])) == f"<{target}> <{source}>"


@pytest.mark.parametrize("system", ["teacher", "students/distilled/seed_1"])
def test_models_translate_to_the_language_that_the_decoder_begins_with(folder: Path, system: str) -> None:
    model = kdmt.load(folder / ROOT / system, threads=1)
    for direction in TRAINED:
        source, target = direction.split("-")
        lines = (folder / f"data/multilingual/corpus/test.{source}").read_text().splitlines()[:100]
        outputs = model.for_languages(target, source).translate(lines, beam=1)
        verdicts = [classify(source, target, *pair) for pair in zip(lines, outputs, strict=True)]
        assert verdicts.count("valid") > 85, (direction, verdicts)
        assert verdicts.count("off_target") == 0


def test_an_export_translates_as_the_student(folder: Path) -> None:
    student, text = ROOT / "students/distilled/seed_1", "old dog sees cat\n"
    run(folder, "export", "--to", "ctranslate2", student, "ct2")
    for target in ("qaa", "qab"):
        options = ("--from", "en", "--to", target)
        found = [run(folder, "translate", path, *options, stdin=text)[0] for path in (student, "ct2")]
        assert found[0] == found[1]
        assert classify("en", target, text.strip(), found[0].strip()) == "valid"
    _, error = run(folder, "translate", student, "--to", "en", stdin=text, code=2)
    assert "to 'en' in several directions: choose one of qaa-en, qab-en" in error  # the source has a token too
